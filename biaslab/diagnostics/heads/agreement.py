"""How far criteria agree on which heads matter."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from biaslab.diagnostics.heads.ratings import HeadRatings
from biaslab.errors import InputError
from biaslab.stats.jackknife import half_width

__all__ = ["compare_ratings"]


def compare_ratings(ratings: Sequence[HeadRatings], *, top: int = 5, confidence: float = 0.95) -> pd.DataFrame:
    """Compare every two criteria.

    Parameters
    ----------
    ratings : sequence of HeadRatings
        Of the same heads on the same images, in the same groups.
    top : int
        Best heads of each whose overlap is counted.
    confidence : float
        Of the intervals.

    Returns
    -------
    DataFrame
        A row per pair: first, second, heads (rated by both), spearman, lo, hi (jackknife over groups of images,
        within [-1, 1]; NaN where a criterion does not tell heads apart), top, shared (heads among the best of both),
        by_chance (expected of two orders that have nothing to do with each other).

    Raises
    ------
    InputError
        ``top`` below 1.

    Examples
    --------
    >>> values = np.arange(6.0).reshape(2, 3)
    >>> made = [
    ...     HeadRatings(name, [0, 1], sign * values, np.stack([sign * values] * 4))
    ...     for name, sign in (("up", 1), ("down", -1))
    ... ]
    >>> compare_ratings(made, top=2)[["spearman", "shared", "by_chance"]].round(2).to_dict("records")
    [{'spearman': -1.0, 'shared': 0, 'by_chance': 0.67}]
    """
    if top < 1:
        raise InputError(f"top must be a number of heads, 1 or more; got {top!r}")
    return pd.DataFrame(
        [_row(a, b, top, confidence) for a, b in combinations(ratings, 2)],
        columns=["first", "second", "heads", "spearman", "lo", "hi", "top", "shared", "by_chance"],
    )


def _row(a: HeadRatings, b: HeadRatings, top: int, confidence: float) -> dict[str, object]:
    known = np.isfinite(a.values) & np.isfinite(b.values)
    count = int(known.sum())
    best = [set(np.argsort(-r.values[known], kind="stable")[:top].tolist()) for r in (a, b)]
    value = _spearman(a.values[known], b.values[known])
    left_out = np.array([_spearman(x[known], y[known]) for x, y in zip(a.left_out, b.left_out, strict=True)])
    half = float(half_width(left_out, confidence=confidence))
    k = min(top, count)
    return {
        "first": a.criterion, "second": b.criterion, "heads": count, "spearman": value,
        "lo": max(value - half, -1.0), "hi": min(value + half, 1.0), "top": k, "shared": len(best[0] & best[1]),
        "by_chance": k * k / count if count else np.nan,
    }  # fmt: skip


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    fine = np.isfinite(first) & np.isfinite(second)
    first, second = first[fine], second[fine]
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(stats.spearmanr(first, second).statistic)
