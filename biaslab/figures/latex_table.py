"""Any table as LaTeX, no wider than its column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from biaslab._util.watermark import note_of
from biaslab.figures.latex_forms import FORMS, Form, environment, first_that_fits

__all__ = ["Cell", "latex_table"]

#: what a cell says, as LaTeX; with what stands behind it or below it in smaller letters, such as an interval
Cell = str | tuple[str, str]


def latex_table(
    headings: Sequence[str], rows: Sequence[Sequence[Cell]], provenance: Any, *, caption: str, label: str, left: int = 1
) -> str:
    r"""Write a booktabs table in the widest form that fits the column of the enclosing style's venue.

    Letters get smaller down to ``\footnotesize``, intervals go below their values, and at last the table goes over both
    columns (``table*``). Needs ``\usepackage{booktabs}``.

    Parameters
    ----------
    headings : sequence of str
        LaTeX; a line break makes two lines of one.
    rows : sequence of sequences of str or (str, str)
        LaTeX.
    provenance : Any
        What :func:`biaslab._util.watermark.is_rehearsal` takes; a rehearsal's table begins with a comment that says so.
    caption, label : str
        LaTeX, and the name for ``\ref``.
    left : int
        Columns that are set to the left, from the first on; the others are centred.

    Returns
    -------
    str

    Examples
    --------
    >>> from biaslab.figures.latex_table import latex_table
    >>> rows = [["FastV", ("12.1", "[11, 13]")], ["random", ("3.4", "[3, 4]")]]
    >>> latex = latex_table(["method", "ms"], rows, "model", caption="Times.", label="tab:t")
    >>> print(*latex.splitlines()[7:10], sep="\n")
    method & ms \\
    \midrule
    FastV & 12.1 {\scriptsize [11, 13]} \\
    """
    head = _header(headings)
    bodies = [(form, [*head, r"\midrule", *_lines(rows, form)]) for form in FORMS if form.intervals != "half"]
    form, body = first_that_fits(bodies)
    columns = "l" * left + "c" * (len(headings) - left)
    return environment(form, body, columns=columns, caption=caption, label=label, note=note_of(provenance))


def _header(headings: Sequence[str]) -> list[str]:
    parts = [heading.split("\n") for heading in headings]
    most = max(map(len, parts))
    return [_ended(cells) for cells in zip(*([""] * (most - len(part)) + part for part in parts), strict=True)]


def _lines(rows: Sequence[Sequence[Cell]], form: Form) -> list[str]:
    out = []
    for row in rows:
        pairs = [cell if isinstance(cell, tuple) else (cell, "") for cell in row]
        small = [rf"{{\scriptsize {text}}}" if text else "" for _, text in pairs]
        values = [value for value, _ in pairs]
        if form.stacked and any(small):
            out += [_ended(values), _ended(small)]
        else:
            out.append(_ended([" ".join(filter(None, both)) for both in zip(values, small, strict=True)]))
    return out


def _ended(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
