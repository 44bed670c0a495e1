"""A budget split among groups by weight, none beyond what it has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["quotas"]


def quotas(weights: Sequence[float], caps: Sequence[int], n: int) -> list[int]:
    """Split ``n`` in proportion to ``weights``, at most ``caps`` to each.

    What a full group cannot take goes to the others in proportion to their weights. Fractions become whole by largest
    remainders, ties to the first.

    Parameters
    ----------
    weights : sequence of float
        Not negative. Where all that have room weigh nothing, they share by room.
    caps : sequence of int
        Most that each group may get.
    n : int
        At most the sum of ``caps``.

    Returns
    -------
    list of int
        Their sum is ``n``.

    Examples
    --------
    >>> quotas([1.0, 1.0, 2.0], [10, 10, 10], 8)
    [2, 2, 4]
    >>> quotas([1.0, 1.0, 2.0], [10, 10, 2], 8)  # the third is full
    [3, 3, 2]
    """
    weight, cap = np.asarray(weights, np.float64), np.asarray(caps, np.int64)
    exact = np.zeros(len(cap))
    free = cap > 0
    while free.any() and (left := n - exact[~free].sum()) > 1e-9:
        own = np.where(free, weight, 0.0)
        own = own if own.sum() > 0 else np.where(free, cap, 0).astype(np.float64)
        share = left * own / own.sum()
        full = free & (share >= cap)
        if not full.any():
            exact = np.where(free, share, exact)
            break
        exact = np.where(full, cap, exact)
        free &= ~full
    whole = np.minimum(np.floor(exact + 1e-9).astype(np.int64), cap)
    rest = np.round(exact - whole, 9)
    for i in sorted(np.flatnonzero(whole < cap), key=lambda i: (-rest[i], i))[: n - int(whole.sum())]:
        whole[i] += 1
    return [int(x) for x in whole]
