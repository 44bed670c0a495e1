"""Paired differences of hits: intervals over images, p-values family-wise over all that are listed together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.report import percent
from biaslab.stats.resampling import ImageBootstrap, max_t

__all__ = ["Difference", "paired_differences"]


@dataclass(frozen=True)
class Difference:
    """A mean difference with its interval as a table writes it, its family-wise p (max-T), and its value."""

    text: str
    p: float
    value: float


def paired_differences(
    differences: Sequence[np.ndarray], images: Sequence[str] | np.ndarray, bootstrap: ImageBootstrap
) -> list[Difference]:
    """Estimate and test mean differences.

    Parameters
    ----------
    differences : sequence of (n,) array
        Of hits; NaN where a sample is not of the comparison.
    images : (n,) sequence
        Whose sample is whose.
    bootstrap : ImageBootstrap
        Of the same images.

    Examples
    --------
    >>> images = np.arange(200)
    >>> better = np.where(images % 4 == 0, 1.0, 0.0)
    >>> [(one.text, one.p < 0.01) for one in paired_differences([better, 0 * better], images, ImageBootstrap(images))]
    [('+25.0 [+19.0, +31.0]', True), ('+0.0 [+0.0, +0.0]', False)]
    """
    if not differences:
        return []
    table, of = np.stack(differences, 1), np.asarray(images)
    known = ~np.isnan(table).all(1)  # of two tasks the samples of one
    p = max_t(table[known], of[known]).p_adjusted
    intervals = [bootstrap.mean(column) for column in differences]
    return [
        Difference(percent(interval, "+"), float(value), float(interval[0]))
        for interval, value in zip(intervals, p, strict=True)
    ]
