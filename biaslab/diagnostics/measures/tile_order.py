"""Trend of attention from tile to tile along the sequence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from biaslab.diagnostics.registry import register
from biaslab.diagnostics.slopes import Sums, slope_table, sums_over
from biaslab.maps.protocol import Maps

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
    return slope_table(
        maps, _sums, unit="tile", layers=layers, confidence=confidence,
        refused="tile order needs images of several tiles: these maps have one tile each",
    )  # fmt: skip


def _sums(layout: Any, n: int, mean: np.ndarray) -> Sums | None:
    plane = ~layout.thumbnail & layout.in_image
    order = np.unique(layout.tile[plane])
    if len(order) < 2:
        return None
    return sums_over(order, np.stack([mean[:, plane & (layout.tile == t)].mean(1) for t in order], axis=1), n)
