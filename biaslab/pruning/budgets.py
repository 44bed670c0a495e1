"""How many of an image's tokens a keep stands for."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from biaslab.errors import InputError

__all__ = ["budget", "check_keep", "share"]

_ROUNDING = 1e-9  # far above the error of a float product with n < 1e6, far below one token


def share(ratio: float, n: int) -> int:
    """Compute ``floor(ratio * n)`` as it would be in exact decimals: 0.29 * 100 is 29, not 28."""
    return math.floor(ratio * n + _ROUNDING)


def check_keep(keep: Any) -> float | int:
    """Return ``keep`` as a plain float ratio in (0, 1] or a plain int count >= 1.

    Raises
    ------
    InputError
        Anything else: 0, 1.5, NaN, True, a string.
    """
    if isinstance(keep, Integral) and not isinstance(keep, bool) and int(keep) >= 1:
        return int(keep)
    if isinstance(keep, Real) and not isinstance(keep, Integral) and 0 < float(keep) <= 1:
        return float(keep)
    raise InputError(f"keep must be a ratio in (0, 1] or a count of tokens, such as 0.1 or 64; got {keep!r}")


def budget(keep: float | int, n: int) -> int:
    """Count how many of ``n`` visual tokens to keep.

    Parameters
    ----------
    keep : float or int
        Ratio in (0, 1], or a count.
    n : int
        Number of visual tokens, >= 1.

    Returns
    -------
    int
        ``max(1, floor(keep * n))`` for a ratio (guarded against binary rounding: 0.29 of 100 is 29),
        ``min(keep, n)`` for a count.

    Raises
    ------
    InputError
        ``keep`` is neither a ratio in (0, 1] nor a count >= 1.

    Examples
    --------
    >>> budget(0.29, 100), budget(64, 100), budget(0.001, 100)
    (29, 64, 1)
    """
    keep = check_keep(keep)
    return min(keep, n) if isinstance(keep, int) else max(1, min(share(keep, n), n))
