"""Numbers and lists as the card writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

__all__ = [
    "ALPHA",
    "interval_text",
    "has_values",
    "layers_text",
    "list_text",
    "count_text",
    "percent_cell",
    "percent_text",
]

#: claims are made at this level: intervals given must exclude the null, and q must not exceed it
ALPHA = 0.05
_FINEST = 4  # decimals


def has_values(row: Mapping[str, Any], *names: str) -> bool:
    """Whether the row has all of these, and none is missing."""
    return all(row.get(name) is not None and row[name] == row[name] for name in names)


def percent_cell(row: Mapping[str, Any], name: str) -> str:
    """Write a share in per cent as "41 [38, 44]".

    Without brackets where the interval is not known, "" where nothing is.
    """
    value, lo, hi = (100 * row[n] if has_values(row, n) else np.nan for n in (name, f"{name}_lo", f"{name}_hi"))
    return interval_text(value, lo, hi, decimals=0)


def percent_text(row: Mapping[str, Any], name: str) -> str:
    """Write a share as "41 % [38, 44]"."""
    value, _, ends = percent_cell(row, name).partition(" ")
    return f"{value} %" + (f" {ends}" if ends else "")


def interval_text(
    value: Any, lo: Any = None, hi: Any = None, *, null: float = 0.0, decimals: int = 2, sign: bool = False
) -> str:
    """Write a number with its interval as "1.83 [1.61, 2.02]".

    Without brackets where the interval is not known, "" where nothing is. More decimals are written where an
    interval that excludes ``null`` would seem to touch it.
    """
    value, lo, hi = (np.nan if v is None else float(v) for v in (value, lo, hi))
    if np.isnan(value):
        return ""
    while decimals < _FINEST and _touches(lo, hi, null, decimals):
        decimals += 1
    texts = [_number_text(v, decimals, sign) for v in (value, lo, hi)]
    return texts[0] if np.isnan([lo, hi]).any() else f"{texts[0]} [{texts[1]}, {texts[2]}]"


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


def layers_text(layers: Iterable[int]) -> str:
    """Write layers as "layer 3" or "layers 0, 2 to 5 and 9": runs of three or more are drawn together."""
    numbers = sorted({int(n) for n in layers})
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [x for run in runs for x in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else run)]
    return ("layer " if len(numbers) == 1 else "layers ") + list_text(parts)
