"""Numbers, intervals and lists as sentences write them: what is not a finite number is never printed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

__all__ = [
    "count_text",
    "has_values",
    "interval_text",
    "is_number",
    "list_text",
    "p_text",
    "percent_cell",
    "percent_text",
    "runs_text",
]

_FINEST = 4  # decimals
_LEAST_P = 1e-4  # below it a p-value is written as an inequality


def has_values(row: Mapping[Any, Any], *names: str) -> bool:
    """Whether the row has a finite number under all of these names."""
    return all(is_number(row.get(name)) for name in names)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; missing ones (None, NaN, NA) and infinities are not."""
    try:
        return math.isfinite(value)
    except TypeError:
        return False


def percent_cell(row: Mapping[Any, Any], name: str) -> str:
    """Write a share in per cent as "41 [38, 44]".

    Without brackets where the interval is not known, "" where nothing is.
    """
    value, lo, hi = (100 * row[n] if has_values(row, n) else np.nan for n in (name, f"{name}_lo", f"{name}_hi"))
    return interval_text(value, lo, hi, decimals=0)


def percent_text(row: Mapping[Any, Any], name: str) -> str:
    """Write a share as "41 % [38, 44]"; "" where it is not known."""
    value, _, ends = percent_cell(row, name).partition(" ")
    return f"{value} %" + (f" {ends}" if ends else "") if value else ""


def interval_text(
    value: Any, lo: Any = None, hi: Any = None, *, null: float = 0.0, decimals: int = 2, sign: bool = False
) -> str:
    """Write a number with its interval as "1.83 [1.61, 2.02]".

    Without brackets where the interval is not known, "" where nothing is. More decimals are written where an
    interval that excludes ``null`` would seem to touch it.

    Examples
    --------
    >>> from biaslab._util.number_text import interval_text
    >>> interval_text(1.83, 1.61, 2.02), interval_text(1.83, float("nan"), None), interval_text(float("inf"))
    ('1.83 [1.61, 2.02]', '1.83', '')
    """
    value, lo, hi = (float(v) if is_number(v) else math.nan for v in (value, lo, hi))
    if math.isnan(value):
        return ""
    while decimals < _FINEST and _touches(lo, hi, null, decimals):
        decimals += 1
    texts = [_number_text(v, decimals, sign) for v in (value, lo, hi)]
    return texts[0] if math.isnan(lo + hi) else f"{texts[0]} [{texts[1]}, {texts[2]}]"


def p_text(name: str, value: Any) -> str:
    """Write a p- or q-value as "p 0.013", "p < 0.0001" or "p not known"."""
    if not is_number(value):
        return f"{name} not known"
    return f"{name} < {_LEAST_P:.4f}" if value < _LEAST_P else f"{name} {value:.2g}"


def _touches(lo: float, hi: float, null: float, decimals: int) -> bool:
    excluded = lo > null or hi < null
    return bool(excluded and round(lo if lo > null else hi, decimals) == null)


def _number_text(value: float, decimals: int, sign: bool) -> str:
    text = f"{value:+.{decimals}f}" if sign else f"{value:.{decimals}f}"
    # zero has no sign
    return text if float(text) else ("+" if sign else "") + f"{0:.{decimals}f}"


def list_text(items: Iterable[Any]) -> str:
    """Join items as "a, b and c"."""
    texts = [str(item) for item in items]
    return " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else "".join(texts)


def count_text(count: int, thing: str) -> str:
    """Write a count as "1 image" or "300 images"."""
    return f"{count:,} {thing}" + ("" if count == 1 else "s")


def runs_text(numbers: Iterable[int], thing: str) -> str:
    """Write numbered things as "layer 3" or "layers 0, 2 to 5 and 9": runs of three or more are drawn together."""
    ordered = sorted({int(n) for n in numbers})
    runs: list[list[int]] = []
    for number in ordered:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [x for run in runs for x in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else run)]
    return f"{thing}{'s' * (len(ordered) > 1)} {list_text(parts)}" if parts else ""
