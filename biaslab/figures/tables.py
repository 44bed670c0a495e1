"""Result tables for papers: booktabs LaTeX through pandas' Styler, and the CSV with n and intervals beside
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from biaslab._util.latex import escape
from biaslab._util.tables import latex_table, write_table
from biaslab.errors import InputError, RunFolderError
from biaslab.figures.frames import UNPRUNED, label_rows, read_results

__all__ = ["results_latex", "results_table", "save_table"]

_METRICS = {
    "acc50": "Acc@0.5",
    "retention": "accuracy kept",
    "miou": "mean IoU",
    "target_kept": "target kept",
}


def results_table(
    results: Any, metric: str = "acc50", labels: Mapping[str, str] | None = None, **choices: Any
) -> pd.DataFrame:
    """Long table of one metric: label, method, layer, keep, n, errors, unparsed, value, lo, hi, tflops (one
    line per cell).

    Parameters are those of :meth:`~biaslab.figures.AccuracyDisplay.from_results`; values stay shares in 0..1.
    """
    if metric not in _METRICS:
        raise InputError(f"unknown metric {metric!r}: choose one of {', '.join(_METRICS)}")
    table = read_results(results, **choices)
    if metric not in table:
        raise InputError(f"results have no column {metric!r}: choose one of {[m for m in _METRICS if m in table]}")
    names = {metric: "value", f"{metric}_lo": "lo", f"{metric}_hi": "hi"}
    table = table.assign(label=label_rows(table, labels)).rename(columns=names)
    kept = ["label", "method", "layer", "keep", "n", "errors", "unparsed", "value", "lo", "hi", "tflops"]
    return table[[c for c in kept if c in table]]


def results_latex(
    table: pd.DataFrame, caption: str | None = None, label: str | None = None, metric: str = "acc50"
) -> str:
    r"""Booktabs ``table`` of methods (rows, by prune layer) against keep ratio, "value [lo, hi]" in per cent.

    The best value of each layer and keep ratio is bold; needs ``\usepackage{booktabs}``.

    Parameters
    ----------
    table : of :func:`results_table`.
    caption : default names metric, number of expressions and interval.
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
            f"{_METRICS[metric]} (\\%) with 95\\,\\% intervals (bootstrap over images), "
            f"n = {count} expressions. Columns: visual tokens kept from decoder layer $K$ on."
        )
    columns = "l" * frame.index.nlevels + "c" * len(frame.columns)
    return latex_table(frame, table, caption=caption, columns=columns, label=label)


def save_table(results: Any, path: str | Path, metric: str = "acc50", **kwargs: Any) -> list[Path]:
    """Write ``path.tex`` and ``path.csv``; keyword arguments as in :func:`results_table`, and ``caption``,
    ``label``.

    Raises
    ------
    RunFolderError
        The place cannot be written.
    """
    text = {name: kwargs.pop(name, None) for name in ("caption", "label")}
    table = results_table(results, metric, **kwargs)
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".tex", ".csv") else path
    try:
        csv, tex = write_table(table, stem, table, latex=results_latex(table, metric=metric, **text))
    except OSError as err:
        raise RunFolderError(f"cannot write table {stem}: {err}; choose a folder you can write to") from None
    return [tex, csv]


def _keep(keep: float | int) -> str:
    return f"{100 * keep:g}\\,\\%" if keep <= 1 and not isinstance(keep, int | np.integer) else f"{keep:g}"


def _cell(row: Mapping[str, Any], best: bool) -> str:
    value = f"{100 * row['value']:.1f}"
    value = f"\\textbf{{{value}}}" if best else value
    lo, hi = (100 * row.get(k, np.nan) for k in ("lo", "hi"))
    return f"{value} {{\\scriptsize [{lo:.1f}, {hi:.1f}]}}" if np.isfinite(lo + hi) else value
