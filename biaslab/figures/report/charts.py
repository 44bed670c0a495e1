"""Charts of a report as SVG text: they take the page's colours, light or dark, and need no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from textwrap import wrap
from typing import Any

from biaslab._util.number_text import is_number
from biaslab.figures.styling import COLORS

__all__ = ["Series", "line_chart", "place_map"]

#: label -> points, each with ``x``, ``value``, ``lo``, ``hi`` and ``text``
Series = Mapping[str, Sequence[Mapping[str, Any]]]
_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 40
_LINE, _LETTER = 13, 5.8  # height of a line of the legend, mean width of its letters
_DODGE = 7  # pixels between methods of one place, so that their intervals do not hide each other
_SHAPES = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z",
    "M-3.6,-3.6H3.6V3.6H-3.6Z",
    "M0,-4.6L4.4,3.6H-4.4Z",
    "M0,-5L5,0L0,5L-5,0Z",
    "M0,4.6L4.4,-3.6H-4.4Z",
    "M-4.6,0L3.6,-4.4V4.4Z",
    "M4.6,0L-3.6,-4.4V4.4Z",
    "M-4,-2.4L-2.4,-4L0,-1.6L2.4,-4L4,-2.4L1.6,0L4,2.4L2.4,4L0,1.6L-2.4,4L-4,2.4L-1.6,0Z",
)


def line_chart(
    series: Series,
    *,
    x_label: str,
    y_label: str,
    ticks: Sequence[tuple[float, str]],
    reference: Mapping[str, Any] | None,
    spelled: Mapping[str, str] | None = None,
) -> str:
    """Draw shares with intervals: a line per method, told apart by colour, shape and name.

    Parameters
    ----------
    series : mapping
        Label -> points; ``x`` lies between 0 and 1 of the axis, ``value``, ``lo`` and ``hi`` are shares.
    x_label, y_label : str
        Of the axes.
    ticks : sequence of (float, str)
        Of the x axis.
    reference : mapping, optional
        ``value``, ``lo``, ``hi`` and ``text`` of the unpruned model: a dashed line with its interval.
    spelled : mapping of str, optional
        Label -> how a command line spells it: what pointing at the legend shows.

    Returns
    -------
    str
        ``<svg>``, with a title for every point; the legend is part of it, and holds every name whole.

    Examples
    --------
    >>> from biaslab.figures.report.charts import line_chart
    >>> points = [{"x": 0.5, "value": 0.8, "lo": 0.7, "hi": 0.9, "text": "FastV keep 0.1: 80 %"}]
    >>> svg = line_chart({"FastV": points}, x_label="keep", y_label="accuracy", ticks=[(0.5, "0.1")], reference=None)
    >>> svg[:4], svg.count("<title>")
    ('<svg', 1)
    """
    legend, height = _legend(list(series), spelled or {})
    values = [p[end] for points in series.values() for p in points for end in ("lo", "value") if is_number(p[end])]
    if reference is not None:
        values += [reference[end] for end in ("lo", "value") if is_number(reference[end])]
    least = max(min([*values, 0.95]) - 0.03, 0.0)
    least = int(10 * least) / 10  # a round start of the axis

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - least) / (1 - least) * (_HEIGHT - _TOP - _BOTTOM)

    def x(value: float) -> float:
        return _LEFT + 26 + value * (_WIDTH - _LEFT - _RIGHT - 52)

    label = f"{y_label} against {x_label}"
    out = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}">']
    step = 0.1 if 1 - least > 0.25 else 0.05
    for k in range(round((1 - least) / step) + 1):
        at = y(least + k * step)
        out.append(f'<path class="grid" d="M{_LEFT},{at:.1f}H{_WIDTH - _RIGHT}"/>')
        out.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{100 * (least + k * step):.0f}</text>')
    for place, text in ticks:
        out.append(f'<text x="{x(place):.1f}" y="{_HEIGHT - _BOTTOM + 17}" text-anchor="middle">{escape(text)}</text>')
    out.append(f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    middle = (_HEIGHT - _BOTTOM) / 2
    out.append(
        f'<text transform="translate(11,{middle}) rotate(-90)" text-anchor="middle">{escape(y_label)} (%)</text>'
    )
    if reference is not None and is_number(reference["value"]):
        if is_number(reference["lo"]) and is_number(reference["hi"]):
            high, low = y(reference["hi"]), y(reference["lo"])
            out.append(f'<path class="band" d="M{_LEFT},{high:.1f}H{_WIDTH - _RIGHT}V{low:.1f}H{_LEFT}Z"/>')
        out.append(
            f'<path class="reference" d="M{_LEFT},{y(reference["value"]):.1f}H{_WIDTH - _RIGHT}">'
            f"<title>{escape(reference['text'])}</title></path>"
        )
    for i, (name, points) in enumerate(series.items()):
        out += _line(name, points, i, len(series), x, y)
    return "".join([*out, *legend, "</svg>"])


def _legend(names: Sequence[str], spelled: Mapping[str, str]) -> tuple[list[str], float]:
    """Write the legend below the chart, and say how high the whole is: as many columns as names of that length leave.

    A name is broken into lines and never cut, since what tells schedules apart stands at their ends.
    """
    longest = max((len(name) for name in names), default=0)
    columns = next((n for n in (3, 2) if longest <= _letters(n)), 1)
    out, top = [], float(_HEIGHT)
    for first in range(0, len(names), columns):
        group = [wrap(name, _letters(columns)) or [""] for name in names[first : first + columns]]
        for column, lines in enumerate(group):
            i = first + column
            x, y = _LEFT + 8 + column * (_WIDTH - _LEFT) / columns, top + 12
            colour, shape = COLORS[i % len(COLORS)], _SHAPES[i % len(_SHAPES)]
            title = f"<title>{escape(spelled[names[i]])}</title>" if names[i] in spelled else ""
            text = "".join(
                f'<tspan x="{x + 10:.1f}" y="{y + _LINE * k:g}">{escape(part)}</tspan>' for k, part in enumerate(lines)
            )
            mark = f'<path d="{shape}" fill="{colour}" transform="translate({x:.1f},{y - 4:g})"/>'
            out.append(f"<g>{title}{mark}<text>{text}</text></g>")
        top += 18 + _LINE * (max(map(len, group)) - 1)
    return out, top


def _letters(columns: int) -> int:
    """Count the letters that have room in a column of the legend."""
    return int(((_WIDTH - _LEFT) / columns - 18) / _LETTER)


def _line(name: str, points: Sequence[Mapping[str, Any]], i: int, n: int, x: Any, y: Any) -> list[str]:
    colour, shape = COLORS[i % len(COLORS)], _SHAPES[i % len(_SHAPES)]
    shift = (i - (n - 1) / 2) * min(_DODGE, 44 / max(n, 1))
    drawn = [p for p in sorted(points, key=lambda p: p["x"]) if is_number(p["value"])]
    places = [(x(p["x"]) + shift, y(p["value"])) for p in drawn]
    out = []
    if len(places) > 1:
        way = "L".join(f"{a:.1f},{b:.1f}" for a, b in places)
        out.append(f'<path class="line" d="M{way}" stroke="{colour}"/>')
    for p, (a, b) in zip(drawn, places, strict=True):
        if is_number(p["lo"]) and is_number(p["hi"]):
            out.append(f'<path class="whisker" d="M{a:.1f},{y(p["lo"]):.1f}V{y(p["hi"]):.1f}" stroke="{colour}"/>')
        out.append(
            f'<path d="{shape}" fill="{colour}" transform="translate({a:.1f},{b:.1f})">'
            f"<title>{escape(p['text'])}</title></path>"
        )
    return out


def place_map(hits: Sequence[Sequence[tuple[int, int]]], *, label: str) -> str:
    """Draw the accuracy by the place of the target: a cell per place with per cent and the number of samples.

    Parameters
    ----------
    hits : (rows, columns) of (hits, n)
        Top left first.
    label : str
        What it is of, for screen readers and for who points at it.

    Returns
    -------
    str
        ``<svg>``; the darker a cell, the more hits, and its number says how many.

    Examples
    --------
    >>> from biaslab.figures.report.charts import place_map
    >>> place_map([[(3, 4), (0, 0)]], label="FastV").count("<rect")
    2
    """
    side, rows, columns = 46, len(hits), len(hits[0])
    size = f"{side * columns} {side * rows}"
    out = [f'<svg class="places" viewBox="0 0 {size}" role="img" aria-label="{escape(label)}">']
    out.append(f"<title>{escape(label)}</title>")
    for row, cells in enumerate(hits):
        for column, (n_hits, n) in enumerate(cells):
            share = n_hits / n if n else 0.0
            dark = "1" if share > 0.55 else "0"
            at = f'x="{side * column}" y="{side * row}"'
            out.append(f'<rect {at} width="{side}" height="{side}" fill-opacity="{0.04 + 0.9 * share:.2f}"/>')
            middle = f'x="{side * (column + 0.5)}" text-anchor="middle" data-dark="{dark}"'
            out.append(f'<text {middle} y="{side * row + 22}">{f"{100 * share:.0f}" if n else "-"}</text>')
            out.append(f'<text class="n" {middle} y="{side * row + 37}">n={n}</text>')
    return "".join([*out, "</svg>"])
