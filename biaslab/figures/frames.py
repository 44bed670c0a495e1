"""Results in any of their forms as one table of comparable rows, for the figures and tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from biaslab._util.text import last_part
from biaslab._util.watermark import is_rehearsal, stamp_table
from biaslab.errors import InputError
from biaslab.evaluation.schema import current_name

__all__ = [
    "UNPRUNED",
    "comparable_runs",
    "configuration_keys",
    "label_rows",
    "metric_of",
    "parts_of",
    "read_results",
    "rows_of_methods",
]

UNPRUNED = "none"  # name of the run without pruning
_ONE_OF = ("dataset", "split", "expression_type", "model", "seed")  # rows that differ here do not belong in one curve
_CHOICES = (*_ONE_OF, "layer", "keep", "method", "options_hash", "profile_hash")  # what results have to choose rows by
_TFLOPS = ["tflops_vision", "tflops_projector", "tflops_decoder"]


def read_results(results: Any, **choices: Any) -> pd.DataFrame:
    """Read the rows of results that may be compared with each other.

    Parameters
    ----------
    results : Results, DataFrame, str or Path
        What ``evaluate`` returned (its ``table``), a table with the columns of results.csv, or the path of a run folder
        or csv file.
    **choices
        column=value. ``expression_type`` defaults to "all" where there is such a row; ``layer`` and ``keep`` leave the
        unpruned row.

    Returns
    -------
    DataFrame
        With ``tflops`` (vision + projector + decoder) added where its parts are there, and ``spelled``: the method with
        its options where they are known, else its name.

    Raises
    ------
    InputError
        A choice of no column of the results, no rows left, or several data sets, splits, expression types or models
        left: the message says what to choose.
    """
    table, labels = _load(results)
    if missing := [c for c in ("method", "keep") if c not in table]:
        raise InputError(f"results have no column {missing[0]!r}: pass what evaluate() returned, or its results.csv")
    if choices.get("expression_type") is None and "expression_type" in table and "all" in set(table["expression_type"]):
        choices["expression_type"] = "all"
    for column, value in choices.items():
        if column not in table and (value is not None or column not in _CHOICES):
            there = ", ".join(name for name in _CHOICES if name in table)
            raise InputError(f"results cannot be filtered by {column!r}: choose of {there}")
        if value is not None:
            table = _rows_with(table, column, value)
    _check_comparable(table)
    table = table.reset_index(drop=True)
    codes = table["options_hash"] if "options_hash" in table else table["method"]
    table["spelled"] = codes.map(labels).fillna(table["method"])
    if set(_TFLOPS) <= set(table):
        table["tflops"] = table[_TFLOPS].sum(axis=1, skipna=False)
    models = list(table["model"].dropna().astype(str)) if "model" in table else []
    return stamp_table(table, next((name for name in models if is_rehearsal(name)), None))


def metric_of(table: pd.DataFrame, metric: str | None, known: Collection[str]) -> str:
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
    if column in ("layer", "keep"):  # the unpruned model has neither and belongs to all
        unpruned = table["method"] == UNPRUNED
        if not (rows & ~unpruned).any() and not unpruned.all():
            rows[:] = False
        else:
            rows |= unpruned
    if not rows.any():
        options = sorted(table.loc[table["method"] != UNPRUNED, column].dropna().astype(str).unique())
        raise InputError(f"results have no {column} {value!r}: choose one of {', '.join(options)}")
    return table[rows]


def _check_comparable(table: pd.DataFrame) -> None:
    for column in _ONE_OF:
        if column in table and table[column].nunique() > 1:
            options = ", ".join(sorted(table[column].astype(str).unique()))
            raise InputError(f"results hold several values of {column} ({options}): choose one with {column}=...")


def label_rows(table: pd.DataFrame, labels: Mapping[str, str] | None = None) -> pd.Series:
    """Name each row for print: as ``labels`` has it by options hash, label or name of the method, else as papers do.

    Variants of a method whose options are not known (a bare CSV) get the beginning of their options hash. A label given
    to a method stands for each of its variants and schedules, with what tells them apart behind it.
    """
    from biaslab.pruning.display_names import display_names, told_apart  # with torch behind it
    from biaslab.pruning.schedule import is_schedule

    labels = labels or {}
    shown = display_names(table["spelled"])
    code = (
        table["options_hash"].fillna("").astype(str) if "options_hash" in table else table["method"].map(lambda _: "")
    )
    many = code.groupby(table["method"]).transform("nunique") > 1
    blank = table["spelled"] == table["method"]  # nothing is said of options
    unclear = code.where(blank).groupby(table["method"]).transform("nunique") > 1
    names = []
    for method, spelled, own, several, hashed in zip(
        table["method"], table["spelled"], code, many, unclear & blank, strict=True
    ):
        name = shown[spelled]
        behind = f" #{own[:6]}" if hashed else name[name.find(" (") :] if " (" in name else ""
        if is_schedule(spelled):
            behind = f" ({name})"
        if own and own in labels:
            names.append(labels[own])
        elif spelled in labels and not (several and spelled == method):
            names.append(labels[spelled])
        elif method in labels:
            names.append(labels[method] + (behind if several else ""))
        else:
            names.append(labels.get(name, name) + (behind if hashed else ""))
    apart = told_apart(dict(enumerate(names)), dict(enumerate(table["spelled"])))
    return pd.Series(list(apart.values()), index=table.index, dtype=object)


def rows_of_methods(table: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Take the rows of some methods, in that order, and of the unpruned model.

    Parameters
    ----------
    table : DataFrame
        Of :func:`read_results`, with ``label``.
    methods : sequence of str
        Names of methods (all their variants), labels with options, options hashes, or names for print.

    Raises
    ------
    InputError
        One that no row has.
    """
    columns = [name for name in ("spelled", "method", "options_hash", "label") if name in table]
    known = [set(table[name].dropna()) for name in columns]
    for method in methods:
        if not any(method in names for names in known):
            choices = dict.fromkeys(table["spelled"])
            raise InputError(f"results have no method {method!r}: choose from {', '.join(choices)}")
    place = pd.Series(len(methods), index=table.index)
    for i, method in reversed(list(enumerate(methods))):
        place[(table[columns] == method).any(axis=1)] = i
    place[table["method"] == UNPRUNED] = -1
    return table[place < len(methods)].iloc[place[place < len(methods)].argsort(kind="stable")]


