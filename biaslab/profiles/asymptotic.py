"""How much of the attention's variance position would explain in the limit of many calibration images.

A profile of few images is noisy, so what it explains on others (:mod:`biaslab.profiles.variance`) lies below what
position holds. The share in the limit needs no profile: for log attention centred per image, x_ai = p_i + e_ai with a
true map p, products of *different* images at one position estimate p_i^2 without bias,

    |p|^2 = (|sum_a x_a|^2 - sum_a |x_a|^2) / (n (n - 1)),    share = |p|^2 / mean_a |x_a|^2,

which is the variance component of position over the total (Searle, Casella and McCulloch 1992, section 3.6). Both
sums follow from the count, mean and variance of each fold. Without bias it is as often negative as positive.
"""

from __future__ import annotations

import numpy as np

from biaslab.profiles.parts import Part, merged
from biaslab.stats.jackknife import jackknife_interval

__all__ = ["asymptotic_share", "share_in_the_limit"]


def asymptotic_share(folds: list[list[Part]], *, confidence: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimate the share of the variance of log attention that the true map makes up, and its interval.

    Parameters
    ----------
    folds : list of list of Part
        Log moments, fold by fold (:func:`biaslab.profiles.variance.log_folds`).
    confidence : float
        Of the interval, a delete-one-fold jackknife with Student's t; NaN with fewer than three folds.

    Returns
    -------
    share, lo, hi : (1 + H,) array
        All heads together, then each head. NaN where no layout has two images.

    References
    ----------
    Searle, Casella and McCulloch (1992), Variance Components, section 3.6.

    Examples
    --------
    >>> from biaslab.profiles.asymptotic import asymptotic_share
    >>> from biaslab.profiles.variance import log_folds
    >>> from biaslab import TokenLayout
    >>> from biaslab.maps.simulate import simulate
    >>> layout = TokenLayout.raster(4, 4, size=(56, 56), family="demo")
    >>> maps = simulate("bottom-heavy", {layout: 60}).maps
    >>> share, lo, hi = asymptotic_share(log_folds(maps, 0), confidence=0.95)
    >>> share.round(2)  # all heads together, and the only head
    array([0.23, 0.23])
    """
    value = share_in_the_limit(folds)
    left_out = np.stack([share_in_the_limit(folds[:g] + folds[g + 1 :]) for g in range(len(folds))])
    lo, hi = jackknife_interval(value, left_out, confidence=confidence)
    return value, lo, np.minimum(hi, 1.0)


def share_in_the_limit(folds: list[list[Part]]) -> np.ndarray:
    """Estimate the share alone, (1 + H,), as :func:`asymptotic_share` does."""
    signal, total = np.zeros((2, len(folds[0][0].mean)))  # heads, also where no layout has two images
    for p in merged(part for parts in folds for part in parts):
        if p.n < 2:
            continue
        square, own = (p.mean**2).sum(axis=1), (p.var + p.mean**2).sum(axis=1)
        # sums over images, so that layouts add
        signal = signal + p.n * (p.n * square - own) / (p.n - 1)
        total = total + p.n * own
    signal, total = (np.concatenate([[x.sum()], x]) for x in (signal, total))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, signal / total, np.nan)
