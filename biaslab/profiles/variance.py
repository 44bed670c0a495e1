"""How much of the attention's variance position explains on images the profile was not fitted on.

Worked on log attention centred per image (and head), so that neither the share of attention an image draws as
a whole nor a few huge sinks decide. For image i and position j, with x_ij centred, the share is

    R2 = 1 - sum_ij (x_ij - p_j)^2 / sum_ij x_ij^2,

p_j being predicted from the *other* folds of images. Both sums follow from the count, mean and variance of
each fold, so streamed moments are enough. A negative share means that position, as this estimator sees it,
predicts worse than "all positions alike". What position would explain in the limit of many images stands beside it
(:mod:`biaslab.profiles.asymptotic`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from biaslab._util.one_line import OneLine
from biaslab._util.watermark import stamp_table
from biaslab.core.layers import resolve_layer, resolve_layers
from biaslab.errors import InputError
from biaslab.maps.protocol import Maps, expect_maps
from biaslab.profiles.asymptotic import asymptotic_share
from biaslab.profiles.base import Profile
from biaslab.profiles.parts import Part, logs, merged, parts_of
from biaslab.profiles.registry import check_frames, positional
from biaslab.stats.jackknife import check_confidence, half_width

__all__ = ["VarianceExplained", "log_folds", "variance_explained", "variance_table"]

_SHARES = ("r2", "r2_lo", "r2_hi", "r2_asymptotic", "r2_asymptotic_lo", "r2_asymptotic_hi")


@dataclass(frozen=True, repr=False)
class VarianceExplained(OneLine):
    """Share of the variance of centred log attention that position explains on held-out images.

    Attributes
    ----------
    layer : int
        Decoder layer.
    estimator : str
        Name of the estimator.
    r2, r2_lo, r2_hi : float
        Share over all heads together and its interval (NaN with fewer than three folds of images).
    r2_asymptotic, r2_asymptotic_lo, r2_asymptotic_hi : float
        Share that the true map of each position would explain, over all heads together, and its interval: what a
        profile would explain in the limit of many calibration images. It depends on no estimator; ``r2`` lies below it
        by the noise of a profile of so few images, and by what the estimator cannot express.
    per_head_r2, per_head_r2_lo, per_head_r2_hi : (H or 1,) array
        The same of each head.
    per_head_r2_asymptotic, per_head_r2_asymptotic_lo, per_head_r2_asymptotic_hi : (H or 1,) array
        The same of each head.
    n : int
        Images scored; images of a layout that the other folds do not hold, and the estimator cannot reach, are not.
    folds : int
        Folds that have images.

    Examples
    --------
    >>> from biaslab import TokenLayout
    >>> from biaslab.maps.simulate import simulate
    >>> maps = simulate("bottom-heavy", {TokenLayout.raster(4, 4, size=(56, 56), family="demo"): 60}).maps
    >>> share = variance_explained(maps)
    >>> share.r2_lo < share.r2 < share.r2_hi, share.n, share.folds
    (True, 60, 5)
    """

    layer: int
    estimator: str
    r2: float
    r2_lo: float
    r2_hi: float
    r2_asymptotic: float
    r2_asymptotic_lo: float
    r2_asymptotic_hi: float
    per_head_r2: np.ndarray
    per_head_r2_lo: np.ndarray
    per_head_r2_hi: np.ndarray
    per_head_r2_asymptotic: np.ndarray
    per_head_r2_asymptotic_lo: np.ndarray
    per_head_r2_asymptotic_hi: np.ndarray
    n: int
    folds: int


def variance_explained(
    maps: Maps, *, estimator: Profile | str = "mean", layer: int | None = None, confidence: float = 0.95
) -> VarianceExplained:
    """Measure the held-out share of the variance of log attention that position explains in one layer.

    Log attention is centred per image and head; the formula is at the top of the module.

    Parameters
    ----------
    maps : Maps
        Attention maps, stored or streamed (``layers``, ``layouts``, ``folds`` and ``moments(..., fold=)`` are read).
    estimator : Profile or str
        Name or instance; only its parameters are used, it is not fitted and not changed.
    layer : int, optional
        Decoder layer; may be left out when ``maps`` holds only one.
    confidence : float
        Of the intervals, a delete-one-fold jackknife (all predictions refitted without the fold) with Student's t.

    Returns
    -------
    VarianceExplained
        Shares over all heads together and of each head.

    Raises
    ------
    InputError
        Layer not held, or images in fewer than two folds.

    Examples
    --------
    >>> from biaslab import variance_explained
    >>> from biaslab import TokenLayout
    >>> from biaslab.maps.simulate import simulate
    >>> layout = TokenLayout.raster(4, 4, size=(56, 56), family="demo")
    >>> maps = simulate("bottom-heavy", {layout: 60}).maps
    >>> share = variance_explained(maps)
    >>> f"{share.r2:.2f} [{share.r2_lo:.2f}, {share.r2_hi:.2f}], in the limit {share.r2_asymptotic:.2f}"
    '0.21 [0.14, 0.28], in the limit 0.23'
    """
    expect_maps(maps)
    layer = resolve_layer(layer, maps.layers, "the maps", "collect")
    check_confidence(confidence)
    estimator = positional(estimator)
    folds = log_folds(maps, layer)
    if len(folds) < 2:
        raise InputError("held-out variance needs images in at least two folds: collect more images")
    total, residual, n = _sums(folds, estimator)
    if n == 0:
        raise InputError("no layout occurs in two folds: collect more images, or use estimator='tile'")
    # row 0: all heads together; then one row per head
    value = _share(total, residual)
    left_out = [_sums(folds[:g] + folds[g + 1 :], estimator)[:2] for g in range(len(folds))]
    half = half_width(np.stack([_share(t, r) for t, r in left_out]), confidence=confidence)
    lo, hi = value - half, np.minimum(value + half, 1.0)
    limit, limit_lo, limit_hi = asymptotic_share(folds, confidence=confidence)
    return VarianceExplained(
        layer=int(layer),
        estimator=estimator.name,
        r2=float(value[0]),
        r2_lo=float(lo[0]),
        r2_hi=float(hi[0]),
        r2_asymptotic=float(limit[0]),
        r2_asymptotic_lo=float(limit_lo[0]),
        r2_asymptotic_hi=float(limit_hi[0]),
        per_head_r2=value[1:],
        per_head_r2_lo=lo[1:],
        per_head_r2_hi=hi[1:],
        per_head_r2_asymptotic=limit[1:],
        per_head_r2_asymptotic_lo=limit_lo[1:],
        per_head_r2_asymptotic_hi=limit_hi[1:],
        n=n,
        folds=len(folds),
    )


def variance_table(
    maps: Maps,
    *,
    layers: int | Iterable[int] | None = None,
    estimator: Profile | str = "mean",
    per_head: bool = False,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Tabulate :func:`variance_explained` of several layers.

    Parameters
    ----------
    maps : Maps
        Attention maps, stored or streamed.
    layers : int or iterable of int, optional
        Decoder layers; default all that ``maps`` holds.
    estimator : Profile or str
        Name or instance; only its parameters are used.
    per_head : bool
        Whether each head has a row beside all heads together.
    confidence : float
        Of the intervals.

    Returns
    -------
    DataFrame
        Columns layer, head, r2, r2_lo, r2_hi, r2_asymptotic, r2_asymptotic_lo, r2_asymptotic_hi, n, folds, estimator.
        ``head`` is "all", or the head's index with ``per_head``.

    Raises
    ------
    InputError
        Layer not held, or images in fewer than two folds.

    Examples
    --------
    >>> from biaslab.profiles import variance_table
    >>> from biaslab import TokenLayout
    >>> from biaslab.maps.simulate import simulate
    >>> layout = TokenLayout.raster(4, 4, size=(56, 56), family="demo")
    >>> maps = simulate("bottom-heavy", {layout: 60}, layers=2).maps
    >>> table = variance_table(maps)
    >>> table[["layer", "head", "r2", "r2_lo", "r2_hi", "n"]].round(2)
       layer head    r2  r2_lo  r2_hi   n
    0      0  all  0.19   0.16   0.22  60
    1      1  all  0.21   0.11   0.30  60
    """
    expect_maps(maps)
    rows = []
    for layer in resolve_layers(layers, maps.layers, "the maps", "collect"):
        v = variance_explained(maps, estimator=estimator, layer=layer, confidence=confidence)
        columns = [[getattr(v, c), *(getattr(v, f"per_head_{c}") if per_head else ())] for c in _SHARES]
        for h, values in enumerate(zip(*columns, strict=True)):
            shares = dict(zip(_SHARES, map(float, values), strict=True))
            rows.append({"layer": v.layer, "head": "all" if h == 0 else str(h - 1), **shares, "n": v.n,
                         "folds": v.folds, "estimator": v.estimator})  # fmt: skip
    table = pd.DataFrame(rows, columns=["layer", "head", *_SHARES, "n", "folds", "estimator"])
    return stamp_table(table, maps.provenance)


