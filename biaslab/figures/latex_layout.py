"""A table of results as LaTeX, no wider than its column: in smaller letters, or over both columns, if it must."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from biaslab._util.latex import escape
from biaslab._util.watermark import note_of
from biaslab.figures.fitting import text_width
from biaslab.figures.frames import UNPRUNED
from biaslab.figures.styling import figure_width, style

__all__ = ["latex_widths", "results_latex"]

_METRICS = {
    "acc50": "Acc@0.5",
    "accuracy": "Accuracy",
    "retention": "Accuracy in parts of that without pruning",
    "miou": "Mean IoU",
    "target_kept": "Share of the target's tokens that are kept",
}
_ALPHA = 0.05
_MARK = r"$^{\dagger}$"
_SCRIPT = 7.0  # points of \scriptsize at 10 and at 9 points
_SLACK = 1.02  # what a table is taken wider than measured: kerning, rules, other cuts of Times


class _Form(NamedTuple):
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


_FORMS = tuple(
    _Form(*form, wide)
    for wide in (False, True)
    for form in (
        (10, "", 6, "beside"), (9, r"\small", 4, "beside"), (9, r"\small", 4, "below"),
        (8, r"\footnotesize", 3, "below"), (8, r"\footnotesize", 3, "half"),
    )
)  # fmt: skip


def results_latex(
    table: pd.DataFrame, *, metric: str = "acc50", caption: str | None = None, label: str | None = None
) -> str:
    r"""Write a booktabs table: methods (rows, by run and layer) against what is kept, "value [lo, hi]" in per cent.

    The first row is the unpruned model's. The best value of each layer and keep is bold; where the table tells, those
    that do not differ significantly from it have a dagger. The widest form is taken that fits the column of the
    enclosing :func:`~biaslab.figures.style`'s venue, at last ``table*`` over both columns; widths are measured in a cut
    of Times. Needs ``\usepackage{booktabs}``.

    Parameters
    ----------
    table : DataFrame
        Of :func:`results_table`.
    metric : str
        Named by the caption.
    caption : str, optional
        LaTeX; default one that stands alone: metric, model, data set, n, layer, intervals, what is marked and by which
        test.
    label : str, optional
        For ``\ref``; default "tab:" and the metric.

    Returns
    -------
    str

    Examples
    --------
    >>> from biaslab.figures import results_table
    >>> results = pd.DataFrame({"method": ["none", "random", "fastv"], "keep": [1, 0.5, 0.5], "acc50": [0.9, 0.7, 0.8]})
    >>> latex = results_latex(results_table(results.assign(n=300)))
    >>> print(*latex.splitlines()[5:-2], sep="\n")
    \begin{tabular}{@{}lc@{}}
    \toprule
    tokens kept & 50\,\% \\
    \midrule
    no pruning & 90.0 \\
    \midrule
    random & 70.0 \\
    FastV & \textbf{80.0} \\
    \bottomrule
    """
    keeps = _keeps(table)
    form = _fitting(table, keeps)
    rows = _rows(table, keeps, form)
    environment = "table*" if form.wide else "table"
    note = note_of(table)
    lines = [f"% {note}: these numbers mean nothing"] if note else []
    lines += [rf"\begin{{{environment}}}[t]", r"\centering"]
    lines += [form.name] if form.name else []
    lines += [rf"\setlength{{\tabcolsep}}{{{form.gap:g}pt}}"] if form.gap != 6 else []
    lines += [
        rf"\caption{{{_caption(table, metric, form) if caption is None else caption}}}",
        rf"\label{{{f'tab:{metric}' if label is None else label}}}",
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{@{{}}l{'c' * len(keeps)}@{{}}}}",
        r"\toprule",
        " & ".join(["tokens kept", *map(_keep, keeps)]) + r" \\",
        *(_row(row, len(keeps)) for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\end{{{environment}}}",
    ]
    return "\n".join(lines) + "\n"


def latex_widths(latex: str, measure: Any) -> float:
    r"""Measure how wide the ``tabular`` of a table is, in points.

    Parameters
    ----------
    latex : str
        Of `results_latex`.
    measure : callable
        Of (text without commands, points): points.

    Returns
    -------
    float
        Sum of the widest cells of each column and the space between; a cell over several columns widens the last.
    """
    size = next((s for name, s in ((r"\small", 9.0), (r"\footnotesize", 8.0)) if f"\n{name}\n" in latex), 10.0)
    gap = float(found[1]) if (found := re.search(r"\\tabcolsep\}\{([\d.]+)pt\}", latex)) else 6.0
    body = latex.split(r"\toprule")[1].split(r"\bottomrule")[0]
    widths: dict[int, float] = {}
    spanning: list[tuple[int, int, float]] = []
    for line in body.replace(r"\midrule", "").split(r"\\"):
        place = 0
        for cell in line.strip().split(" & "):
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
    rest = re.sub(r"\{\\scriptsize [^{}]*\}", "", cell)
    daggers = rest.count(_MARK)
    rest = re.sub(r"\\(?:textbf|emph)\{([^{}]*)\}", r"\1", rest.replace(_MARK, ""))
    rest = rest.replace(r"\,", "").replace("$K$", "K").replace(r"\%", "%").replace(r"\_", "_").replace(r"\#", "#")
    space = 0.25 * size if small and rest.strip() else 0.0
    small = [text.replace(r"$\pm$", "+ ") for text in small]  # of about the width of a plus sign
    indent = size if r"\quad" in rest else 0.0
    rest = rest.replace(r"\quad", "").strip()
    return measure(rest, size) + space + sum(measure(t, _SCRIPT) for t in small) + daggers * 0.4 * size + indent


def _fitting(table: pd.DataFrame, keeps: Sequence[float]) -> _Form:
    """Choose the first form that fits."""
    with style(font="serif"):
        room = {wide: 72.27 * figure_width(2 if wide else 1) for wide in (False, True)}
        for form in _FORMS:
            lines = [_row(row, len(keeps)) for row in _rows(table, keeps, form)]
            head = " & ".join(["tokens kept", *map(_keep, keeps)]) + r" \\"
            sized = f"\n{form.name}\n\\tabcolsep}}{{{form.gap:g}pt}}\\toprule {head} {' '.join(lines)} \\bottomrule"
            if latex_widths(sized, lambda t, s: 72.27 * text_width(t, s)) * _SLACK <= room[form.wide]:
                return form
    return _FORMS[-1]


#: a row's cells; None is a rule; a single cell is a heading over all columns
_Row = Sequence[str] | None


def _rows(table: pd.DataFrame, keeps: Sequence[float], form: _Form) -> list[_Row]:
    rows: list[_Row] = []
    runs = list(dict.fromkeys(table["run"])) if "run" in table else [""]
    for run in runs:
        part = table if "run" not in table else table[table["run"] == run]
        if run:
            rows += [None, [rf"\emph{{{escape(run)}}}"]]
        rows += _rows_of_run(part, keeps, form)
    return rows


def _rows_of_run(table: pd.DataFrame, keeps: Sequence[float], form: _Form) -> list[_Row]:
    pruned = table[table["method"] != UNPRUNED]
    write = _half_width if form.intervals == "half" else _interval
    rows: list[_Row] = []
    for row in table[table["method"] == UNPRUNED].to_dict("records"):
        over = " ".join(filter(None, (_value(row), write(row))))
        cell = over if len(keeps) == 1 else rf"\multicolumn{{{len(keeps)}}}{{c}}{{{over}}}"
        rows += [None, [escape(row["label"]), cell]]
    layers = sorted(pruned["layer"].dropna().unique()) if "layer" in pruned else []
    for layer in layers or [None]:
        part = pruned if layer is None else pruned[pruned["layer"].isin([layer])]
        rows.append(None)
        if len(layers) > 1:
            rows.append([rf"\emph{{before layer {int(layer)}}}"])  # type: ignore[arg-type]
        best = part.groupby("keep")["value"].max()
        for name in dict.fromkeys(part["label"]):
            cells = {row["keep"]: row for row in part[part["label"] == name].to_dict("records")}
            values = [_value(cells[k], best[k]) if k in cells else "" for k in keeps]
            intervals = [write(cells[k]) if k in cells else "" for k in keeps]
            if form.stacked:
                first, options = _two_lines(escape(name))
                rows.append([first, *values])
                if any(intervals) or options:
                    rows.append([options, *intervals])
            else:
                rows.append(
                    [escape(name), *(" ".join(filter(None, both)) for both in zip(values, intervals, strict=True))]
                )
    return rows


def _row(row: _Row, columns: int) -> str:
    if row is None:
        return r"\midrule"
    if len(row) == 1:
        return rf"\multicolumn{{{columns + 1}}}{{@{{}}l}}{{{row[0]}}} \\"
    return " & ".join(row) + r" \\"


def _keeps(table: pd.DataFrame) -> list[Any]:
    return sorted(table.loc[table["method"] != UNPRUNED, "keep"].unique(), reverse=True)


def _keep(keep: float | int) -> str:
    return f"{100 * keep:g}\\,\\%" if keep <= 1 and not isinstance(keep, int | np.integer) else f"{keep:g}"


def _value(row: Mapping[Any, Any], best: float | None = None) -> str:
    text = f"{100 * row['value']:.1f}"
    if best is not None and row["value"] == best:
        return f"\\textbf{{{text}}}"
    return text + (_MARK if row.get("p_vs_best", np.nan) > _ALPHA else "")


def _interval(row: Mapping[Any, Any]) -> str:
    lo, hi = (100 * row.get(k, np.nan) for k in ("lo", "hi"))
    return f"{{\\scriptsize [{lo:.1f}, {hi:.1f}]}}" if np.isfinite(lo + hi) else ""


def _half_width(row: Mapping[Any, Any]) -> str:
    lo, hi = (100 * row.get(k, np.nan) for k in ("lo", "hi"))
    return f"{{\\scriptsize $\\pm${(hi - lo) / 2:.1f}}}" if np.isfinite(lo + hi) else ""


def _two_lines(name: str) -> tuple[str, str]:
    """Put the options of a method, which stand in brackets behind its name, into a line of their own."""
    first, bracket, options = name.partition(" (")
    return first, rf"\quad ({options}" if bracket else ""


def _caption(table: pd.DataFrame, metric: str, form: _Form) -> str:
    """Say all that a reader needs who sees nothing but the table."""
    several = "run" in table
    model, dataset, split = ("" if several else _single(table, c) for c in ("model", "dataset", "split"))
    what = f"{_METRICS[metric]} (\\%)" + (f" of {model}" if model else "")
    what += (f" on {dataset}" if dataset else "") + (f" ({split})" if dataset and split else "")
    low, high = int(table["n"].min()), int(table["n"].max())
    thing = "questions" if metric == "accuracy" else "expressions"
    sentences = [
        what + f", n = {low if low == high else f'{low} to {high}'} {thing}, by the share of visual tokens kept"
    ]
    pruned = table[table["method"] != UNPRUNED]
    layers = sorted(pruned["layer"].dropna().unique()) if "layer" in pruned else []
    if len(layers) == 1:
        sentences[0] += f" from decoder layer {int(layers[0])} on"
    elif layers:
        sentences[0] += " from the layer named on"
    if "lo" in table and np.isfinite(table["lo"].astype(float)).any():
        sentences.append(
            ("$\\pm$: half the widths of" if form.intervals == "half" else "Brackets:")
            + " 95\\,\\% intervals over images (bootstrap; Wilson's of fewer than 50 images)"
        )
    sentences.append("Bold: best of its column" + (" and layer" if len(layers) > 1 else ""))
    if "p_vs_best" in table and table["p_vs_best"].notna().any():
        count = int(table["p_vs_best"].notna().sum())
        sentences[-1] += (
            f"; {_MARK}: not significantly different from it (paired sign-flip test over images, two-sided, "
            f"Holm-adjusted over the table's {count} comparisons, $p > {_ALPHA:g}$)"
        )
    return ". ".join(sentences) + "."


def _single(table: pd.DataFrame, column: str) -> str:
    values = list(table[column].dropna().unique()) if column in table else []
    return escape(str(values[0]).rstrip("/").rsplit("/", 1)[-1]) if len(values) == 1 else ""
