"""Which visual tokens touch each other."""

from __future__ import annotations

import numpy as np

from biaslab.core.frames import FramesLayout
from biaslab.core.layout import TokenLayout

__all__ = ["neighbours"]


def neighbours(layout: TokenLayout) -> tuple[np.ndarray, np.ndarray]:
    """List the pairs of tokens that touch, left and right or above and below, in one tile (of one frame).

    Parameters
    ----------
    layout : TokenLayout

    Returns
    -------
    first, second : (P,) int64 arrays

    Examples
    --------
    >>> layout = TokenLayout.raster(2, 2, size=(100, 100), family="demo")
    >>> [pair.tolist() for pair in neighbours(layout)]
    [[0, 2, 0, 1], [1, 3, 2, 3]]
    """
    # a column of its own between tiles and a row of its own below each keep their edges apart
    width, height = int(layout.col.max()) + 2, int(layout.row.max()) + 2
    tile = layout.tile
    if isinstance(layout, FramesLayout):
        tile = tile + layout.frame * (int(tile.max()) + 1)
    place = (tile * height + layout.row) * width + layout.col
    token = np.full(int(place.max()) + width + 1, -1)
    token[place] = np.arange(layout.n)
    pairs = [(np.arange(layout.n), token[place + step]) for step in (1, width)]
    first, second = (np.concatenate(side) for side in zip(*pairs, strict=True))
    there = second >= 0
    return first[there], second[there]
