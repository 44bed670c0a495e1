"""q-values of a family of tests, some of which may have none."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

__all__ = ["q_values"]


def q_values(p: ArrayLike) -> np.ndarray:
    """Benjamini and Hochberg's (1995) q-values over the tests that could be made.

    Parameters
    ----------
    p : (n,) p-values; NaN for what could not be tested, which does not count among the tests.

    Returns
    -------
    (n,) float64, NaN where p is NaN.
    """
    p = np.asarray(p, float)
    q, tested = np.full(p.shape, np.nan), ~np.isnan(p)
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested])
    return q
