"""Result tables for papers: booktabs LaTeX through pandas' Styler, and the CSV with n and intervals beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from biaslab._util.files import writing_to
from biaslab._util.latex import escape
from biaslab._util.tables import latex_table, write_table
from biaslab.figures.frames import UNPRUNED, label_rows, metric_of, read_results

__all__ = ["results_latex", "results_table", "save_table"]

_METRICS = {
    "acc50": "Acc@0.5",
    "accuracy": "accuracy",
    "retention": "accuracy kept",
    "miou": "mean IoU",
    "target_kept": "target kept",
}


def results_table(
    results: Any, *, metric: str | None = None, labels: Mapping[str, str] | None = None, **choices: Any
) -> pd.DataFrame:
    """Read a long table of one metric from results, a line per cell.

    Parameters
    ----------
    results : Results, DataFrame, str or Path
        What ``evaluate`` returned, a table with the columns of results.csv, or the path of a run folder or csv file.
    metric : str, optional
        "acc50", "retention", "miou" or "target_kept"; default the accuracy: "acc50", of a run on questions "accuracy".
    labels : mapping of str, optional
        Method or options hash -> name.
    **choices
        layer=, dataset=, split=, expression_type= (default "all"), model= where the results hold several.

    Returns
    -------
    DataFrame
        Columns label, method, layer, keep, n, errors, unparsed, truncated, value, lo, hi, tflops, where the results
        have them; values are shares in 0..1.

    Raises
    ------
    InputError
        Unknown metric, or rows that cannot be compared.

    Examples
    --------
    >>> results = pd.DataFrame({"method": ["none", "random"], "keep": [1.0, 0.5], "n": 300, "acc50": [0.9, 0.8]})
    >>> results_table(results)
        label  method  keep    n  value
    0    none    none   1.0  300    0.9
    1  random  random   0.5  300    0.8
    """
    table = read_results(results, **choices)
    metric = metric_of(table, metric, _METRICS)
    names = {metric: "value", f"{metric}_lo": "lo", f"{metric}_hi": "hi"}
    table = table.assign(label=label_rows(table, labels)).rename(columns=names)
    columns = ["label", "method", "layer", "keep", "n", "errors", "unparsed", "truncated"]
    columns += ["value", "lo", "hi", "tflops"]
    return table[[c for c in columns if c in table]]


def results_latex(
    table: pd.DataFrame, *, metric: str = "acc50", caption: str | None = None, label: str | None = None
) -> str:
    r"""Write a booktabs ``table`` of methods (rows, by prune layer) against keep ratio, "value [lo, hi]" in per cent.

    The best value of each layer and keep ratio is bold; needs ``\usepackage{booktabs}``.

    Parameters
    ----------
    table : DataFrame
        Of :func:`results_table`.
    metric : str
        Named by the caption.
    caption : str, optional
        LaTeX; default names metric, number of expressions and interval.
    label : str, optional
        For ``\ref``.

    Returns
    -------
    str

    Examples
    --------
    >>> results = pd.DataFrame({"method": ["random", "fastv"], "keep": 0.5, "n": 300, "acc50": [0.7, 0.8]})
    >>> latex = results_latex(results_table(results), caption="Accuracy")
    >>> print(*(line for line in latex.splitlines() if "0 " in line or "{80" in line), sep="\n")
    random & 70.0 \\
    fastv & \textbf{80.0} \\
    """
    pruned = table[table["method"] != UNPRUNED]
    keeps = sorted(pruned["keep"].unique(), reverse=True)
    layers = sorted(pruned["layer"].dropna().unique()) if "layer" in table else []
    rows: dict[tuple[str, str], dict[str, str]] = {}
    unpruned = table[table["method"] == UNPRUNED].to_dict("records")
    for row in unpruned:
        rows[("", "no pruning")] = {"all": _cell(row, False)}
    for layer in layers or [None]:
        part = pruned if layer is None else pruned[pruned["layer"].isin([layer])]
        best = part.groupby("keep")["value"].max()
        for row in part.to_dict("records"):
            cells = rows.setdefault(("" if layer is None else str(int(layer)), escape(row["label"])), {})
            cells[_keep(row["keep"])] = _cell(row, row["value"] == best[row["keep"]])
    columns = ["all"] * bool(unpruned) + [_keep(k) for k in keeps]
    frame = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=columns).fillna("")
    frame.index = pd.MultiIndex.from_tuples(frame.index, names=["$K$", "method"])
    if not layers:
        frame = frame.droplevel(0)
    if caption is None:
        low, high = int(table["n"].min()), int(table["n"].max())
        count = f"{low}" if low == high else f"{low} to {high}"
        caption = (
            f"{_METRICS[metric]} (\\%) with 95\\,\\% intervals over images, "
            f"n = {count} expressions. Columns: visual tokens kept from decoder layer $K$ on."
        )
    alignment = "l" * frame.index.nlevels + "c" * len(frame.columns)
    return latex_table(frame, table, caption=caption, columns=alignment, label=label)


def save_table(results: Any, path: str | Path, *, metric: str | None = None, **kwargs: Any) -> list[Path]:
    """Write ``path.tex`` and ``path.csv``.

    Parameters
    ----------
    results : Results, DataFrame, str or Path
        As for :func:`results_table`.
    path : str or Path
        Without extension; one of .tex, .csv is dropped. Missing folders are made.
    metric : str, optional
        "acc50", "retention", "miou" or "target_kept"; default the accuracy: "acc50", of a run on questions "accuracy".
    **kwargs
        As of :func:`results_table`, and ``caption``, ``label`` of :func:`results_latex`.

    Returns
    -------
    list of Path
        The LaTeX file and the CSV.

    Raises
    ------
    RunFolderError
        The place cannot be written.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> results = pd.DataFrame({"method": ["random", "fastv"], "keep": 0.5, "n": 300, "acc50": [0.7, 0.8]})
    >>> with TemporaryDirectory() as folder:
    ...     [file.name for file in save_table(results, f"{folder}/main", caption="Accuracy")]
    ['main.tex', 'main.csv']
    """
    text = {name: kwargs.pop(name, None) for name in ("caption", "label")}
    metric = metric_of(read_results(results), metric, _METRICS) if metric is None else metric
    table = results_table(results, metric=metric, **kwargs)
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".tex", ".csv") else path
    latex = results_latex(table, metric=metric, **text)
    with writing_to(f"the table {stem}"):
        csv, tex = write_table(table, stem, table, latex=latex)
    return [tex, csv]


def _keep(keep: float | int) -> str:
    return f"{100 * keep:g}\\,\\%" if keep <= 1 and not isinstance(keep, int | np.integer) else f"{keep:g}"


def _cell(row: Mapping[Any, Any], best: bool) -> str:
    value = f"{100 * row['value']:.1f}"
    value = f"\\textbf{{{value}}}" if best else value
    lo, hi = (100 * row.get(k, np.nan) for k in ("lo", "hi"))
    return f"{value} {{\\scriptsize [{lo:.1f}, {hi:.1f}]}}" if np.isfinite(lo + hi) else value
