"""A line for dataclasses that hold arrays: their shapes in the place of their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import fields
from typing import Any

__all__ = ["OneLine"]

_SHOWN = 4  # entries of a list, a dict or a set that are written out


class OneLine:
    """A dataclass (``repr=False``) whose text is one line: arrays by their shape, long lists by their length.

    Examples
    --------
    >>> from biaslab.maps.moments import Moments
    >>> Moments.of([[0.1, 0.3]])
    Moments(n=1, mean=array(1, 2), var=array(1, 2), log_mean=array(1, 2), log_var=array(1, 2))
    """

    __slots__ = ()

    def __repr__(self) -> str:
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.repr}  # type: ignore[arg-type]
        said = ", ".join(f"{name}={_short(value)}" for name, value in values.items() if not _empty(value))
        return f"{type(self).__name__}({said})"


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, (Mapping, Sequence, Set)) and not len(value))


def _short(value: Any) -> str:
    if hasattr(value, "shape"):
        return f"array({', '.join(map(str, value.shape))})"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, (Mapping, Sequence, Set)):
        # what keeps the type of a list of numbers or names: all others are said by their number
        plain = len(value) <= _SHOWN and all(isinstance(each, (str, int)) for each in value)
        plain = plain and not isinstance(value, Mapping)
        return repr(value) if plain else f"<{len(value)} {'entries' if len(value) != 1 else 'entry'}>"
    if callable(value) and hasattr(value, "__name__"):
        return value.__name__
    return " ".join(repr(value).split())
