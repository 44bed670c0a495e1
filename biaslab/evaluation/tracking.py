"""Rows of a results table handed to a tracker of experiments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from biaslab.errors import InputError
from biaslab.evaluation.result_rows import COLUMNS, QUESTION_COLUMNS
from biaslab.evaluation.schema import KEY_FIELDS

__all__ = ["log_rows"]

_NAMES = (*KEY_FIELDS, *COLUMNS[:4], "seed")
_LOGGED = tuple(name for name in dict.fromkeys([*COLUMNS, *QUESTION_COLUMNS]) if name not in _NAMES)


def log_rows(run: Any, rows: Iterable[tuple[str, Mapping[Any, Any]]]) -> dict[str, float]:
    """Hand named rows of the table to a run of a tracker, in one call.

    Parameters
    ----------
    run : object
        With a method ``log`` that takes a dict.
    rows : iterable of (str, mapping)
        Name of a configuration, and its columns.

    Returns
    -------
    dict of str to float
        What was logged: ``"acc50/NAME"`` and so on.

    Raises
    ------
    InputError
        An object without ``log``.
    """
    if not callable(getattr(run, "log", None)):
        raise InputError(f"log_to takes a run with a method log, as wandb.init() returns it, got {run!r}")
    logged = {
        f"{column}/{name}": float(row[column])
        for name, row in rows
        for column in _LOGGED
        if not pd.isna(row.get(column))
    }
    run.log(logged)
    return logged
