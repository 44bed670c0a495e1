"""Tables of a fit that stay in the profile's file: a float32 array per column."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

__all__ = ["QUALITY", "quality_table", "to_columns", "to_table"]

QUALITY = "quality"  # part of a layer's arrays that holds the quality of its heads; layout keys hold slashes

_WHOLE = ("epoch", "layer", "head")  # columns of whole numbers


def to_columns(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Keep a table of numbers as arrays; rows that hold what is no finite number, which no file takes, are left out.

    Examples
    --------
    >>> to_columns(pd.DataFrame({"epoch": [0, 1], "train": [2.5, float("nan")]}))
    {'epoch': array([0.], dtype=float32), 'train': array([2.5], dtype=float32)}
    """
    finite = table[np.isfinite(table.to_numpy(dtype=float)).all(axis=1)]
    return {str(name): finite[name].to_numpy(dtype=np.float32) for name in table}


def to_table(columns: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Make the table of its columns again; without any an empty one.

    Examples
    --------
    >>> to_table({"epoch": np.array([0.0]), "train": np.array([2.5])}).to_dict("records")
    [{'epoch': 0, 'train': 2.5}]
    """
    table = pd.DataFrame({name: values.astype(float) for name, values in columns.items()})
    return table.astype({name: int for name in _WHOLE if name in table})


def quality_table(arrays: Mapping[int, Mapping[str, Mapping[str, np.ndarray]]]) -> pd.DataFrame:
    """Make the table of heads' quality of what a profile has learned, by layer; empty where it was not measured."""
    tables = [to_table(arrays[layer][QUALITY]) for layer in sorted(arrays) if arrays[layer].get(QUALITY)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