def comparable_runs(results: Any, **choices: Any) -> pd.DataFrame:
    """Read one result or several: the column ``run`` says which of them belong into one panel.

    Parameters
    ----------
    results : Results, DataFrame, str, Path, sequence or mapping of these
        Several of one model, data set and seed are one comparison: a configuration that more than one of them holds is
        taken from the first. What differs in these has a panel of its own, named by what differs, or by the keys of a
        mapping.
    **choices
        As of :func:`read_results`, for each.

    Returns
    -------
    DataFrame
        ``run`` is empty where there is one panel.

    Raises
    ------
    InputError
        As :func:`read_results`, or no results.
    """
    parts = parts_of(results)
    if not isinstance(results, Mapping | list | tuple):
        return read_results(results, **choices).assign(run="")
    named = isinstance(results, Mapping)
    tables = {name: read_results(part, **choices) for name, part in parts.items()}
    differing = [
        c for c in _ONE_OF if c != "expression_type" and len({_one(table, c) for table in tables.values()}) > 1
    ]
    for i, (name, table) in enumerate(tables.items()):
        said = ", ".join(
            text for c in differing if (text := _one(table, c) if c != "seed" else f"seed {_one(table, c)}")
        )
        table["run"] = str(name) if named else said
        table["part"] = i
    whole = pd.concat(list(tables.values()), ignore_index=True)
    note = next((table.attrs for table in tables.values() if table.attrs), {})
    whole = whole[~(whole["run"] + "|" + configuration_keys(whole)).duplicated()].reset_index(drop=True)
    whole.attrs.update(note)
    return whole


def parts_of(results: Any) -> dict[Any, Any]:
    """List results, one or several, by the keys of a mapping or else by number.

    Raises
    ------
    InputError
        There are none.
    """
    if isinstance(results, Mapping):
        parts = dict(results)
    else:
        parts = dict(enumerate(results if isinstance(results, list | tuple) else [results]))
    if not parts:
        raise InputError("no results to draw: pass what evaluate() returned, or run folders")
    return parts


def configuration_keys(table: pd.DataFrame) -> pd.Series:
    """Name configurations alike whether they are read from a file or not."""
    texts = [table[c].fillna("").astype(str) for c in ("method", "options_hash", "profile_hash") if c in table]
    # the count 1 is not the share 1.0
    kind = table["keep"].map(lambda v: "one" if isinstance(v, int | np.integer) and v == 1 else "")
    numbers = [table[c].map(lambda v: "" if pd.isna(v) else f"{float(v):g}") for c in ("keep", "layer") if c in table]
    return pd.Series(
        ["|".join(own) for own in zip(*texts, *numbers, kind, strict=True)], index=table.index, dtype=object
    )


def _one(table: pd.DataFrame, column: str) -> str:
    values = list(table[column].dropna()) if column in table else []
    return last_part(str(values[0])) if len(values) else ""


def _load(results: Any) -> tuple[pd.DataFrame, dict[str, str]]:
    """Open results: the table, and by options hash the labels of the methods, where these are known."""
    if isinstance(results, pd.DataFrame):
        return results.copy(), {}
    if hasattr(results, "table"):
        return results.table.copy(), dict(getattr(results, "labels", {}))
    if isinstance(results, str | Path):
        path = Path(results)
        folder = path if path.is_dir() else path.parent
        path = path / "results.csv" if path.is_dir() else path
        try:
            table = pd.read_csv(path, dtype={"options_hash": str, "profile_hash": str})
        except (OSError, ValueError) as err:
            raise InputError(f"cannot read results from {path}: {' '.join(str(err).split())}") from None
        return table.rename(columns=current_name), _labels_in(folder)
    raise InputError(f"results must be what evaluate() returned, a DataFrame or a path, not {type(results).__name__}")


def _labels_in(folder: Path) -> dict[str, str]:
    from biaslab.evaluation.recorded_methods import label_of
    from biaslab.evaluation.run_folder import RUN_FILE, read_run

    if not (folder / RUN_FILE).exists():
        return {}
    configs = read_run(folder)["identity"]["configurations"]
    return {c["options_hash"]: label_of(c) for c in configs if c["method"] != UNPRUNED}
