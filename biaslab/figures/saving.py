"""Every figure as PDF for the paper, PNG for the eye, CSV for whoever wants the numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from biaslab import __version__
from biaslab._util.command_line import current_command
from biaslab._util.files import atomic_write, writing_to
from biaslab._util.tables import write_table
from biaslab._util.watermark import note_of
from biaslab.errors import InputError
from biaslab.figures.letters import without_glyph_warnings
from biaslab.figures.styling import style

__all__ = ["FORMATS", "check_formats", "png_bytes", "save"]

_TAKEN_IN = 3  # times that a figure is laid out again
_HAIR = 0.5  # points: less does not stick out


def save(
    display: Any,
    path: str | Path,
    *,
    formats: Sequence[str] = ("pdf", "png"),
    command: str | None = None,
    close: bool = False,
) -> list[Path]:
    """Write the figure in each format (``path.pdf``, ``path.png`` at 300 dpi) and ``path.csv`` (what is drawn).

    The files say what they are: title, where the numbers come from, and the command line that made them stand in their
    metadata.

    Parameters
    ----------
    display : Display
        It is plotted first if it was not. One whose data come from a rehearsal carries its note in the corner and in a
        column of the CSV.
    path : str or Path
        Without extension; one of .pdf, .png, .svg, .csv is dropped. Missing folders are made.
    formats : sequence of str
        Of "pdf", "png" and "svg".
    command : str, optional
        What made the figure; default the command line of biaslab that is being run, if there is one.
    close : bool
        Release the figure afterwards; set it when writing many.

    Returns
    -------
    list of Path
        The files, the CSV last.

    Raises
    ------
    InputError
        ``display`` has nothing to draw, or an unknown format.
    RunFolderError
        The place cannot be written.

    Examples
    --------
    >>> import matplotlib as mpl, pandas as pd
    >>> mpl.use("Agg")
    >>> from tempfile import TemporaryDirectory
    >>> from biaslab.figures import AurocDisplay
    >>> display = AurocDisplay.from_table(pd.DataFrame({"layer": [0, 1], "score": "raw", "auroc": [0.5, 0.7]}))
    >>> with TemporaryDirectory() as folder:
    ...     [file.name for file in save(display, f"{folder}/auroc", close=True)]
    ['auroc.pdf', 'auroc.png', 'auroc.csv']
    """
    if not hasattr(display, "plot") or not isinstance(getattr(display, "data", None), pd.DataFrame):
        raise InputError(f"{type(display).__name__} is not a Display: make one with its from_...() method")
    formats = check_formats(formats)
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".csv", *(f".{kind}" for kind in FORMATS)) else path
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in (*formats, "csv")]
    with style():
        if getattr(display, "figure_", None) is None:
            display.plot()
        figure, note = display.figure_, note_of(display.data)
        facts = _facts(display, note, current_command() if command is None else command)
        try:
            with without_glyph_warnings(), _settled(figure), _stamped(figure, note):
                frame, drawn = _frame(figure), [BytesIO() for _ in formats]
                for kind, buffer in zip(formats, drawn, strict=True):  # a file is whole or not there
                    figure.savefig(buffer, format=kind, bbox_inches=frame, metadata=_METADATA[kind](facts))
        finally:
            if close:
                plt.close(figure)
    with writing_to(f"the figure {stem}"):
        stem.parent.mkdir(parents=True, exist_ok=True)
        for file, buffer in zip(files, drawn, strict=False):
            atomic_write(file, buffer.getvalue())
        write_table(display.data, files[-1], display.data)
    return files


def check_formats(formats: Sequence[str]) -> list[str]:
    """Refuse formats that are not written, before anything is drawn; each is taken once.

    Raises
    ------
    InputError
        None, or one that is unknown.
    """
    chosen = list(dict.fromkeys([formats] if isinstance(formats, str) else formats))
    if not chosen or (unknown := [kind for kind in chosen if kind not in FORMATS]):
        what = f"unknown format {unknown[0]!r}" if chosen else "no format"
        raise InputError(f"{what}: choose of {', '.join(FORMATS)}")
    return chosen


def _facts(display: Any, note: str | None, command: str | None) -> dict[str, str]:
    """Say what a figure shows, where its numbers come from and what made it; what is not known is left out."""
    heading = getattr(display, "heading", None)
    facts = {"title": heading() if heading else type(display).__name__, "note": note or "", "command": command or ""}
    facts["source"] = getattr(display, "source", "") or ""
    return {name: text for name, text in facts.items() if text}


def _of_pdf(facts: Mapping[str, str]) -> dict[str, Any]:
    subject = "; ".join(facts[name] for name in ("source", "note") if name in facts)
    named = {"Title": facts["title"], "Subject": subject, "Keywords": facts.get("command"), "Creator": _MAKER}
    # no date inside: the same figure is the same file
    return {"CreationDate": None, **{name: text for name, text in named.items() if text}}


def _of_png(facts: Mapping[str, str]) -> dict[str, Any]:
    names = {"title": "Title", "source": "Source", "note": "Comment", "command": "Description"}
    return {"Software": _MAKER, **{name: facts[fact] for fact, name in names.items() if fact in facts}}


def _of_svg(facts: Mapping[str, str]) -> dict[str, Any]:
    said = "; ".join(facts[name] for name in ("note", "command") if name in facts)
    named = {"Title": facts["title"], "Source": facts.get("source"), "Description": said, "Creator": _MAKER}
    return {"Date": None, **{name: text for name, text in named.items() if text}}


_MAKER = f"biaslab {__version__}"
_METADATA: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {"pdf": _of_pdf, "png": _of_png, "svg": _of_svg}
#: what figures are written as
FORMATS = tuple(_METADATA)


def png_bytes(figure: Figure, note: str | None) -> bytes:
    """Draw a figure as PNG at its own resolution, framed and stamped as :func:`save` does."""
    buffer = BytesIO()
    with style(), without_glyph_warnings(), _settled(figure), _stamped(figure, note):
        figure.savefig(buffer, format="png", dpi="figure", bbox_inches=_frame(figure))
    return buffer.getvalue()


@contextmanager
def _settled(figure: Figure) -> Iterator[None]:
    """Lay the figure out and hold it so: a layout engine moves axes at every draw, out of a frame taken before.

    The engine is taken off, not replaced by its placeholder, for which every file would be drawn twice.
    """
    engine = figure.get_layout_engine()
    figure.draw_without_rendering()
    if engine is not None:
        _drawn_in(figure, engine)
    with plt.rc_context({"figure.autolayout": False, "figure.constrained_layout.use": False}):
        figure.set_layout_engine(None)  # an engine that the settings name would come in its place
    try:
        yield
    finally:
        if engine is not None:
            figure.set_layout_engine(engine)


@contextmanager
def _stamped(figure: Figure, note: str | None) -> Iterator[None]:
    """Write the note in grey above the upper right corner, where nothing is drawn, while the figure is written."""
    text = None if note is None else figure.text(1.0, 1.0, note, ha="right", va="bottom", fontsize=6, color="0.55")
    try:
        yield
    finally:
        if text is not None:
            text.remove()


def _drawn_in(figure: Figure, engine: Any) -> None:
    """Take in the axes where names of ticks or points, which no layout engine counts, stick out at a side."""
    left = right = 0.0
    for _ in range(_TAKEN_IN):
        width, drawn = figure.get_figwidth(), figure.get_tightbbox()
        over = max(-drawn.x0, 0.0), max(drawn.x1 - width, 0.0)
        if max(over) * 72 < _HAIR or not hasattr(engine, "get") or "rect" not in engine.get():
            return
        left, right = left + over[0] / width, right + over[1] / width
        engine.set(rect=(left, 0, 1 - left - right, 1))
        figure.draw_without_rendering()


def _frame(figure: Figure) -> Bbox:
    """Frame the full width, so that the figure is printed at the size its text was set for, and the height as drawn."""
    drawn, width = figure.get_tightbbox(), figure.get_figwidth()
    left, right = (over if abs(over) * 72 > _HAIR else 0.0 for over in (min(0.0, drawn.x0), max(0.0, drawn.x1 - width)))
    return Bbox([[left, drawn.y0 - 0.02], [width + right, drawn.y1 + 0.02]])
