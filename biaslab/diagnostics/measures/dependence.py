"""Dependence of attention on row and on column, of any shape, with a null that keeps autocorrelation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from biaslab.core.layers import resolve_layers
from biaslab.core.layout import TokenLayout
from biaslab.diagnostics.log_maps import log_stacks
from biaslab.diagnostics.registry import register
from biaslab.errors import InputError
from biaslab.maps.protocol import expect_maps
from biaslab.stats.jackknife import jackknife_interval
from biaslab.stats.multiple_testing import q_values

__all__ = ["dependence"]

_BLOCK = 2**17  # numbers that the null moves at once: they stay in the cache


@register("dependence", "Share of log attention that row or column explains, with a permutation null", stored=True)
def dependence(
    maps: Any,
    *,
    layers: int | Iterable[int] | None = None,
    seed: int = 0,
    null: str = "shift",
    n_resamples: int = 999,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Estimate eta squared, the share of the variance of log attention between rows, or columns, of tiles.

    Log attention is centred per image. Shape does not matter: a U counts as much as a slope. The variance between
    row means is estimated from products of *different* images, so without dependence it is 0 on average (and as often
    negative). Rows and columns are those of a tile; several tiles of an image are averaged; thumbnail
    and padding are left out.

    Null hypothesis: an image's attention falls anywhere in the tile alike. ``null="shift"`` rolls every image's map
    around the tile by a random number of rows (columns), which keeps its content, level and spatial autocorrelation
    and breaks only where it lies (all tiles of an image move together). The wrap makes one seam per image, so it is
    exact for fields that are stationary on the torus only, and nearly so otherwise. ``null="permutation"`` shuffles
    the tokens of every image: it also breaks autocorrelation, is too narrow for smooth attention, and is liberal.

    Content that lies at one place over images (photographers centre their subjects) is dependence too: neither null
    tells it from the model's bias.

    Parameters
    ----------
    maps : AttentionMaps
        Stored, as single images are read.
    layers : int or iterable of int, optional
        Default all that ``maps`` holds.
    seed : int
        Of the null's draws.
    null : {"shift", "permutation"}
        The null hypothesis.
    n_resamples : int
        Draws of the null; the smallest p is 1 / (n_resamples + 1).
    confidence : float
        Of the intervals, in (0, 1).

    Returns
    -------
    DataFrame
        One row per layer, head and axis: layer, head, axis ("row" or "col"), eta2, eta2_lo, eta2_hi (delete-one-image
        jackknife), null_hi (95 % of the null), p, q (Benjamini and Hochberg 1995 over all rows of
        the table), rho (Spearman's rank correlation of the mean map with the coordinate, which a U leaves near 0), n,
        null. Attention that does not vary over positions at all (a head that does not see the image)
        has NaN, and no part in q.

    Raises
    ------
    InputError
        Streamed maps, fewer than three images, bad arguments.

    References
    ----------
    Benjamini and Hochberg (1995), "Controlling the false discovery rate", J. R. Stat. Soc. B 57, 289-300.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from biaslab import TokenLayout
    >>> from biaslab.diagnostics.measures.dependence import dependence
    >>> from biaslab.maps.base import ImageRecord
    >>> from biaslab.maps.stored import StoredMaps
    >>> layout, rng = TokenLayout.raster(6, 6, size=(336, 336), family="llava"), np.random.default_rng(0)
    >>> with TemporaryDirectory() as folder:
    ...     maps = StoredMaps.create(folder, {"heads": "mean", "layers": [5], "folds": 5})
    ...     with maps.writing():
    ...         for i in range(20):
    ...             logs = 0.3 * layout.row + rng.normal(size=36)
    ...             maps.add(ImageRecord(str(i), layout, str(i)), np.exp(logs)[None, None])
    ...     table = dependence(maps, n_resamples=99)
    >>> table[["layer", "axis", "eta2", "eta2_lo", "eta2_hi", "p", "n"]].round(2)
       layer axis  eta2  eta2_lo  eta2_hi     p   n
    0      5  row  0.21     0.15     0.26  0.01  20
    1      5  col  0.01    -0.01     0.03  0.05  20
    """
    expect_maps(maps)
    if null not in ("shift", "permutation") or n_resamples < 1:
        raise InputError(
            f"null must be shift or permutation and n_resamples at least 1, got {null!r} and {n_resamples}"
        )
    rows = []
    for layer in resolve_layers(layers, maps.layers, "the maps", "collect"):
        for head, stacks in log_stacks(maps, layer):
            rng = np.random.default_rng(seed)  # the same draws for every layer and head
            usable = [(layout, x) for layout, x in stacks.values() if len(x) >= 3]
            if not usable:
                raise InputError("dependence needs three images of one layout: collect more images")
            for axis in ("row", "col"):
                estimates = _of_one(usable, axis, null, n_resamples, confidence, rng)
                rows.append({"layer": layer, "head": head, "axis": axis, **estimates, "null": null})
    table = pd.DataFrame(rows)
    table.insert(list(table.columns).index("p") + 1, "q", q_values(table["p"]))
    return table


