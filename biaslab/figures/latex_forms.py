"""How tables are set in LaTeX so that they are no wider than their column: sizes of letters, places of intervals."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from biaslab._util.latex import not_for_pdflatex
from biaslab.figures.fitting import text_width
from biaslab.figures.styling import figure_width, style

__all__ = ["FORMS", "MARK", "Form", "environment", "first_that_fits", "keep_text", "latex_widths"]

MARK = r"$^{\dagger}$"
_SCRIPT = 7.0  # points of \scriptsize at 10 and at 9 points
_SLACK = 1.02  # what a table is taken wider than measured: kerning, rules, other cuts of Times


class Form(NamedTuple):
    """How a table is set: points and their name, points between columns, where intervals stand, over both columns."""

    size: float
    name: str
    gap: float
    intervals: str  # beside the values, "below" them, or as "half" their widths below
    wide: bool

    @property
    def stacked(self) -> bool:
        """Whether a method has two lines, the second with its options and the intervals."""
        return self.intervals != "beside"


FORMS = tuple(
    Form(*form, wide)
    for wide in (False, True)
    for form in (
        (10, "", 6, "beside"), (9, r"\small", 4, "beside"), (9, r"\small", 4, "below"),
        (8, r"\footnotesize", 3, "below"), (8, r"\footnotesize", 3, "half"),
    )
) + (Form(_SCRIPT, r"\scriptsize", 2, "below", True), Form(_SCRIPT, r"\scriptsize", 2, "half", True))  # fmt: skip


def keep_text(keep: float | int) -> str:
    r"""Write what is kept: a ratio as "20\,\%", a count (an int, or above 1) as it is."""
    return f"{100 * keep:g}\\,\\%" if keep <= 1 and not isinstance(keep, int | np.integer) else f"{keep:g}"


def first_that_fits(bodies: Sequence[tuple[Form, list[str]]]) -> tuple[Form, list[str]]:
    """Choose the first form in which a table is no wider than its place, else the last.

    Parameters
    ----------
    bodies : sequence of (Form, list of str)
        Lines from the headings on, each ended as LaTeX wants it, in every form that may be taken.

    Returns
    -------
    (Form, list of str)
    """
    with style(font="serif"):
        room = {wide: 72.27 * figure_width(2 if wide else 1) for wide in (False, True)}
        for form, lines in bodies:
            sized = f"\n{form.name}\n\\tabcolsep}}{{{form.gap:g}pt}}\\toprule {' '.join(lines)} \\bottomrule"
            if latex_widths(sized, lambda t, s: 72.27 * text_width(t, s)) * _SLACK <= room[form.wide]:
                return form, lines
    return bodies[-1]


def environment(form: Form, body: Sequence[str], *, columns: str, caption: str, label: str, note: str | None) -> str:
    r"""Put the lines of a table into its environment.

    Parameters
    ----------
    form : Form
    body : sequence of str
        From the headings on.
    columns : str
        Of ``tabular``, such as "lcc".
    caption, label : str
        LaTeX, and the name for ``\ref``.
    note : str, optional
        What a rehearsal is called.

    Returns
    -------
    str
    """
    name = "table*" if form.wide else "table"
    lines = [f"% {note}: these numbers mean nothing"] if note else []
    if letters := not_for_pdflatex("".join([caption, *body])):
        said = f"pdflatex cannot set {letters}: use lualatex or xelatex with a font that has them"
        warnings.warn(f"{label}: {said}, or give other names with labels= or --label", stacklevel=3)
        lines += [rf"% {said}, such as \setmainfont{{...}} of the package fontspec"]
    lines += [rf"\begin{{{name}}}[t]", r"\centering"]
    lines += [form.name] if form.name else []
    lines += [rf"\setlength{{\tabcolsep}}{{{form.gap:g}pt}}"] if form.gap != 6 else []
    lines += [
        rf"\caption{{{caption}}}",
        rf"\label{{{label}}}",
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        r"\toprule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        rf"\end{{{name}}}",
    ]
    return "\n".join(lines) + "\n"


def latex_widths(latex: str, measure: Any) -> float:
    r"""Measure how wide the ``tabular`` of a table is, in points.

    Parameters
    ----------
    latex : str
        Of `environment`.
    measure : callable
        Of (text without commands, points): points.

    Returns
    -------
    float
        Sum of the widest cells of each column and the space between; a cell over several columns widens the last.
    """
    size = next((form.size for form in FORMS if form.name and f"\n{form.name}\n" in latex), 10.0)
    gap = float(found[1]) if (found := re.search(r"\\tabcolsep\}\{([\d.]+)pt\}", latex)) else 6.0
    body = latex.split(r"\toprule")[1].split(r"\bottomrule")[0]
    widths: dict[int, float] = {}
    spanning: list[tuple[int, int, float]] = []
    for line in body.replace(r"\midrule", "").split(r"\\"):
        place = 0
        for cell in re.split(r"(?<!\\)&", line):
            cell, over = cell.strip(), 1
            if found := re.match(r"\\multicolumn\{(\d+)\}\{[^{}]*(?:\{\}[^{}]*)*\}\{(.*)\}$", cell):
                over, cell = int(found[1]), found[2]
            width = _cell_width(cell, size, measure)
            if over == 1:
                widths[place] = max(widths.get(place, 0.0), width)
            else:
                spanning.append((place, over, width))
            place += over
    count = max(widths, default=0) + 1
    for place, over, width in spanning:
        there = sum(widths.get(i, 0.0) for i in range(place, place + over)) + 2 * gap * (over - 1)
        widths[place + over - 1] = widths.get(place + over - 1, 0.0) + max(width - there, 0.0)
    return sum(widths.values()) + 2 * gap * (count - 1)


def _cell_width(cell: str, size: float, measure: Any) -> float:
    small = re.findall(r"\{\\scriptsize ([^{}]*)\}", cell)
    rest = _plain(re.sub(r"\{\\scriptsize [^{}]*\}", "", cell))
    daggers = rest.count(MARK)
    rest = re.sub(r"\\(?:textbf|emph)\{([^{}]*)\}", r"\1", rest.replace(MARK, ""))
    rest = re.sub(r"(?<!\\)\$(.*?)(?<!\\)\$", lambda m: re.sub(r"\\[a-z]+", "m", m[1]).replace("^", ""), rest)
    rest = re.sub(r"\\([&%$#_{}])", r"\1", re.sub(r"\\text[a-z]+\{\}", "~", rest.replace(r"\,", "")))
    space = 0.25 * size if small and rest.strip() else 0.0
    small = [text.replace(r"$\pm$", "+ ") for text in small]  # of about the width of a plus sign
    indent = size if r"\quad" in rest else 0.0
    rest = rest.replace(r"\quad", "").strip()
    return measure(rest, size) + space + sum(measure(t, _SCRIPT) for t in small) + daggers * 0.4 * size + indent


def _plain(latex: str) -> str:
    r"""Write what `escape` made of letters beyond ASCII as plain letters of about their width."""
    latex = latex.replace(r"{\fontencoding{T1}\selectfont", "{")
    latex = re.sub(r"\\(?:[`'^~=.\"]|[uvHrcdbk](?=\{))\{([A-Za-z])\}", r"\1", latex)
    latex = re.sub(r"\\(?:acute|grave|hat|bar|breve|dot|ddot|mathring|check|tilde|mathrm)(?=\{)", "", latex)
    latex = re.sub(r"\\(?!text(?:ascii|back))[A-Za-z]+\{\}", "m", latex)
    for _ in range(3):  # an accent over an accent over a letter
        latex = re.sub(r"\{([A-Za-z])\}", r"\1", latex)
    return "".join("M" if unicodedata.east_asian_width(char) in "WF" else char for char in latex)
