"""Values as JSON can hold them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["finite", "plain", "records"]

_INFINITE = float("inf")


def plain(value: Any) -> Any:
    """Convert a value to what JSON would give back, so that what was loaded compares with what was made.

    Parameters
    ----------
    value : Any
        Arrays and numpy numbers become lists and numbers, tuples lists, keys strings, anything else its text.

    Returns
    -------
    Any
        Of dicts with str keys, lists, str, numbers, bool and None.

    Examples
    --------
    >>> import numpy as np
    >>> from biaslab._util.jsonable import plain
    >>> plain({1: (np.float32(0.5), np.arange(2))})
    {'1': [0.5, [0, 1]]}
    """
    return json.loads(json.dumps(value, default=_to_json))


def finite(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have, by None.

    Parameters
    ----------
    value : Any
        Also within dicts, lists and tuples.

    Returns
    -------
    Any
        The same value otherwise; tuples become lists.

    Examples
    --------
    >>> from biaslab._util.jsonable import finite
    >>> finite({"r2": float("nan"), "n": 3})
    {'r2': None, 'n': 3}
    """
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not abs(value) < _INFINITE:
        return None
    return value


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """List the rows of a table, with None for what is missing or not finite.

    Parameters
    ----------
    frame : DataFrame
        Any table.

    Returns
    -------
    list of dict
        Column -> value.

    Examples
    --------
    >>> import pandas as pd
    >>> from biaslab._util.jsonable import records
    >>> records(pd.DataFrame({"layer": [0, 1], "r2": [0.3, float("nan")]}))
    [{'layer': 0, 'r2': 0.3}, {'layer': 1, 'r2': None}]
    """
    frame = frame.replace([_INFINITE, -_INFINITE], float("nan")).astype(object)
    return cast("list[dict[str, Any]]", frame.where(frame.notna(), None).to_dict("records"))


def _to_json(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
