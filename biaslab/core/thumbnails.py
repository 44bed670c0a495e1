"""Which token of the thumbnail shows what each token of a tile shows."""

from __future__ import annotations

import numpy as np

from biaslab.core.frames import FramesLayout
from biaslab.core.layout import TokenLayout

__all__ = ["thumbnail_tokens"]


def thumbnail_tokens(layout: TokenLayout) -> np.ndarray:
    """Find for every token the one of its image's thumbnail in whose cell its centre lies.

    Parameters
    ----------
    layout : TokenLayout
        Of an image or of frames, each with its own thumbnail; some tokens may be missing.

    Returns
    -------
    (N,) int64 ndarray
        A token of the thumbnail is its own, as is every token of an image without a thumbnail. -1 where the thumbnail's
        token is missing, or none of its cells is there.

    Examples
    --------
    Two tiles of 2 x 2 side by side: a cell of the thumbnail is as high as theirs and twice as wide.

    >>> layout = TokenLayout.tiled(1, 2, (2, 2), size=(128, 64), family="internvl", thumbnail=True)
    >>> thumbnail_tokens(layout)
    array([ 8,  8, 10, 10,  9,  9, 11, 11,  8,  9, 10, 11])
    """
    found = np.arange(layout.n)
    frame = layout.frame if isinstance(layout, FramesLayout) else np.zeros(layout.n, dtype=np.int64)
    for k in np.unique(frame):
        small = np.flatnonzero(layout.thumbnail & (frame == k))
        large = np.flatnonzero(~layout.thumbnail & (frame == k))
        if small.size:
            found[large] = _shown(layout, large, small)
    return found


def _shown(layout: TokenLayout, large: np.ndarray, small: np.ndarray) -> np.ndarray:
    """Look up the tokens ``large`` among those of the thumbnail, along rows and columns apart."""
    row, col = layout.row[small], layout.col[small]
    token = np.full((int(row.max()) + 1, int(col.max()) + 1), -1)
    token[row, col] = small
    x, y = layout.centers[large].T
    left, top, right, bottom = layout.boxes[small].T
    at_col, at_row = _inside(x, col, left, right), _inside(y, row, top, bottom)
    return np.where((at_col < 0) | (at_row < 0), -1, token[at_row, at_col])


def _inside(at: np.ndarray, line: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Tell in which row (or column) of the thumbnail places lie, a border in the later one; -1: in none."""
    lines, first = np.unique(line, return_index=True)
    place = np.searchsorted(low[first], at + 1e-9, side="right") - 1
    inside = (place >= 0) & (at < high[first][place] + 1e-9)
    return np.where(inside, lines[place], -1)
