"""How sure a profile's map is: intervals of every position from the folds of images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from biaslab.core.layers import resolve_layer
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.maps.moments import centred_log
from biaslab.maps.protocol import Maps, expect_maps
from biaslab.profiles.base import Profile
from biaslab.profiles.parts import parts_of
from biaslab.profiles.registry import positional
from biaslab.stats.jackknife import check_confidence, half_width

__all__ = ["MapInterval", "map_interval"]


class MapInterval(NamedTuple):
    """Centred log of expected attention, and its interval at every position.

    Attributes
    ----------
    log_map, lo, hi : (H or 1, N) array
        In natural log units, mean 0 over the positions (``log_map``); the ends of the interval.

    Examples
    --------
    >>> import numpy as np
    >>> interval = MapInterval(np.array([[-0.5, 0.5]]), np.array([[-0.8, 0.2]]), np.array([[-0.2, 0.8]]))
    >>> (interval.lo > 0) | (interval.hi < 0)  # where the interval excludes the average
    array([[ True,  True]])
    """

    log_map: np.ndarray
    lo: np.ndarray
    hi: np.ndarray


def map_interval(
    maps: Maps,
    *,
    estimator: Profile | str = "mean",
    layer: int | None = None,
    layout: TokenLayout | None = None,
    confidence: float = 0.95,
) -> MapInterval:
    """Compute a profile's log map with pointwise intervals: a delete-one-fold jackknife with Student's t.

    The estimator is fitted to all images and again without each fold, everything that it tunes included. The interval
    speaks of other images of the same kind, position by position (not of all positions at once), and of the estimator's
    variance alone: what an estimator cannot express, or smooths away, lies outside of it however many images there are.
    The map is the logarithm of ``expected`` with its mean over the positions taken off, so that a level common to all
    of them does not count.

    Parameters
    ----------
    maps : Maps
        Attention maps, stored or streamed, with images in three folds at least.
    estimator : Profile or str
        Name or instance; only its parameters are used.
    layer : int, optional
        Decoder layer; may be left out when ``maps`` holds only one.
    layout : TokenLayout, optional
        Default the layout that most images have; others need an estimator that transports.
    confidence : float
        Of the intervals, pointwise.

    Returns
    -------
    MapInterval
        The log map and the ends of its interval, (H or 1, N) each.

    Raises
    ------
    InputError
        Too few folds, or a layout that the estimator cannot serve without one of them.

    Examples
    --------
    >>> from biaslab.profiles import map_interval
    >>> from biaslab import TokenLayout
    >>> from biaslab.maps.simulate import simulate
    >>> layout = TokenLayout.raster(4, 4, size=(56, 56), family="demo")
    >>> maps = simulate("bottom-heavy", {layout: 60}).maps
    >>> log_map, lo, hi = map_interval(maps)
    >>> (lo > 0).reshape(4, 4).astype(int)  # where attention lies above the average, for sure
    array([[0, 0, 0, 0],
           [0, 0, 0, 0],
           [0, 0, 0, 0],
           [1, 1, 1, 1]])
    """
    expect_maps(maps)
    check_confidence(confidence)
    layer = resolve_layer(layer, maps.layers, "the maps", "collect")
    estimator = positional(estimator)
    filled = [f for f in range(maps.folds) if parts_of(maps, layer, only=[f])]
    if len(filled) < 3:
        raise InputError("intervals need images in at least three folds: collect more images")
    if layout is None:
        layout = max(parts_of(maps, layer), key=lambda p: p.n).layout

    def fit_log_map(folds: list[int]) -> np.ndarray:
        parts = parts_of(maps, layer, pieces=estimator.needs_folds, only=folds)
        if "layout" not in estimator.transports and layout.key not in {p.layout.key for p in parts}:
            raise InputError(
                f"the {estimator.name!r} estimator has too few images of layout {layout.key!r}: collect more, or use "
                "'tile' or 'factorised', which carry over"
            )
        return centred_log(estimator._expand(estimator._pool(parts), layout)[0])

    value = fit_log_map(filled)
    without = np.stack([fit_log_map([f for f in filled if f != g]) for g in filled])
    half = half_width(without, confidence=confidence)
    return MapInterval(value, value - half, value + half)
