"""A table of results as LaTeX, no wider than its column: in smaller letters, or over both columns, if it must."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from biaslab._util.latex import escape
from biaslab._util.text import last_part
from biaslab._util.watermark import note_of
from biaslab.figures.frames import UNPRUNED
from biaslab.figures.latex_forms import FORMS, MARK, Form, environment, first_that_fits, keep_text

__all__ = ["results_latex"]

_METRICS = {
    "acc50": "Acc@0.5",
    "accuracy": "Accuracy",
    "retention": "Accuracy in parts of that without pruning",
    "miou": "Mean IoU",
    "target_kept": "Share of the target's tokens that are kept",
}
_ALPHA = 0.05


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
    head = " & ".join(["tokens kept", *map(keep_text, keeps)]) + r" \\"
    bodies = [(form, [head, *(_row(row, len(keeps)) for row in _rows(table, keeps, form))]) for form in FORMS]
    form, body = first_that_fits(bodies)
    return environment(
        form, body, columns="l" + "c" * len(keeps),
        caption=_caption(table, metric, form) if caption is None else caption,
        label=f"tab:{metric}" if label is None else label, note=note_of(table),
    )  # fmt: skip


#: a row's cells; None is a rule; a single cell is a heading over all columns
_Row = Sequence[str] | None


def _rows(table: pd.DataFrame, keeps: Sequence[float], form: Form) -> list[_Row]:
    rows: list[_Row] = []
    runs = list(dict.fromkeys(table["run"])) if "run" in table else [""]
    for run in runs:
        part = table if "run" not in table else table[table["run"] == run]
        if run:
            rows += [None, [rf"\emph{{{escape(run)}}}"]]
        rows += _rows_of_run(part, keeps, form)
    return rows


def _rows_of_run(table: pd.DataFrame, keeps: Sequence[float], form: Form) -> list[_Row]:
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


def _value(row: Mapping[Any, Any], best: float | None = None) -> str:
    text = f"{100 * row['value']:.1f}"
    if best is not None and row["value"] == best:
        return f"\\textbf{{{text}}}"
    return text + (MARK if row.get("p_vs_best", np.nan) > _ALPHA else "")


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


def _caption(table: pd.DataFrame, metric: str, form: Form) -> str:
    """Say all that a reader needs who sees nothing but the table."""
    several = "run" in table
    model, dataset, split = (_single(table, c) for c in ("model", "dataset", "split"))
    what = f"{_METRICS[metric]} (\\%)" + (f" of {model}" if model else "")
    what += (f" on {dataset}" if dataset else "") + (f" ({split})" if split else "")
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
    beside = [*(["run"] if several else []), *(["layer"] if len(layers) > 1 else [])]
    place = " and ".join([", ".join(["its column", *beside[:-1]]), *beside[-1:]])
    sentences.append(f"Bold: best of {place}")
    if "p_vs_best" in table and table["p_vs_best"].notna().any():
        count = int(table["p_vs_best"].notna().sum())
        sentences[-1] += (
            f"; {MARK}: not significantly different from it (paired sign-flip test over images"
            f"{' of a run' if several else ''}, two-sided, Holm-adjusted over the table's {count} comparisons, "
            f"$p > {_ALPHA:g}$)"
        )
        if untested := _untested(pruned, len(layers) > 1):
            sentences.append(f"Not tested: {', '.join(untested)}")
    return ". ".join(sentences) + "."


def _untested(pruned: pd.DataFrame, named: bool) -> list[str]:
    """Name the columns, with run and layer, in which methods stand beside each other and no pair was tested.

    No dagger means a significant difference only where there was a test.
    """
    columns = [*(["run"] if "run" in pruned else []), *(["layer"] if named else []), "keep"]
    out = []
    for place, rows in pruned.groupby(columns, sort=False, dropna=False):
        if len(rows) > 1 and rows["p_vs_best"].isna().all():
            said: dict[str, Any] = dict(zip(columns, place, strict=True))
            words = [escape(str(said["run"]))] if said.get("run") else []
            words += [f"layer {int(said['layer'])}"] if pd.notna(said.get("layer", np.nan)) else []
            out.append(" ".join([*words, f"at {keep_text(said['keep'])}"]))
    return out


def _single(table: pd.DataFrame, column: str) -> str:
    values = list(table[column].dropna().unique()) if column in table else []
    return escape(last_part(str(values[0]))) if len(values) == 1 else ""
