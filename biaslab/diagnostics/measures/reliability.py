"""Split-half reliability of a profile against the number of calibration images: how many are enough."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from biaslab.core.layers import resolve_layers
from biaslab.diagnostics.log_maps import log_stacks
from biaslab.diagnostics.registry import register
from biaslab.errors import InputError
from biaslab.maps.protocol import expect_maps
from biaslab.stats.jackknife import jackknife_interval

__all__ = ["components", "reliability"]


@register("reliability", "Split-half reliability of the map against the number of images", stored=True)
def reliability(
    maps: Any,
    *,
    layers: int | Iterable[int] | None = None,
    seed: int = 0,
    sizes: Sequence[int] | None = None,
    n_resamples: int = 50,
    target: float = 0.9,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Estimate the reliability of the mean log map of n images: its correlation with a map of n other images.

    For every size n, ``n_resamples`` random sets of n images are split into halves; the correlation r of the halves'
    maps over positions is stepped up to n images, ``2 r / (1 + r)`` (Spearman and Brown 1910).

    The same follows without drawing from the two variance components of position i in image a, x_ai = p_i + e_ai:
    the products of *different* images estimate the variance of p, the rest is e, and the reliability of n images is
    ``var p / (var p + var e / n)``. This is ``predicted``, and its delete-one-image jackknife gives the interval
    (resampled images would occur in both halves). Where split halves and prediction agree, the interval serves both;
    at small sizes the drawn reliability lies higher where a few images are far noisier than the others, as most draws
    miss them.

    Parameters
    ----------
    maps : AttentionMaps
        Stored, as single images are read.
    layers : int or iterable of int, optional
        Default all that ``maps`` holds.
    seed : int
        Of the random sets.
    sizes : sequence of int, optional
        Numbers of images; default 10, 20, 50, 100 ... and all. Sizes beyond a layout's images are left out.
    n_resamples : int
        Random sets per size.
    target : float
        Reliability for which ``n_for_target`` is computed, in (0, 1).
    confidence : float
        Of the intervals, in (0, 1).

    Returns
    -------
    DataFrame
        One row per layer, head, layout and size: layer, head, layout, n, reliability (mean over draws), draw_lo,
        draw_hi (2.5 and 97.5 % of the draws), predicted, predicted_lo, predicted_hi, n_for_target (images for
        ``target``; inf without bias). Layouts of fewer than four images are left out.

    Raises
    ------
    InputError
        Streamed maps; no layout with four images; bad arguments.

    References
    ----------
    Spearman (1910), "Correlation calculated from faulty data", British Journal of Psychology 3, 271-295.
    Brown (1910), "Some experimental results in the correlation of mental abilities", ibid., 296-322.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from biaslab import TokenLayout
    >>> from biaslab.diagnostics.measures.reliability import reliability
    >>> from biaslab.maps.base import ImageRecord
    >>> from biaslab.maps.stored import StoredMaps
    >>> layout, rng = TokenLayout.raster(6, 6, size=(336, 336), family="llava"), np.random.default_rng(0)
    >>> with TemporaryDirectory() as folder:
    ...     maps = StoredMaps.create(folder, {"heads": "mean", "layers": [5], "folds": 5})
    ...     with maps.writing():
    ...         for i in range(20):
    ...             logs = 0.3 * layout.row + rng.normal(size=36)
    ...             maps.add(ImageRecord(str(i), layout, str(i)), np.exp(logs)[None, None])
    ...     table = reliability(maps, sizes=[4, 20])
    >>> table[["layer", "n", "predicted", "predicted_lo", "predicted_hi", "n_for_target"]].round(2)
       layer   n  predicted  predicted_lo  predicted_hi  n_for_target
    0      5   4       0.52          0.43          0.60          34.0
    1      5  20       0.84          0.80          0.89          34.0
    """
    expect_maps(maps)
    if n_resamples < 1 or not 0 < target < 1 or (sizes is not None and min(sizes, default=0) < 4):
        raise InputError("reliability needs n_resamples >= 1, a target between 0 and 1 and sizes of at least 4 images")
    rows: list[dict] = []
    for layer in resolve_layers(layers, maps.layers, "the maps", "collect"):
        for head, stacks in log_stacks(maps, layer):
            for key, (_, x) in stacks.items():
                if len(x) >= 4:
                    same = {"layer": layer, "head": head, "layout": key}
                    rows += [same | r for r in _of_one(x, sizes, n_resamples, target, confidence, seed)]
    if not rows:
        raise InputError("no layout has four images and as many as the smallest size: collect more images")
    return pd.DataFrame(rows)


def components(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Estimate the variance over positions of the true map and of one image around it.

    Parameters
    ----------
    x : ndarray
        (n, N) log attention centred per image, n >= 3.

    Returns
    -------
    signal, noise : ndarray
        (1 + n,) each; entry 0 of all images, entry 1 + a without image a. The signal's estimate is unbiased, so
        without bias it is as often negative as positive.
    """
    n, width = x.shape
    total = x.sum(0)
    square, cross = (x**2).sum(1), x @ total
    both = np.concatenate([[total @ total], total @ total - 2 * cross + square])
    own = np.concatenate([[square.sum()], square.sum() - square])
    count = np.r_[n, np.full(n, n - 1)]
    signal = (both - own) / (count * (count - 1)) / width
    return signal, own / count / width - signal


def _of_one(x: np.ndarray, sizes: Any, n_resamples: int, target: float, confidence: float, seed: int) -> list[dict]:
    n = len(x)
    kept_sizes = sorted({s for s in (sizes or [*_usual(n), n]) if s <= n})
    signal, noise = components(x)
    n_for_target = np.inf
    if signal[0] > 0:
        n_for_target = max(1.0, float(np.ceil(target / (1 - target) * noise[0] / signal[0])))
    rng = np.random.default_rng(seed)
    rows = []
    for size in kept_sizes:
        values = np.array([_split(x[rng.permutation(n)[:size]]) for _ in range(n_resamples)])
        values = values[~np.isnan(values)]  # halves that do not vary have no correlation
        low, high = np.percentile(values, [2.5, 97.5]) if values.size else (np.nan, np.nan)
        predicted = _at(signal, noise, size)
        lo, hi = jackknife_interval(predicted[0], predicted[1:], confidence=confidence)
        rows.append(
            {"n": size, "reliability": float(values.mean()) if values.size else np.nan, "draw_lo": low, "draw_hi": high,
             "predicted": predicted[0], "predicted_lo": float(lo), "predicted_hi": min(float(hi), 1.0),
             "n_for_target": n_for_target}
        )  # fmt: skip
    return rows


def _at(signal: np.ndarray, noise: np.ndarray, n: int) -> np.ndarray:
    """0 where position explains nothing, as the correlation of two maps of noise is on average."""
    signal = np.maximum(signal, 0.0)
    bottom = signal + noise / n
    return np.divide(signal, bottom, out=np.zeros_like(signal), where=bottom > 0)


def _split(x: np.ndarray) -> float:
    half = len(x) // 2
    first, second = x[:half].mean(0), x[half:].mean(0)  # centred over positions, as every image is
    scale = np.sqrt((first @ first) * (second @ second))
    r = first @ second / scale if scale > 0 else np.nan
    return 2 * r / (1 + r) if r > -0.5 else -1.0 if r <= -0.5 else np.nan  # the step-up has a pole at -1


def _usual(n: int) -> list[int]:
    return [s for s in (10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if s < n]
