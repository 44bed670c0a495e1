"""The order of visual tokens along a space-filling curve: neighbours on it are neighbours in the image."""

from __future__ import annotations

import numpy as np

from biaslab.core.layout import TokenLayout

__all__ = ["curve_order"]

_BITS = 12  # cells of the curve per side: 4,096


def curve_order(layout: TokenLayout) -> np.ndarray:
    """List the tokens of an image along a Hilbert curve through it.

    The curve runs over a square of as many cells as the image has on its longer side. Tokens of a thumbnail, which show
    the image once more, follow those of the tiles, along a curve of their own.

    Parameters
    ----------
    layout : TokenLayout

    Returns
    -------
    (N,) int64 array
        Indices of tokens.

    Examples
    --------
    >>> curve_order(TokenLayout.raster(2, 4, size=(400, 200), family="demo")).tolist()
    [0, 1, 5, 4, 7, 6, 2, 3]
    """
    side = (layout.boxes[:, 2:] - layout.boxes[:, :2]).min(0)  # of the smallest cell, in images
    cells = layout.centers / side * side.min() * 2**_BITS
    x, y = np.clip(cells.astype(np.int64), 0, 2**_BITS - 1).T
    return np.lexsort((_hilbert(x.copy(), y.copy()), np.asarray(layout.thumbnail)))


def _hilbert(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance along the curve of the cells (x, y); overwrites both."""
    distance = np.zeros_like(x)
    for bit in reversed(range(_BITS)):
        step = 1 << bit
        right, lower = (x & step) > 0, (y & step) > 0
        distance += step * step * ((3 * right) ^ lower)
        flip = right & ~lower
        x[flip], y[flip] = 2**_BITS - 1 - x[flip], 2**_BITS - 1 - y[flip]
        turn = ~lower
        x[turn], y[turn] = y[turn], x[turn]
    return distance
