"""Options of methods: fields that hashes leave out, and what values are refused."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import field, fields
from numbers import Integral, Real
from typing import Any

from biaslab.errors import InputError

__all__ = ["added_option", "choice", "number", "report_option", "whole_numbers"]

_WHOLE = ("int", "int | None", int, int | None)


def added_option(default: Any) -> Any:
    """Make the field of an option that came after runs had been recorded.

    `Method.options` leaves it out at its default, so that the hashes of those runs stay.
    """
    return field(default=default, metadata={"added": True})


def report_option(default: Any, *, hashed: Any) -> Any:
    """Make the field of an option that decides what a method reports, never what it keeps.

    It is no part of what the method is: `Method.options` and the label leave it out, and the hash always holds
    ``hashed`` in its place, the value that earlier runs recorded.
    """
    return field(default=default, metadata={"hashed": hashed})


def whole_numbers(options: Any) -> None:
    """Turn 3.0 into 3 in the fields of a dataclass that hold whole numbers: so labels and records write them.

    Examples
    --------
    >>> from biaslab.pruning import HiPrune, parse
    >>> word = HiPrune(object_layer=3).label
    >>> word, parse(word).object_layer
    ('hiprune:object_layer=3.0', 3)
    """
    for name in (f.name for f in fields(options) if f.type in _WHOLE):
        value = getattr(options, name)
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if whole or (isinstance(value, float) and value.is_integer()):
            object.__setattr__(options, name, int(value))


def choice(name: str, value: Any, allowed: Collection[Any]) -> None:
    """Refuse a value that is not one of ``allowed``."""
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(map(str, allowed))}; got {value!r}")


def number(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, open_low: bool = False,
    open_high: bool = False, why: str = "",
) -> None:  # fmt: skip
    """Refuse what is not a finite number between two bounds, either of which may be left out of the range.

    Examples
    --------
    >>> number("sigma", 0, 0, open_low=True)
    Traceback (most recent call last):
    biaslab.errors.InputError: sigma must be a number above 0, got 0
    """
    fits = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if fits and low <= value <= high and not (open_low and value == low) and not (open_high and value == high):
        return
    if math.isinf(high):
        span = "that is finite" if math.isinf(low) else f"above {low:g}" if open_low else f"of at least {low:g}"
    else:
        span = f"in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
    raise InputError(f"{name} must be a number {span}, got {value!r}{f': {why}' if why else ''}")
