"""Grouped jackknife: intervals of statistics whose unit of resampling is the image, or a fold of images."""

from __future__ import annotations

import numpy as np
from scipy import stats

from biaslab.errors import InputError

__all__ = ["jackknife_interval"]


def jackknife_interval(
    estimate: np.ndarray, left_out: np.ndarray, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Interval from the values without each group (Efron and Stein 1981), Student's t with groups - 1 degrees.

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
    if not 0 < confidence < 1:
        raise InputError(f"confidence must be between 0 and 1, got {confidence}: 0.95 is usual")
    estimate, left_out = np.asarray(estimate, float), np.asarray(left_out, float)
    groups = len(left_out)
    if groups < 3:
        return np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)
    variance = (groups - 1) / groups * ((left_out - left_out.mean(0)) ** 2).sum(0)
    half = stats.t.ppf(0.5 + confidence / 2, groups - 1) * np.sqrt(variance)
    return estimate - half, estimate + half
