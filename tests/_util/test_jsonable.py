"""Values as JSON can hold them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from biaslab._util.jsonable import finite, plain, records


def test_plain_values_are_what_json_gives_back():
    value = {"a": np.float32(1.5), "b": np.arange(3), "c": (1, 2), 4: Path("x"), "d": None}
    assert plain(value) == {"a": 1.5, "b": [0, 1, 2], "c": [1, 2], "4": "x", "d": None}
    assert plain(plain(value)) == plain(value)


def test_what_is_not_finite_is_none_however_deep():
    assert finite({"a": [float("nan"), (1.0, -float("inf"))], "b": True}) == {"a": [None, [1.0, None]], "b": True}


def test_rows_of_a_table_are_json():
    frame = pd.DataFrame({"n": pd.array([1, None], dtype="Int64"), "x": [np.nan, np.inf], "s": ["a", None],
                          "k": np.array([3, 4])})  # fmt: skip
    rows = records(frame)
    assert rows == [{"n": 1, "x": None, "s": "a", "k": 3}, {"n": None, "x": None, "s": None, "k": 4}]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert records(pd.DataFrame({"x": [0.1 + 0.2]})) == [{"x": 0.1 + 0.2}]
