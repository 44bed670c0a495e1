"""The interval of an accuracy over images, also with few of them and where all expressions are hits, or none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from biaslab.errors import InputError
from biaslab.stats.image_codes import ImageCodes
from biaslab.stats.resampling import ImageBootstrap, Interval, sum_by_image

__all__ = ["FEW_IMAGES", "cluster_wilson", "hit_rate"]

#: from so many images on the percentile bootstrap is used
FEW_IMAGES = 50


def hit_rate(
    hits: np.ndarray, images: Sequence | np.ndarray | ImageCodes, *, bootstrap: ImageBootstrap | None = None
) -> Interval:
    """Estimate accuracies with intervals over images.

    With fewer than 50 images, and with any number where all are hits or none: Wilson's interval with the effective
    number of samples (`cluster_wilson`). Else the percentile bootstrap over images.

    Parameters
    ----------
    hits : (n,) or (n, columns) array
        1 for a hit, 0 for a miss; NaN where there is no verdict.
    images : (n,) sequence or ImageCodes
        Image id of every sample.
    bootstrap : ImageBootstrap, optional
        Of the same images, drawn before; its confidence is that of the intervals.

    Returns
    -------
    Interval
        In [0, 1]; the value is the plain share of hits. Floats for (n,) hits, else (columns,) arrays. NaN ends with
        fewer than two images.

    Raises
    ------
    InputError
        Values that are no hits and misses.

    Notes
    -----
    Ten hits of ten do not show that there will never be a miss, as the bootstrap's [1, 1] says: no resample can hold
    what the sample does not. Coverage of nominal 95 % intervals measured by ``python -m benchmarks.coverage``
    (accuracies .50, .80, .90, .97, 1 to 3 expressions per image, 4,000 data sets each; lowest and mean of the four):

    ======  ===========  ===========
    images  percentile   Wilson's
    ======  ===========  ===========
    10      .413, .764   .974, .978
    25      .736, .875   .955, .962
    49      .915, .931   .952, .960
    100     .919, .937   .948, .950
    200     .935, .945   .950, .952
    ======  ===========  ===========

    Between 50 and some 200 images the percentiles are a little short for accuracies near 1 (.919 of .95 at .97). They
    stay there, so that tables which are published stay as they are.

    References
    ----------
    Wilson (1927), Probable inference, the law of succession, and statistical inference, JASA 22.
    Korn and Graubard (1998), Confidence intervals for proportions with small expected number of positive counts
    estimated from survey data, Survey Methodology 24 (the effective number and its Student's quantile).

    Examples
    --------
    >>> import numpy as np
    >>> from biaslab.stats.hit_rate import hit_rate
    >>> [round(v, 2) for v in hit_rate(np.ones(10), np.arange(10))]
    [1.0, 0.66, 1.0]
    """
    hits = np.asarray(hits, float)
    if not np.isin(hits[np.isfinite(hits)], (0.0, 1.0)).all():
        raise InputError("hit_rate takes hits and misses, 1 and 0: use ImageBootstrap.mean for other values")
    images = ImageCodes.of(images)
    bootstrap = bootstrap or ImageBootstrap(images)
    table = hits[:, None] if hits.ndim == 1 else hits
    found = bootstrap.mean(table)
    value, low, high = (np.array(part, float) for part in found)
    sums, _ = sum_by_image(table, images)
    counts, _ = sum_by_image(np.where(np.isfinite(table), 1.0, np.nan), images)
    for column in range(table.shape[1]):
        known = np.isfinite(sums[:, column])
        if known.sum() > 1 and (known.sum() < FEW_IMAGES or low[column] == high[column]):
            ends = cluster_wilson(sums[known, column], counts[known, column], bootstrap.confidence)
            low[column], high[column] = ends
    parts = (value, low, high)
    return Interval(*(float(part[0]) if hits.ndim == 1 else part for part in parts))


def cluster_wilson(sums: np.ndarray, counts: np.ndarray, confidence: float) -> tuple[float, float]:
    """Wilson's interval of a share, from the hits and the number of samples of each image.

    The number of samples that enters is the effective one: the binomial variance over that between images, no more than
    there are samples, and no less than if all samples of an image were always alike, which is what is assumed where all
    are hits or none. The quantile is Student's with images - 1 degrees of freedom.

    Parameters
    ----------
    sums, counts : (images,) array
        Hits and samples of each of two images or more.
    confidence : float
        Nominal coverage, in (0, 1).

    Returns
    -------
    low, high : float

    Examples
    --------
    >>> import numpy as np
    >>> from biaslab.stats.hit_rate import cluster_wilson
    >>> alike = cluster_wilson(np.full(20, 2.0), np.full(20, 2.0), 0.95)  # 40 hits, of 20 images
    >>> [round(v, 2) for v in alike]
    [0.82, 1.0]
    """
    n, images = counts.sum(), len(counts)
    share = sums.sum() / n
    fewest = n**2 / (counts**2).sum()
    between = ((sums - share * counts) ** 2).sum() / n**2 * images / (images - 1)
    effective = float(np.clip(share * (1 - share) / between, fewest, n)) if between > 0 else fewest
    t2 = stats.t.ppf(0.5 + confidence / 2, images - 1) ** 2
    centre = (share + t2 / (2 * effective)) / (1 + t2 / effective)
    half = np.sqrt(t2 * (share * (1 - share) / effective + t2 / (4 * effective**2))) / (1 + t2 / effective)
    # at the ends exactly: rounding must not exclude the share itself
    return (0.0 if share == 0 else float(centre - half)), (1.0 if share == 1 else float(centre + half))
