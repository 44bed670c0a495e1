"""Intervals and tests that respect that expressions of one image are not independent.

Everything here resamples *images*, the cluster, never expressions. All is seeded and vectorised: the
resamples of one :class:`ImageBootstrap` are drawn once and shared by every quantity asked of it, so
differences and ratios are paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..errors import InputError

_BLOCK_ENTRIES = 4_000_000  # entries of one block of a (resamples, images) matrix: bounds the memory
_EXACT_IMAGES = 13  # 2**13 sign patterns are fewer than a Monte Carlo test would draw: enumerate them


class Interval(NamedTuple):
    """An estimate with its percentile interval; floats, or one entry per column of the values."""

    estimate: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray


class ImageBootstrap:
    """Bootstrap of images with percentile intervals (Efron & Tibshirani 1993, ch. 13; the unit is an image).

    Parameters
    ----------
    images : (n,)
        Image id of every sample. Results do not depend on the order of the samples.
    n_boot
        Number of resamples.
    level
        Coverage of the intervals, in (0, 1).
    seed
        Seed of the resamples.

    Notes
    -----
    Values are ``(n,)`` or ``(n, columns)``; a NaN is a sample without this value and is left out of its
    column. With fewer than two images there is no interval: it is NaN, the estimate stays.
    """

    def __init__(self, images: Sequence, n_boot: int = 2000, level: float = 0.95, seed: int = 0) -> None:
        if n_boot < 1 or not 0 < level < 1:
            raise InputError(f"n_boot={n_boot}, level={level}: pass n_boot >= 1 and a level between 0 and 1")
        self.n_boot, self.level = int(n_boot), float(level)
        names, self._code = np.unique(np.asarray(images, dtype=str), return_inverse=True)
        self.n_images = len(names)
        self._draws = _resample_counts(self.n_images, self.n_boot, np.random.default_rng(seed))

    def mean(self, values: np.ndarray) -> Interval:
        """Mean over samples, e.g. an accuracy from hits, with its interval."""
        values, squeeze = _columns(values)
        return self._interval(*self._means(values), squeeze)

    def ratio(self, values: np.ndarray, reference: np.ndarray) -> Interval:
        """``mean(values) / mean(reference)`` on the same samples, e.g. the retention of accuracy.

        Resamples whose reference mean is 0 have no ratio and are left out; a reference mean of 0 gives NaN.
        """
        (values, squeeze), (reference, _) = _columns(values), _columns(reference)
        missing = np.isnan(values - reference)
        top, bottom = (self._means(np.where(missing, np.nan, part)) for part in (values, reference))
        return self._interval(*(_divide(a, b) for a, b in zip(top, bottom, strict=True)), squeeze)

    def difference(self, values: np.ndarray, reference: np.ndarray) -> Interval:
        """Paired ``mean(values - reference)``, e.g. a difference of accuracies in [-1, 1]."""
        (values, squeeze), (reference, _) = _columns(values), _columns(reference)
        return self._interval(*self._means(values - reference), squeeze)

    def _means(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means of all samples ``(columns,)`` and of every resample ``(n_boot, columns)``."""
        valid = ~np.isnan(values)
        sums, counts = np.zeros((2, self.n_images, values.shape[1]))
        np.add.at(sums, self._code, np.where(valid, values, 0.0))
        np.add.at(counts, self._code, valid)
        replicates = np.empty((self.n_boot, values.shape[1]))
        for rows in _blocks(self.n_boot, self.n_images):
            weights = self._draws[rows].astype(float)
            replicates[rows] = _divide(weights @ sums, weights @ counts)
        return _divide(sums.sum(0), counts.sum(0)), replicates

    def _interval(self, estimate: np.ndarray, replicates: np.ndarray, squeeze: bool) -> Interval:
        low, high = np.full((2, *estimate.shape), np.nan)
        usable = np.isfinite(replicates).any(0)
        if self.n_images > 1 and usable.any():
            tail = 50 * (1 - self.level)
            low[usable], high[usable] = np.nanpercentile(replicates[:, usable], [tail, 100 - tail], axis=0)
        return Interval(*(float(part[0]) if squeeze else part for part in (estimate, low, high)))


def paired_p_value(
    values: np.ndarray,
    reference: np.ndarray,
    images: Sequence,
    n_perm: int = 10_000,
    seed: int = 0,
) -> float:
    """Two-sided p-value of "values and reference have the same mean", paired, by sign flips of whole images.

    Under the null hypothesis the two methods are exchangeable within every image, so the sign of an image's
    summed difference is arbitrary. All sign patterns are enumerated when at most 13 images differ (exact
    test); otherwise ``n_perm`` random ones are drawn and ``(1 + extreme) / (1 + n_perm)`` is returned, which
    is never 0.

    Parameters
    ----------
    values, reference : (n,)
        Per-sample values of the two methods on the same samples, e.g. hits. Samples with a NaN on either side
        are left out.
    images : (n,)
        Image id of every sample.

    Returns
    -------
    float
        NaN without samples, 1 when the methods agree on every image.
    """
    difference = np.asarray(values, float) - np.asarray(reference, float)
    finite = np.isfinite(difference)
    if not finite.any():
        return float("nan")
    names, code = np.unique(np.asarray(images, dtype=str)[finite], return_inverse=True)
    sums = np.bincount(code, weights=difference[finite], minlength=len(names))
    sums = sums[np.abs(sums) > 1e-12]  # flipping a zero changes nothing
    if sums.size == 0:
        return 1.0
    observed = abs(sums.sum()) - 1e-9 * np.abs(sums).sum()  # ties count as extreme in spite of rounding
    if sums.size <= _EXACT_IMAGES:
        bits = (np.arange(2**sums.size)[:, None] >> np.arange(sums.size)) & 1
        return float((np.abs((2 * bits - 1) @ sums) >= observed).mean())
    rng = np.random.default_rng(seed)
    extreme = 0
    for rows in _blocks(n_perm, sums.size):
        signs = np.where(rng.random((rows.stop - rows.start, sums.size)) < 0.5, -1.0, 1.0)
        extreme += int((np.abs(signs @ sums) >= observed).sum())
    return (1 + extreme) / (1 + n_perm)


def _resample_counts(n_images: int, n_boot: int, rng: np.random.Generator) -> np.ndarray:
    """How often each image occurs in each resample: (n_boot, n_images)."""
    counts = np.zeros((n_boot, n_images), np.uint16)
    for rows in _blocks(n_boot, n_images) if n_images else ():
        size = rows.stop - rows.start
        draws = rng.integers(0, n_images, (size, n_images)) + n_images * np.arange(size)[:, None]
        counts[rows] = np.bincount(draws.ravel(), minlength=size * n_images).reshape(size, n_images)
    return counts


def _blocks(n_rows: int, width: int) -> Iterator[slice]:
    step = max(1, _BLOCK_ENTRIES // max(1, width))
    for start in range(0, n_rows, step):
        yield slice(start, min(n_rows, start + step))


def _columns(values: np.ndarray) -> tuple[np.ndarray, bool]:
    values = np.asarray(values, float)
    return (values[:, None], True) if values.ndim == 1 else (values, False)


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator == 0, np.nan, numerator / denominator)
