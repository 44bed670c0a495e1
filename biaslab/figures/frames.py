"""Results in any of their forms as one table of comparable rows, for the figures and tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from biaslab._util.watermark import is_rehearsal, stamp_table
from biaslab.errors import InputError
from biaslab.evaluation.schema import current_name

__all__ = ["UNPRUNED", "label_rows", "read_results"]

UNPRUNED = "none"  # name of the run without pruning
_ONE_OF = ("dataset", "split", "expression_type", "model", "seed")  # rows that differ here do not belong in one curve
_TFLOPS = ["tflops_vision", "tflops_projector", "tflops_decoder"]


def read_results(results: Any, **choices: Any) -> pd.DataFrame:
    """Read the rows of results that may be compared with each other.

    Parameters
    ----------
    results : Results, DataFrame, str or Path
        What ``evaluate`` returned (its ``table``), a table with the columns of results.csv, or the path of a run folder
        or csv file.
    **choices
        column=value. ``expression_type`` defaults to "all" where there is such a row; ``layer`` keeps the unpruned row.

    Returns
    -------
    DataFrame
        With ``tflops`` (vision + projector + decoder) added where its parts are there.

    Raises
    ------
    InputError
        No rows left, or several data sets, splits, expression types or models left: the message says what to choose.
    """
    table = _load(results)
    if missing := [c for c in ("method", "keep") if c not in table]:
        raise InputError(f"results have no column {missing[0]!r}: pass what evaluate() returned, or its results.csv")
    if choices.get("expression_type") is None and "expression_type" in table and "all" in set(table["expression_type"]):
        choices["expression_type"] = "all"
    for column, value in choices.items():
        if value is not None and column in table:
            table = _rows_with(table, column, value)
    _check_comparable(table)
    table = table.reset_index(drop=True)
    if set(_TFLOPS) <= set(table):
        table["tflops"] = table[_TFLOPS].sum(axis=1, skipna=False)
    models = list(table["model"].dropna().astype(str)) if "model" in table else []
    return stamp_table(table, next((name for name in models if is_rehearsal(name)), None))


def metric_of(table: pd.DataFrame, metric: str | None, known: Mapping[str, str]) -> str:
    """Choose the column that is drawn: what is asked for, else the accuracy that the results have.

    Raises
    ------
    InputError
        Unknown, or not among the columns.
    """
    if metric is None:
        metric = "accuracy" if "acc50" not in table and "accuracy" in table else "acc50"
    if metric not in known:
        raise InputError(f"unknown metric {metric!r}: choose one of {', '.join(known)}")
    if metric not in table:
        raise InputError(f"results have no column {metric!r}: choose one of {[m for m in known if m in table]}")
    return metric


def _rows_with(table: pd.DataFrame, column: str, value: Any) -> pd.DataFrame:
    """Take the rows that have the value, or one of several, in a column."""
    values = list(value) if isinstance(value, list | tuple | set | range) else [value]
    rows = table[column].isin(values)
    if column == "layer":  # the unpruned model has no prune layer and belongs to all
        rows |= table["method"] == UNPRUNED
    if not rows.any():
        options = sorted(table[column].dropna().astype(str).unique())
        raise InputError(f"results have no {column} {value!r}: choose one of {', '.join(options)}")
    return table[rows]


def _check_comparable(table: pd.DataFrame) -> None:
    for column in _ONE_OF:
        if column in table and table[column].nunique() > 1:
            options = ", ".join(sorted(table[column].astype(str).unique()))
            raise InputError(f"results hold several values of {column} ({options}): choose one with {column}=...")


def label_rows(table: pd.DataFrame, labels: Mapping[str, str] | None = None) -> pd.Series:
    """Name each row by its method, or ``labels[options_hash]``, ``labels[method]``; variants get their options hash."""
    labels = labels or {}
    names = table["method"].map(lambda m: labels.get(m, m))
    if "options_hash" in table:
        code = table["options_hash"].fillna("").astype(str)
        variants = code.groupby(table["method"]).transform("nunique") > 1
        names = names.where(~variants, names + " #" + code.str[:6])
        names = code.map(labels).fillna(names)
    return names


def _load(results: Any) -> pd.DataFrame:
    if isinstance(results, pd.DataFrame):
        return results.copy()
    if hasattr(results, "table"):
        return results.table.copy()
    if isinstance(results, str | Path):
        path = Path(results)
        path = path / "results.csv" if path.is_dir() else path
        try:
            table = pd.read_csv(path, dtype={"options_hash": str, "profile_hash": str})
        except (OSError, ValueError) as err:
            raise InputError(f"cannot read results from {path}: {' '.join(str(err).split())}") from None
        return table.rename(columns=current_name)
    raise InputError(f"results must be what evaluate() returned, a DataFrame or a path, not {type(results).__name__}")