def log_folds(maps: Maps, layer: int) -> list[list[Part]]:
    """Log moments fold by fold, of the folds that have images."""
    folds = (logs(parts_of(maps, layer, only=[f])) for f in range(maps.folds))
    return [parts for parts in folds if parts]


def held_out(folds: list[list[Part]], estimator: Profile) -> Iterator[tuple[Part, np.ndarray, list[Part]]]:
    """Predict each fold from the others; layouts that cannot be predicted are left out.

    Parameters
    ----------
    folds : list of list of Part
        Log moments, fold by fold (:func:`log_folds`).
    estimator : Profile
        Only its parameters are used.

    Yields
    ------
    part : Part
        Log moments of a layout's images in the fold.
    predicted : (H or 1, N) array
        Centred log map that the other folds predict.
    train : list of Part
        Log moments of the other folds.
    """
    check_frames(estimator, (part.layout for parts in folds for part in parts))
    for f, tested in enumerate(folds):
        train = merged([p for g, parts in enumerate(folds) if g != f for p in parts], pieces=estimator.needs_folds)
        for part in tested:
            predicted = estimator.log_map(train, part.layout)
            if predicted is not None:
                yield part, predicted, train


def _sums(folds: list[list[Part]], estimator: Profile) -> tuple[np.ndarray, np.ndarray, int]:
    """(H,) total and residual sums of squares, and images scored, each fold predicted from the others."""
    total, residual = np.zeros((2, len(folds[0][0].mean)))  # heads, also where nothing can be scored
    images = 0
    for part, predicted, _ in held_out(folds, estimator):
        total = total + part.n * (part.var + part.mean**2).sum(axis=1)
        residual = residual + part.n * (part.var + (part.mean - predicted) ** 2).sum(axis=1)
        images += part.n
    return total, residual, images


def _share(total: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """(1 + H,) explained share: all heads together, then each head; NaN where attention does not vary at all."""
    total, residual = (np.concatenate([[x.sum()], x]) for x in (total, residual))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, 1.0 - residual / total, np.nan)
