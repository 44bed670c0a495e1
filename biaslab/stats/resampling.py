"""Intervals and tests that respect that expressions of one image are not independent.

Everything here resamples *images*, the cluster, never expressions. All is seeded and vectorised: the
resamples of one :class:`ImageBootstrap` are drawn once and shared by every quantity asked of it, so
differences and ratios are paired; the sign flips of :func:`max_t` are shared by all its hypotheses.
Images are given by id, or as :class:`~biaslab.stats.image_codes.ImageCodes` where many statistics share them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from biaslab.errors import InputError
from biaslab.stats.image_codes import ImageCodes

_BLOCK_ENTRIES = 4_000_000  # entries of one block of a matrix of resamples or of sign flips: bounds the memory
_EXACT_IMAGES = 13  # 2**13 sign patterns are fewer than a Monte Carlo test would draw: enumerate them


class Interval(NamedTuple):
    """An estimate with its percentile interval.

    Attributes
    ----------
    value, lo, hi : float or (columns,) array
        The estimate and the ends of its interval; one entry per column of the values.

    Examples
    --------
    >>> from biaslab.stats.resampling import Interval
    >>> value, lo, hi = Interval(0.61, lo=0.55, hi=0.66)
    """

    value: float | np.ndarray
    lo: float | np.ndarray
    hi: float | np.ndarray


class ImageBootstrap:
    """Bootstrap of images with percentile intervals (Efron & Tibshirani 1993, ch. 13; the unit is an image).

    Parameters
    ----------
    images : (n,) sequence
        Image id of every sample. Results do not depend on the order of the samples.
    n_resamples : int
        Number of resamples.
    confidence : float
        Coverage of the intervals, in (0, 1).
    seed : int
        Seed of the resamples.

    Raises
    ------
    InputError
        No resamples, or a confidence outside (0, 1).

    Notes
    -----
    Values are ``(n,)`` or ``(n, columns)``; a NaN is a sample without this value and is left out of its
    column. A column with values in fewer than two images has no interval: it is NaN, the value stays.

    Examples
    --------
    Two methods on three expressions each of 40 images; hits of one image go together:

    >>> import numpy as np
    >>> from biaslab.stats.resampling import ImageBootstrap
    >>> rng = np.random.default_rng(0)
    >>> images = np.repeat(np.arange(40), 3)
    >>> full = np.repeat(rng.random(40) < 0.7, 3).astype(float)
    >>> pruned = full * (rng.random(120) < 0.9)
    >>> bootstrap = ImageBootstrap(images)
    >>> [round(v, 2) for v in bootstrap.mean(full)]
    [0.68, 0.53, 0.82]
    >>> [round(v, 2) for v in bootstrap.difference(pruned, full)]  # paired: far narrower
    [-0.09, -0.15, -0.04]
    >>> [round(v, 2) for v in bootstrap.ratio(pruned, full)]
    [0.86, 0.79, 0.93]
    """

    def __init__(
        self,
        images: Sequence | np.ndarray | ImageCodes,
        *,
        n_resamples: int = 2000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> None:
        if n_resamples < 1 or not 0 < confidence < 1:
            raise InputError(
                f"n_resamples={n_resamples}, confidence={confidence}: pass n_resamples >= 1, confidence between 0 and 1"
            )
        self.n_resamples, self.confidence = int(n_resamples), float(confidence)
        self._images = ImageCodes.of(images)
        self.n_images = len(self._images.names)
        self._draws = _resample_counts(self.n_images, self.n_resamples, np.random.default_rng(seed))

    def mean(self, values: np.ndarray) -> Interval:
        """Average over samples, e.g. an accuracy from hits.

        Parameters
        ----------
        values : (n,) or (n, columns) array
            Per-sample values.

        Returns
        -------
        Interval
            Floats for (n,) values, else (columns,) arrays.
        """
        return self._interval(lambda mean: mean, values)

    def ratio(self, values: np.ndarray, reference: np.ndarray) -> Interval:
        """Divide ``mean(values)`` by ``mean(reference)`` on the same samples, e.g. the retention of accuracy.

        Resamples whose reference mean is 0 have no ratio and are left out; a reference mean of 0 gives NaN.

        Parameters
        ----------
        values, reference : (n,) or (n, columns) array
            Per-sample values; samples with a NaN on either side are left out.

        Returns
        -------
        Interval
            Floats for (n,) values, else (columns,) arrays.
        """
        values, reference = np.asarray(values, float), np.asarray(reference, float)
        missing = np.isnan(values - reference)
        return self._interval(_divide, *(np.where(missing, np.nan, part) for part in (values, reference)))

    def difference(self, values: np.ndarray, reference: np.ndarray) -> Interval:
        """Average ``values - reference``, paired, e.g. a difference of accuracies in [-1, 1].

        Parameters
        ----------
        values, reference : (n,) or (n, columns) array
            Per-sample values; samples with a NaN on either side are left out.

        Returns
        -------
        Interval
            Floats for (n,) values, else (columns,) arrays.
        """
        return self.mean(np.asarray(values, float) - np.asarray(reference, float))

    def contrast(self, values: np.ndarray, reference: np.ndarray) -> Interval:
        """Subtract ``mean(reference)`` from ``mean(values)``, each over its own samples, e.g. two parts of a data set.

        The samples of a side are those without NaN on that side. An image that has samples on both sides enters
        or leaves a resample with all of them.

        Parameters
        ----------
        values, reference : (n,) or (n, columns) array
            Per-sample values.

        Returns
        -------
        Interval
            Floats for (n,) values, else (columns,) arrays.
        """
        return self._interval(np.subtract, values, reference)

    def ratio_contrast(
        self, values: np.ndarray, reference: np.ndarray, other_values: np.ndarray, other_reference: np.ndarray
    ) -> Interval:
        """Subtract one ratio of means from another, each over its own samples, e.g. the retentions of two tasks.

        Parameters
        ----------
        values, reference, other_values, other_reference : (n,) or (n, columns) array
            ``mean(values) / mean(reference) - mean(other_values) / mean(other_reference)``; the samples of a mean are
            those without NaN. An image that has samples of both kinds enters or leaves a resample with all of them.

        Returns
        -------
        Interval
            Floats for (n,) values, else (columns,) arrays.

        Examples
        --------
        Of 30 images each has a question, always answered, and a box, found in two of three:

        >>> import numpy as np
        >>> from biaslab.stats.resampling import ImageBootstrap
        >>> images, of_box = np.tile(np.arange(30), 2), np.repeat([0.0, 1.0], 30)
        >>> hit = np.where(of_box, np.arange(60) % 3 > 0, 1.0)
        >>> boxes, questions = np.where(of_box, 1.0, np.nan), np.where(of_box, np.nan, 1.0)  # nothing pruned: all right
        >>> gap = ImageBootstrap(images).ratio_contrast(hit * questions, questions, hit * boxes, boxes)
        >>> [round(v, 2) for v in gap]
        [0.33, 0.17, 0.5]
        """
        return self._interval(
            lambda a, b, c, d: _divide(a, b) - _divide(c, d), values, reference, other_values, other_reference
        )

    def _interval(self, statistic: Callable[..., np.ndarray], *parts: np.ndarray) -> Interval:
        """Estimate a statistic of the means of ``parts``, in blocks of columns."""
        squeeze = np.ndim(parts[0]) == 1
        tables = [np.asarray(part, float) for part in parts]
        tables = [table[:, None] if table.ndim == 1 else table for table in tables]
        value, lo, hi = np.full((3, tables[0].shape[1]), np.nan)
        tails = np.array([0.5 - self.confidence / 2, 0.5 + self.confidence / 2])
        for columns in _blocks(len(value), self.n_resamples):
            means, replicates, several = zip(*(self._means(table[:, columns]) for table in tables), strict=True)
            value[columns] = statistic(*means)
            usable = np.flatnonzero(np.logical_and.reduce(several))
            lo[columns][usable], hi[columns][usable] = _quantiles(statistic(*replicates)[:, usable], tails)
        return Interval(*(float(part[0]) if squeeze else part for part in (value, lo, hi)))

    def _means(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Means of all samples, of every resample ``(n_resamples, columns)``; whether two images or more have one."""
        valid = ~np.isnan(values)
        sums = self._images.sums(np.where(valid, values, 0.0))
        # one count serves all columns where the same samples lack a value, which halves the work
        valid = valid[:, :1] if (valid == valid[:, :1]).all() else valid
        counts = self._images.sums(valid.astype(float))
        used = counts.any(1)  # a location of the image has few of the images
        replicates = np.empty((self.n_resamples, values.shape[1]))
        for rows in _blocks(self.n_resamples, self.n_images):
            weights = (self._draws[rows] if used.all() else self._draws[rows][:, used]).astype(float)
            replicates[rows] = _divide(weights @ sums[used], weights @ counts[used])
        several = np.broadcast_to((counts > 0).sum(0) > 1, values.shape[1:])
        return _divide(sums.sum(0), counts.sum(0)), replicates, several


