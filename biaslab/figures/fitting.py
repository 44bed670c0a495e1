"""Texts and legends of figures, broken so that they are no wider than the figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.legend import Legend
from matplotlib.textpath import text_to_path
from matplotlib.transforms import ScaledTranslation

from biaslab.figures.letters import borrow_letters, families_with

__all__ = [
    "abreast",
    "beside_each_other",
    "inward_ticks",
    "legend_below",
    "snug",
    "text_width",
    "title_above",
    "wrapped",
]

_STEP, _ABREAST = 3.0, 20.0  # points from a series to the next, and of all of them at most
_APART = 0.08  # inches between panels and the title or legend
_LAID_OUT = 0.75  # how long a colour bar is at least, in parts of what it is before the layout
_END = 0.08  # of a colour bar: names of ticks within go inwards
_SIDE = 0.06  # inches that stay free at both sides


def text_width(text: str, size: float) -> float:
    """Measure a line of text in inches, in the font of the enclosing style.

    Parameters
    ----------
    text : str
        One line.
    size : float
        Points.

    Returns
    -------
    float

    Examples
    --------
    >>> from biaslab.figures.styling import style
    >>> with style("cvpr"):
    ...     round(text_width("ten letters", 8), 2)
    0.43
    """
    if not text:
        return 0.0
    families, _ = families_with(text, mpl.rcParams["font.family"])
    font = FontProperties(size=size, family=families)
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72


def wrapped(text: str, inches: float, size: float) -> str:
    """Break a text into lines that are no wider than so many inches; a word that is wider is broken too.

    Parameters
    ----------
    text : str
        Line ends in it stay.
    inches : float
        Width.
    size : float
        Points.

    Returns
    -------
    str

    Examples
    --------
    >>> from biaslab.figures.styling import style
    >>> with style("cvpr"):
    ...     wrapped("the second sheep from the left", 0.8, 8).split(chr(10))
    ['the second sheep', 'from the left']
    """
    return "\n".join(line for part in text.split("\n") for line in _lines(part, inches, size))


def _lines(text: str, inches: float, size: float) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if text_width(longer, size) <= inches:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        lines[-1] = word
        while text_width(lines[-1], size) > inches and len(lines[-1]) > 1:
            whole = lines.pop()
            fits = next(n for n in range(len(whole) - 1, 0, -1) if n == 1 or text_width(whole[:n], size) <= inches)
            lines += [whole[:fits], whole[fits:]]
    return lines


def title_above(figure: Figure, text: str, size: float = 8) -> None:
    """Write a title over the whole figure, in as many lines as its width asks for."""
    figure.suptitle(wrapped(text, figure.get_figwidth() - 2 * _SIDE, size), fontsize=size)


def legend_below(
    figure: Figure, handles: Sequence[Any], names: Sequence[str], *, most: int = 8, size: float = 7
) -> Legend:
    """Put a legend under the axes, in as many columns as the figure is wide enough for, all of about one length.

    A figure has room for one line of it; what the others take makes it higher, not its panels lower.

    Parameters
    ----------
    figure : Figure
        With a layout engine that makes room for it.
    handles, names : sequences of Artist and of str
        Its entries.
    most : int
        Columns at most.
    size : float
        Points.

    Returns
    -------
    Legend
    """
    room = figure.get_figwidth() - 2 * _SIDE
    names = [wrapped(name, room - 0.45, size) for name in names]
    for columns in range(min(most, len(names)), 0, -1):
        columns = -(-len(names) // -(-len(names) // columns))  # the last line as full as the others
        legend = figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=size)
        borrow_letters(legend)  # before it is measured
        if columns == 1 or legend.get_window_extent().width / figure.dpi <= room:
            break
        legend.remove()
    lines, height = -(-len(names) // columns), legend.get_window_extent().height / figure.dpi
    figure.set_figheight(figure.get_figheight() + height * (lines - 1) / lines)
    return legend


def abreast(count: int, room: float = _ABREAST) -> float:
    """Say how many inches several series take that stand beside each other."""
    return min(_STEP, room / max(count - 1, 1)) * (count - 1) / 72


def beside_each_other(drawn: ErrorbarContainer, ax: Axes, i: int, count: int, *, room: float = _ABREAST) -> None:
    """Move the i-th of several series aside by some points, so that markers and bars at one x do not hide each other.

    The data stay what they are: only where they are drawn moves.

    Parameters
    ----------
    drawn : ErrorbarContainer
        Of ``ax.errorbar``.
    ax : Axes
    i, count : int
        Which series of how many.
    room : float
        Points from the first to the last.
    """
    step = min(_STEP, room / max(count - 1, 1))
    aside = ScaledTranslation(step * (i - (count - 1) / 2) / 72, 0, ax.figure.dpi_scale_trans)
    line, caps, bars = drawn.lines
    for artist in (line, *caps, *bars):
        if artist is not None:
            artist.set_transform(ax.transData + aside)


def snug(figure: Figure, axes: Sequence[Axes]) -> None:
    """Make a figure as low as what is drawn: panels of fixed aspect leave space above the legend and below the title.

    Parameters
    ----------
    figure : Figure
        With a layout engine.
    axes : sequence of Axes
        Its panels.
    """
    for _ in range(2):  # lower panels are narrower
        figure.draw_without_rendering()
        inches = figure.dpi_scale_trans.inverted()
        panels = [ax.get_tightbbox() for ax in [*axes, *(a for a in figure.axes if a not in axes)]]
        boxes = [box.transformed(inches) for box in panels if box is not None]
        legends = [legend.get_window_extent().transformed(inches).y1 for legend in figure.legends]
        title = getattr(figure, "_suptitle", None)
        top = figure.get_figheight() if title is None else title.get_window_extent().transformed(inches).y0
        free = top - max(box.y1 for box in boxes) + min(box.y0 for box in boxes) - max(legends, default=0.0) - _APART
        if free < _APART / 2:
            return
        figure.set_figheight(figure.get_figheight() - free)


def inward_ticks(bar: Any, ticks: Sequence[float], names: Sequence[str], size: float = 6) -> None:
    """Tick a horizontal colour bar; the first and last name stay within its ends.

    Parameters
    ----------
    bar : Colorbar
    ticks : sequence of float
    names : sequence of str
    size : float
        Points.
    """
    low, high = bar.ax.get_xlim()
    inches = _LAID_OUT * bar.ax.get_window_extent().width / bar.ax.figure.dpi
    places = [(tick - low) / (high - low) for tick in ticks]
    shown = list(zip(ticks, places, names, strict=True))
    while len(shown) > 3 and not _stand_apart([(place, name) for _, place, name in shown], inches, size):
        middle = len(shown) // 2
        shown = [entry for i, entry in enumerate(shown) if (i - middle) % 2 == 0]
    bar.set_ticks([tick for tick, _, _ in shown], labels=[name for _, _, name in shown])
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=size, length=2, pad=1)
    for (_, place, _), label in zip(shown, bar.ax.get_xticklabels(), strict=True):
        label.set_horizontalalignment(_side(place))


def _side(place: float) -> str:
    """Say from which side a name begins that stands at a place (0 to 1) of a bar: at the ends it goes inwards."""
    return "left" if place < _END else "right" if place > 1 - _END else "center"


def _stand_apart(names: Sequence[tuple[float, str]], inches: float, size: float) -> bool:
    """Whether names at these places of a bar so long leave a little space between each other."""
    before = {"left": 0.0, "center": 0.5, "right": 1.0}
    end = -1.0
    for place, name in names:
        width = text_width(name, size)
        start = place * inches - before[_side(place)] * width
        if start < end + _APART:
            return False
        end = start + width
    return True
