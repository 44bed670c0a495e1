"""Grouped jackknife: intervals of statistics whose unit of resampling is the image, or a fold of images."""

from __future__ import annotations

import numpy as np
from scipy import stats

from biaslab.errors import InputError

__all__ = ["check_confidence", "half_width", "jackknife_interval"]


def check_confidence(confidence: float) -> None:
    """Refuse what is no confidence of an interval.

    Raises
    ------
    InputError
        Outside (0, 1), such as 95 for 95 %.
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence must be between 0 and 1, got {confidence}: 0.95 is usual")


def half_width(left_out: np.ndarray, *, confidence: float, least: int = 3) -> np.ndarray:
    """Half width of the delete-one-group interval (Efron and Stein 1981), Student's t with groups - 1 degrees.

    Parameters
    ----------
    left_out : (G, ...) the statistic without each of the G groups.
    least : groups below which the interval is NaN.
    """
    groups = len(left_out)
    if groups < least:
        return np.full(left_out.shape[1:], np.nan)
    variance = (groups - 1) / groups * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0)
    return stats.t.ppf(0.5 + confidence / 2, groups - 1) * np.sqrt(variance)


def jackknife_interval(
    estimate: np.ndarray, left_out: np.ndarray, *, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Interval from the values without each group; see `half_width`.

    Parameters
    ----------
    estimate : (...) of all groups.
    left_out : (G, ...) without each of the G groups.

    Returns
    -------
    lo, hi : (...) each; NaN with fewer than three groups.

    Raises
    ------
    InputError
        A confidence outside (0, 1).
    """
    check_confidence(confidence)
    estimate = np.asarray(estimate, float)
    half = half_width(np.asarray(left_out, float), confidence=confidence)
    return estimate - half, estimate + half