def paired_p_value(
    values: np.ndarray,
    reference: np.ndarray,
    images: Sequence | np.ndarray | ImageCodes,
    *,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> float:
    """Test "values and reference have the same mean", paired and two-sided, by sign flips of whole images.

    Under the null hypothesis the two methods are exchangeable within every image, so the sign of an image's
    summed difference is arbitrary. All sign patterns are enumerated when at most 13 images differ (exact
    test); otherwise ``n_resamples`` random ones are drawn and ``(1 + extreme) / (1 + n_resamples)`` is returned, which
    is never 0.

    Parameters
    ----------
    values, reference : (n,) array
        Per-sample values of the two methods on the same samples, e.g. hits. Samples with a NaN on either side
        are left out.
    images : (n,) sequence
        Image id of every sample.
    n_resamples : int
        Random sign patterns.
    seed : int
        Of the signs.

    Returns
    -------
    float
        p-value; NaN without samples, 1 when the methods agree on every image.

    Examples
    --------
    Better on all of six images: only one pattern of signs in 2**6 is as good, and one as bad.

    >>> from biaslab.stats.resampling import paired_p_value
    >>> paired_p_value([1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0], ["a", "b", "c", "d", "e", "f"])
    0.03125
    >>> paired_p_value([1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0], ["a", "a", "a", "b", "b", "b"])  # two images
    0.5
    """
    difference = np.asarray(values, float) - np.asarray(reference, float)
    return float(max_t(difference.reshape(-1, 1), images, n_resamples=n_resamples, seed=seed).p[0])


class Family(NamedTuple):
    """p-values of a family of hypotheses.

    Attributes
    ----------
    p : (hypotheses,) array
        Of each hypothesis alone.
    p_adjusted : (hypotheses,) array
        Family-wise.
    """

    p: np.ndarray
    p_adjusted: np.ndarray


def max_t(
    differences: np.ndarray, images: Sequence | np.ndarray | ImageCodes, *, n_resamples: int = 10_000, seed: int = 0
) -> Family:
    """Test "this column of paired differences has mean 0", two-sided, for each column alone and family-wise.

    Step-down max-T of Westfall & Young (1993, Resampling-Based Multiple Testing, algorithm 4.1) by sign flips of
    whole images. Every flip is applied to all hypotheses at once, so what they share (the same images, neighbouring
    layers, a subset of the samples) is kept, and correlated hypotheses cost little. The adjusted p-values control
    the probability of one false alarm or more, whichever of the hypotheses are false.

    Parameters
    ----------
    differences : (n, hypotheses) array
        Per-sample differences of two methods on the same samples. NaN: a sample without this value. Only sums over
        the samples of an image matter, so rows may as well be images.
    images : (n,) sequence
        Image id of every row.
    n_resamples : int
        Random sign patterns; all are enumerated when at most 13 images differ in any column (exact test).
    seed : int
        Of the signs.

    Returns
    -------
    Family
        ``p`` as :func:`paired_p_value` defines it and ``p_adjusted`` >= ``p``; NaN for a column without values, 1 for
        a column without differences. Neither is ever 0.

    Raises
    ------
    InputError
        Differences that are no matrix with a row per image id.

    Notes
    -----
    The statistic is ``sum_i d_i / sqrt(sum_i d_i**2)`` over the images' sums d_i. The denominator, which no flip
    changes, gives every column unit variance under the null hypothesis. Dividing by the standard deviation about the
    mean instead (Student's t) ranks the flips of a column alike, but its heavy tail in columns of few images would
    set the maximum for all.

    References
    ----------
    Westfall and Young (1993), Resampling-Based Multiple Testing, algorithm 4.1.

    Examples
    --------
    >>> import numpy as np
    >>> from biaslab.stats.resampling import max_t
    >>> differences = np.random.default_rng(0).normal([1.0, 0.0, 0.0], size=(12, 3))
    >>> p, p_adjusted = max_t(differences, np.arange(12))
    >>> p.round(3)  # only the first column differs from 0
    array([0.026, 0.593, 0.519])
    >>> p_adjusted.round(3)
    array([0.067, 0.763, 0.763])
    """
    differences = np.asarray(differences, float)
    if differences.ndim != 2 or len(differences) != len(images):
        raise InputError(
            f"differences of shape {differences.shape} for {len(images)} image ids: pass (samples, hypotheses) and an "
            "image id per sample"
        )
    sums = sum_by_image(differences, images)[0]
    initial = np.where(np.isfinite(sums).any(0), 1.0, np.nan)
    family = Family(initial, initial.copy())
    sums[~(np.abs(sums) > 1e-12)] = 0.0
    sums = sums[sums.any(1)]  # flipping a zero changes nothing
    scale = np.sqrt((sums**2).sum(0))
    ratios = np.abs(sums.sum(0)) / np.where(scale > 0, scale, 1)
    order = np.flatnonzero(scale > 0)
    order = order[np.argsort(ratios[order], kind="stable")]  # ascending: the largest is tested against all
    if order.size == 0:
        return family
    units = sums[:, order] / scale[order]
    observed = ratios[order] - 1e-9 * np.abs(units).sum(0)  # ties count as extreme in spite of rounding
    extreme = np.zeros((2, order.size), int)
    exact = len(units) <= _EXACT_IMAGES
    for signs in _sign_flips(len(units), n_resamples, seed, order.size):
        flipped = np.abs(signs @ units)
        extreme[0] += (flipped >= observed).sum(0)
        np.maximum.accumulate(flipped, axis=1, out=flipped)  # over the hypotheses that are observed to be weaker
        extreme[1] += (flipped >= observed).sum(0)
    for p, counts in zip(family, extreme, strict=True):
        p[order] = counts / 2 ** len(units) if exact else (1 + counts) / (1 + n_resamples)
    # step-down: no hypothesis is rejected before a stronger one
    family.p_adjusted[order] = np.maximum.accumulate(family.p_adjusted[order[::-1]])[::-1]
    return family


def sum_by_image(values: np.ndarray, images: Sequence | np.ndarray | ImageCodes) -> tuple[np.ndarray, np.ndarray]:
    """Sum over the samples of each image that have a finite value.

    Parameters
    ----------
    values : (n, columns) array
        Per-sample values.
    images : (n,) sequence
        Image id of every row.

    Returns
    -------
    sums : (n_images, columns) array
        NaN where an image has no value.
    names : (n_images,) str array
        Ids of the images, in the order of the rows of ``sums``.

    Examples
    --------
    >>> import numpy as np
    >>> from biaslab.stats.resampling import sum_by_image
    >>> sums, names = sum_by_image(np.array([[1.0], [2.0], [np.nan]]), ["b", "b", "a"])
    >>> dict(zip(names.tolist(), sums[:, 0].tolist()))
    {'a': nan, 'b': 3.0}
    """
    codes, finite = ImageCodes.of(images), np.isfinite(values)
    sums = codes.sums(np.where(finite, values, 0.0))
    sums[codes.sums(finite.astype(float)) == 0] = np.nan
    return sums, codes.names


def _sign_flips(n_images: int, n_resamples: int, seed: int, width: int) -> Iterator[np.ndarray]:
    """Blocks of sign patterns (rows, n_images): all of them if they are few, else ``n_resamples`` random ones."""
    if n_images <= _EXACT_IMAGES:
        for rows in _blocks(2**n_images, max(n_images, width)):
            yield 2.0 * ((np.arange(rows.start, rows.stop)[:, None] >> np.arange(n_images)) & 1) - 1
        return
    rng = np.random.default_rng(seed)
    for rows in _blocks(n_resamples, max(n_images, width)):
        yield np.where(rng.random((rows.stop - rows.start, n_images)) < 0.5, -1.0, 1.0)


def _quantiles(replicates: np.ndarray, tails: np.ndarray) -> np.ndarray:
    """(tails, columns) of what is not NaN; the slow path only for columns that have a NaN."""
    ends = np.quantile(replicates, tails, axis=0)
    partial = np.flatnonzero(np.isnan(ends).any(0) & np.isfinite(replicates).any(0))
    if partial.size:
        ends[:, partial] = np.nanquantile(replicates[:, partial], tails, axis=0)
    return ends


def _resample_counts(n_images: int, n_resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each image occurs in each resample: (n_resamples, n_images)."""
    counts = np.zeros((n_resamples, n_images), np.uint16)
    for rows in _blocks(n_resamples, n_images) if n_images else ():
        size = rows.stop - rows.start
        draws = rng.integers(0, n_images, (size, n_images)) + n_images * np.arange(size)[:, None]
        counts[rows] = np.bincount(draws.ravel(), minlength=size * n_images).reshape(size, n_images)
    return counts


def _blocks(n_rows: int, width: int) -> Iterator[slice]:
    step = max(1, _BLOCK_ENTRIES // max(1, width))
    for start in range(0, n_rows, step):
        yield slice(start, min(n_rows, start + step))


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator == 0, np.nan, numerator / denominator)
