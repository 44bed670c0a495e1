"""Which heads look at something: a quality of attention heads that asks for no labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np
import pandas as pd

from biaslab.core.layers import resolve_layers
from biaslab.core.neighbours import neighbours
from biaslab.errors import InputError
from biaslab.maps.base import fold_of
from biaslab.maps.looking import LOOKS, moran_and_skewness
from biaslab.maps.moments import centred_log
from biaslab.maps.protocol import Maps, ReadableMaps
from biaslab.stats.jackknife import half_width

__all__ = ["head_quality", "quality_of", "quality_sums"]

_TINY = 1e-9
_FEWEST = 4  # images


def head_quality(
    maps: Maps, *, layers: Iterable[int] | None = None, n: int = 400, confidence: float = 0.95
) -> pd.DataFrame:
    """Rate attention heads by what their attention does that position does not explain.

    Of each head and image, L is the logarithm of the attention, centred over the image, and D what is left of it
    without the mean of *other* images (the other folds) at the same place. Then

        quality = (1 - R2) * Moran * skewness,

    negative factors counting as 0: R2 is the share of L that position explains, ``1 - sum D^2 / sum L^2``; Moran the
    spatial autocorrelation of D between tokens that touch (looks at blobs, not at specks); skewness that of D (few
    tokens stick out, upwards). A head that gives the image less than 1 % of its attention has quality 0.

    Heads that localise an expression's target rank high without anybody saying where the target is.

    Parameters
    ----------
    maps : StoredMaps, or a view of them
        Of every head.
    layers : iterable of int, optional
        Decoder layers; default all that ``maps`` holds.
    n : int
        Images at most, the first ones: 50 tell the heads apart.
    confidence : float
        Of the intervals.

    Returns
    -------
    DataFrame
        A row per layer and head: ``layer``, ``head``, ``quality``, ``lo``, ``hi`` (jackknife over images),
        ``position`` (R2), ``moran``, ``skewness``, ``mass`` (mean share of the head's attention on the image).

    Raises
    ------
    InputError
        Maps of the mean over heads, of fewer than 4 images, or whose images cannot be read one by one: D is what is
        left of an image without the mean of others, which is known only once all have been seen.

    Examples
    --------
    >>> from biaslab import TokenLayout
    >>> from biaslab.maps.simulate import simulate
    >>> from biaslab.profiles import head_quality
    >>> layout = TokenLayout.raster(4, 4, size=(56, 56), family="demo")
    >>> head_quality(simulate("u-shaped", {layout: 9}, heads=2).maps)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    biaslab.errors.InputError: the quality of heads is read off single images, which streamed maps do not keep: ...
    """
    if maps.heads == "mean":
        raise InputError("these maps hold the mean over heads: collect them with heads='all'")
    if not hasattr(maps, "record"):
        raise InputError(
            "the quality of heads is read off single images, which streamed maps do not keep: collect with "
            "out='FOLDER' (`biaslab fit-bias --maps FOLDER`)"
        )
    if min(n, maps.n) < _FEWEST:
        raise InputError(f"the quality of heads needs at least {_FEWEST} images, got {min(n, maps.n)}")
    rows, readable = [], cast("ReadableMaps", maps)
    for layer in resolve_layers(layers, maps.layers, "the maps", "collect"):
        rows += _of_layer(readable, layer, min(n, maps.n), confidence)
    return pd.DataFrame(rows)


def quality_sums(maps: ReadableMaps, layer: int, n: int) -> np.ndarray:
    """Measure each of the first ``n`` images: (n, 5, H), of which `quality_of` makes the quality of any of them."""
    expected: dict[tuple[str, int], np.ndarray] = {}
    for i in range(n):
        record = maps.record(i)
        key, fold = record.layout.key, fold_of(record.id, maps.folds)
        if (key, fold) not in expected:
            others = maps.moments(layer, key, exclude_fold=fold)
            # an image alone with its layout has no other ones to say what its places draw
            expected[key, fold] = others.log_mean if others.n else np.zeros_like(others.log_mean)
    return np.stack([_of_image(maps, layer, i, expected) for i in range(n)])


def quality_of(sums: np.ndarray, n: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Rate heads by the sum (5, H) over ``n`` images of `quality_sums`: quality (H,), and what it is made of."""
    position = 1 - sums[0] / np.maximum(sums[1], _TINY)
    moran, skewness, mass = sums[2:] / n
    factors = [np.clip(1 - position, 0, 1), np.clip(moran, 0, 1), np.clip(skewness, 0, None)]
    quality = np.where(mass >= LOOKS, np.prod(factors, axis=0), 0)
    return quality, {"position": position, "moran": moran, "skewness": skewness, "mass": mass}


def _of_layer(maps: ReadableMaps, layer: int, n: int, confidence: float) -> list[dict]:
    sums = quality_sums(maps, layer, n)
    quality, parts = quality_of(sums.sum(0), n)
    left_out = np.stack([quality_of(sums.sum(0) - own, n - 1)[0] for own in sums])
    half = half_width(left_out, confidence=confidence)
    columns = {"quality": quality, "lo": np.maximum(quality - half, 0), "hi": quality + half, **parts}
    return [
        {"layer": layer, "head": head, **{name: float(values[head]) for name, values in columns.items()}}
        for head in range(len(quality))
    ]


def _of_image(maps: ReadableMaps, layer: int, index: int, expected: Mapping[tuple[str, int], np.ndarray]) -> np.ndarray:
    record = maps.record(index)
    attention = maps.image(index, layer)
    log = centred_log(attention)
    rest = log - expected[record.layout.key, fold_of(record.id, maps.folds)]
    first, second = neighbours(record.layout)
    moran, skewness = moran_and_skewness(rest - rest.mean(1, keepdims=True), first, second)
    # D^2, L^2, Moran, skewness, mass
    return np.stack([(rest**2).sum(1), (log**2).sum(1), moran, skewness, attention.sum(1)])
