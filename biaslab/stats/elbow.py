"""The elbow of sorted values: where a steep fall turns into a long tail."""

from __future__ import annotations

import numpy as np

__all__ = ["elbow"]


def elbow(values: np.ndarray) -> int:
    """Find the rank at which sorted values lie farthest from the chord between the largest and the smallest.

    Parameters
    ----------
    values : (n,) array
        In any order.

    Returns
    -------
    int
        Rank in descending order, from 0; 0 where all are equal.

    Examples
    --------
    >>> import numpy as np
    >>> values = np.array([0.1, 0.9, 0.08, 0.2, 1.0, 0.05])
    >>> rank = elbow(values)
    >>> rank, float(np.sort(values)[::-1][rank])
    (2, 0.2)
    """
    ordered = np.sort(np.asarray(values, float))[::-1]
    if len(ordered) < 3 or ordered[0] == ordered[-1]:
        return 0
    x = np.linspace(0, 1, len(ordered))
    y = (ordered - ordered[-1]) / (ordered[0] - ordered[-1])
    return int(np.argmax(np.abs(1 - x - y)))  # the chord runs from (0, 1) to (1, 0)
