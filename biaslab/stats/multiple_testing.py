"""q-values and adjusted p-values of a family of tests, some of which may have none."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

__all__ = ["holm", "q_values"]


def q_values(p: ArrayLike) -> np.ndarray:
    """Compute Benjamini and Hochberg's q-values over the tests that could be made.

    Parameters
    ----------
    p : (n,) array
        p-values; NaN for what could not be tested, which does not count among the tests.

    Returns
    -------
    (n,) float64 array
        NaN where p is NaN.

    References
    ----------
    Benjamini and Hochberg (1995), Controlling the false discovery rate, J. R. Stat. Soc. B 57.

    Examples
    --------
    >>> from biaslab.stats.multiple_testing import q_values
    >>> q_values([0.01, float("nan"), 0.02, 0.5])
    array([0.03,  nan, 0.03, 0.5 ])
    """
    p = np.asarray(p, float)
    q, tested = np.full(p.shape, np.nan), ~np.isnan(p)
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested])
    return q


def holm(p: ArrayLike) -> np.ndarray:
    """Adjust p-values so that rejecting those at or below alpha errs at all in at most that share of families.

    Parameters
    ----------
    p : (n,) array
        p-values; NaN for what could not be tested, which does not count among the tests.

    Returns
    -------
    (n,) float64 array
        NaN where p is NaN.

    References
    ----------
    Holm (1979), A simple sequentially rejective multiple test procedure, Scand. J. Stat. 6.

    Examples
    --------
    >>> from biaslab.stats.multiple_testing import holm
    >>> holm([0.01, float("nan"), 0.04, 0.03])
    array([0.03,  nan, 0.06, 0.06])
    """
    p = np.asarray(p, float)
    adjusted, tested = np.full(p.shape, np.nan), np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