def _of_one(usable: list, axis: str, null: str, n_resamples: int, confidence: float, rng: np.random.Generator) -> dict:
    between, drawn, total, rho, images = [], [], [], [], 0
    for layout, x in usable:
        plane = ~layout.thumbnail & layout.in_image
        at = getattr(layout, axis)[plane]
        x = x[:, plane] - x[:, plane].mean(1, keepdims=True)
        means, weight = _bin_means(x, at)
        n = len(x)
        # sums over images, so that layouts add; entry 0 of all images, then without each
        between.append(n * _signal(means, weight))
        drawn.append(n * _null(x, at, means, weight, layout, null, n_resamples, rng))
        square = (x**2).mean(1)
        total.append(np.r_[square.sum(), square.sum() - square])
        rho.append((n, _rank_correlation(x.mean(0), at)))
        images += n
    # leaving out an image of one layout leaves the others whole
    with np.errstate(divide="ignore", invalid="ignore"):
        value = sum(b[0] for b in between) / (whole := sum(t[0] for t in total))
        without = np.concatenate([
            (sum(b[0] for b in between) - b[0] + b[1:] * (len(b) - 2) / (len(b) - 1)) / (whole - t[0] + t[1:])
            for b, t in zip(between, total, strict=True)
        ])  # fmt: skip
        under = sum(drawn) / whole
    lo, hi = jackknife_interval(value, without, confidence=confidence)
    p = (1 + (under >= value - 1e-12).sum()) / (1 + n_resamples)
    return {
        "eta2": value, "eta2_lo": float(lo), "eta2_hi": float(hi), "null_hi": float(np.quantile(under, 0.95)),
        "p": float(p) if np.isfinite(value) else np.nan,
        "rho": sum(n * r for n, r in rho) / images, "n": images,
    }  # fmt: skip


def _rank_correlation(x: np.ndarray, at: np.ndarray) -> float:
    """Spearman's; NaN where one of the two does not vary."""
    return float(stats.spearmanr(x, at)[0]) if np.ptp(x) > 0 and np.ptp(at) > 0 else np.nan


def _bin_means(x: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, R) means over the tokens of each row (or column), and (R,) share of the tokens."""
    values, index = np.unique(at, return_inverse=True)
    count = np.bincount(index)
    return x @ np.eye(len(values))[index] / count, count / count.sum()


def _signal(means: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(1 + n,) unbiased variance between rows of the true map: of all images, then without each."""
    n = len(means)
    total = means.sum(0)
    own, both = (means**2) @ weight, (total**2) @ weight
    left = both - 2 * (means * total) @ weight + own
    return np.r_[(both - own.sum()) / (n * (n - 1)), (left - (own.sum() - own)) / ((n - 1) * (n - 2))]


def _null(
    x: np.ndarray,
    at: np.ndarray,
    means: np.ndarray,
    weight: np.ndarray,
    layout: TokenLayout,
    null: str,
    n_resamples: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """(draws,) variance between rows with every image's map moved."""
    n, width = means.shape
    if null == "permutation":
        every = (_bin_means(rng.permuted(x, axis=1), at)[0][None] for _ in range(n_resamples))
    else:  # rolling the map along an axis rolls its row means; many draws at once, as many as memory is nothing to
        images, places = np.arange(n)[:, None], np.arange(width)
        at_once = max(1, _BLOCK // means.size)
        every = (
            means[images, (places + rng.integers(0, width, (min(at_once, n_resamples - done), n, 1))) % width]
            for done in range(0, n_resamples, at_once)
        )
    return np.concatenate([_moved_signal(moved, weight) for moved in every])


def _moved_signal(moved: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(draws,) unbiased variance between rows of (draws, n, R) row means, as entry 0 of :func:`_signal`."""
    n = moved.shape[1]
    return ((moved.sum(1) ** 2) @ weight - (moved**2).sum(1) @ weight) / (n * (n - 1))
