"""q-values of a family of tests, some of which may have none."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

__all__ = ["q_values"]


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
