"""Trend of attention from tile to tile along the sequence."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from biaslab.core.layers import resolve_layers
from biaslab.diagnostics.log_maps import fold_means, head_names
from biaslab.diagnostics.registry import register
from biaslab.errors import InputError
from biaslab.maps.protocol import Maps, expect_maps
from biaslab.stats.jackknife import jackknife_interval

__all__ = ["tile_order"]


@register("tile_order", "Slope of log attention against the tile's order")
def tile_order(maps: Maps, *, layers: int | Iterable[int] | None = None, confidence: float = 0.95) -> pd.DataFrame:
    """Fit the least-squares slope of log attention, centred per image, against the order of the tile.

    The thumbnail is left out. Every image has its own level, so images of many tiles and of few are pooled by their
    tiles. Tiles stand in reading order: later tiles also lie lower in the image, so that a trend of the sequence and
    one of the image's rows are told apart only by layouts of one row of tiles.

    Intervals: delete-one-fold jackknife with Student's t; streamed moments are enough.

    Parameters
    ----------
    maps : Maps
        Stored or streamed.
    layers : int or iterable of int, optional
        Default all that ``maps`` holds.
    confidence : float
        Of the intervals, in (0, 1).

    Returns
    -------
    DataFrame
        One row per layer and head: layer, head, slope (log attention per tile), slope_lo, slope_hi, per_tile (factor
        per tile, ``exp(slope)``), share (of the variance between tile means that the line explains), n (images), folds.

    Raises
    ------
    InputError
        No image of several tiles.

    Examples
    --------
    >>> from biaslab import TokenLayout
    >>> from biaslab.diagnostics.measures.tile_order import tile_order
    >>> from biaslab.maps.simulate import simulate
    >>> layout = TokenLayout.tiled(2, 2, (4, 4), size=(448, 448), family="internvl", thumbnail=True)
    >>> maps = simulate("tile-ordered", [(layout, 40)], strength=1.0).maps
    >>> tile_order(maps)[["slope", "slope_lo", "slope_hi", "per_tile", "n"]].round(2)
       slope  slope_lo  slope_hi  per_tile   n
    0   0.82      0.74      0.89      2.26  40
    """
    expect_maps(maps)
    rows = []
    for layer in resolve_layers(layers, maps.layers, "the maps", "collect"):
        sums = [totals for layouts in fold_means(maps, layer, log=True) if (totals := _sums(layouts)) is not None]
        if not sums:
            raise InputError("tile order needs pictures of several tiles: these maps have one tile each")
        cross, power, around = (np.stack([s[k] for s in sums]) for k in range(3))  # (folds, H)
        slope = cross.sum(0) / power.sum(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            without = (cross.sum(0) - cross) / (power.sum(0) - power)
            share = slope**2 * power.sum(0) / around.sum(0)
        lo, hi = jackknife_interval(slope, without, confidence=confidence)
        for h, head in enumerate(head_names(maps)):
            rows.append(
                {"layer": layer, "head": head, "slope": slope[h], "slope_lo": lo[h], "slope_hi": hi[h],
                 "per_tile": np.exp(slope[h]), "share": share[h], "n": sum(s[3] for s in sums), "folds": len(sums)}
            )  # fmt: skip
    return pd.DataFrame(rows)


def _sums(layouts: list) -> tuple | None:
    """(H,) products of order and tile means, squares of order, squares of tile means; images."""
    columns = []
    for layout, n, mean in layouts:
        plane = ~layout.thumbnail & layout.in_image
        order = np.unique(layout.tile[plane])
        if len(order) < 2:
            continue
        per_tile = np.stack([mean[:, plane & (layout.tile == t)].mean(1) for t in order], axis=1)  # (H, T)
        x, y = order - order.mean(), per_tile - per_tile.mean(1, keepdims=True)
        columns.append((n * (y @ x), np.full(len(mean), n * float(x @ x)), n * (y**2).sum(1), n))
    return tuple(sum(column) for column in zip(*columns, strict=True)) if columns else None
