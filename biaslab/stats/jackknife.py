"""Grouped jackknife: intervals of statistics whose unit of resampling is the image, or a fold of images."""

from __future__ import annotations

import numpy as np
from scipy import stats

from biaslab.errors import InputError

__all__ = ["check_confidence", "half_width", "jackknife_interval"]


def check_confidence(confidence: float) -> None:
    """Refuse what is no confidence of an interval.

    Parameters
    ----------
    confidence : float
        Nominal coverage.

    Raises
    ------
    InputError
        Outside (0, 1), such as 95 for 95 %.

    Examples
    --------
    >>> from biaslab.stats.jackknife import check_confidence
    >>> check_confidence(95)
    Traceback (most recent call last):
    biaslab.errors.InputError: confidence must be between 0 and 1, got 95: 0.95 is usual
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence must be between 0 and 1, got {confidence}: 0.95 is usual")


def half_width(left_out: np.ndarray, *, confidence: float, least: int = 3) -> np.ndarray:
    """Compute the half width of the delete-one-group interval: Student's t with groups - 1 degrees of freedom.

    Parameters
    ----------
    left_out : (G, ...) array
        The statistic without each of the G groups.
    confidence : float
        Nominal coverage.
    least : int
        Groups below which the interval is NaN.

    Returns
    -------
    (...) array
        In the unit of the statistic.

    References
    ----------
    Efron and Stein (1981), The jackknife estimate of variance, Ann. Stat. 9.

    Examples
    --------
    >>> import numpy as np
    >>> from biaslab.stats.jackknife import half_width
    >>> x = np.array([1.0, 2.0, 3.0, 4.0])
    >>> float(half_width((x.sum() - x) / 3, confidence=0.95).round(2))  # Student's interval of a mean
    2.05
    """
    groups = len(left_out)
    if groups < least:
        return np.full(left_out.shape[1:], np.nan)
    variance = (groups - 1) / groups * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0)
    return stats.t.ppf(0.5 + confidence / 2, groups - 1) * np.sqrt(variance)


def jackknife_interval(
    estimate: np.ndarray, left_out: np.ndarray, *, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Compute an interval from the values without each group; see :func:`half_width`.

    Parameters
    ----------
    estimate : (...) array
        The statistic of all groups.
    left_out : (G, ...) array
        The statistic without each of the G groups.
    confidence : float
        Nominal coverage.

    Returns
    -------
    lo, hi : (...) array
        NaN with fewer than three groups.

    Raises
    ------
    InputError
        A confidence outside (0, 1).

    Examples
    --------
    >>> import numpy as np
    >>> from biaslab.stats.jackknife import jackknife_interval
    >>> x = np.array([1.0, 2.0, 3.0, 4.0])
    >>> lo, hi = jackknife_interval(x.mean(), (x.sum() - x) / 3)
    >>> round(float(lo), 2), round(float(hi), 2)
    (0.45, 4.55)
    """
    check_confidence(confidence)
    estimate = np.asarray(estimate, float)
    half = half_width(np.asarray(left_out, float), confidence=confidence)
    return estimate - half, estimate + half
