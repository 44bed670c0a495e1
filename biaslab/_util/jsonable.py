"""Values as JSON can hold them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["finite", "plain", "records"]

_INFINITE = float("inf")


def plain(value: Any) -> Any:
    """The value as JSON would give it back, so that what was loaded compares with what was made.

    Arrays and numpy numbers become lists and numbers, tuples lists, keys strings, anything else its text.
    """
    return json.loads(json.dumps(value, default=_to_json))


def finite(value: Any) -> Any:
    """The same value with NaN and infinities, which JSON does not have, as None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not abs(value) < _INFINITE:
        return None
    return value


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, with None for what is not known or not finite."""
    frame = frame.replace([_INFINITE, -_INFINITE], float("nan")).astype(object)
    return cast("list[dict[str, Any]]", frame.where(frame.notna(), None).to_dict("records"))


def _to_json(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
