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


def read_results(results: Any, **choices: Any) -> pd.DataFrame:
    """The rows of results that may be compared with each other.

    Parameters
    ----------
    results : Results (its ``table``), a DataFrame with the columns of results.csv, or the path of a run
        folder or csv file.
    choices : column=value. ``expression_type`` defaults to "all" where there is such a row; ``layer`` keeps the
        unpruned row.

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
        if value is None or column not in table:
            continue
        wanted = list(value) if isinstance(value, list | tuple | set | range) else [value]
        chosen = table[column].isin(wanted)
        if column == "layer":  # the unpruned model has no prune layer and belongs to all
            chosen |= table["method"] == UNPRUNED
        if not chosen.any():
            known = sorted(table[column].dropna().astype(str).unique())
            raise InputError(f"results have no {column} {value!r}: choose one of {', '.join(known)}")
        table = table[chosen]
    for column in _ONE_OF:
        if column in table and table[column].nunique() > 1:
            known = ", ".join(sorted(table[column].astype(str).unique()))
            raise InputError(f"results hold several values of {column} ({known}): choose one with {column}=...")
    table = table.reset_index(drop=True)
    parts = ["tflops_vision", "tflops_projector", "tflops_decoder"]
    if set(parts) <= set(table):
        table["tflops"] = table[parts].sum(axis=1, skipna=False)
    models = table["model"].dropna().astype(str) if "model" in table else []
    return stamp_table(table, next((name for name in models if is_rehearsal(name)), None))


def label_rows(table: pd.DataFrame, labels: Mapping[str, str] | None = None) -> pd.Series:
    """A name per row: the method's, or ``labels[options_hash]`` / ``labels[method]``; variants get their
    options hash.
    """
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
