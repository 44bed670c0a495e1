"""Groups of visual tokens (frames, tiles), segments of neighbouring ones, and one token for each place."""

from __future__ import annotations

import numpy as np

from biaslab.core.frames import FramesLayout
from biaslab.core.layout import TokenLayout

__all__ = ["groups_of", "joined", "one_per_place"]


def groups_of(layout: TokenLayout) -> np.ndarray:
    """Give every token the number of its frame, in a single image of its tile: (N,) int, from 0 without gaps.

    Examples
    --------
    >>> groups_of(TokenLayout.tiled(1, 2, (1, 2), size=(80, 40), family="toy", thumbnail=True))
    array([0, 0, 1, 1, 2, 2])
    """
    groups = layout.frame if isinstance(layout, FramesLayout) else layout.tile
    return np.unique(groups, return_inverse=True)[1]


def joined(gram: np.ndarray, least: float) -> np.ndarray:
    """Join neighbouring groups while the cosine of their mean features is at least ``least``.

    Parameters
    ----------
    gram : (G, G) ndarray
        Products of the groups' means, or of their sums, which have the same cosine.
    least : float

    Returns
    -------
    (G,) int ndarray
        Segment of each group, ascending.

    Examples
    --------
    >>> means = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    >>> joined(means @ means.T, 0.95)
    array([0, 0, 1])
    """
    length = np.sqrt(np.maximum(np.diag(gram), 1e-24))
    cosine = np.diag(gram, 1) / (length[:-1] * length[1:])
    return np.concatenate([[0], np.cumsum(cosine < least - 1e-9)]).astype(np.int64)


def one_per_place(layout: TokenLayout, segment: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Choose which token stands for each place.

    Of frames: for every cell of a segment the token with the highest score, ties to the first. Of a single image with
    a thumbnail: for every cell of the thumbnail its token, or all tokens of tiles whose centre lies in it, whichever
    hold the highest score; the tiles, where equal. Any other image shows a place once.

    Parameters
    ----------
    layout : TokenLayout
        Of N tokens.
    segment : (N,) int ndarray
    scores : (N,) ndarray

    Returns
    -------
    (N,) bool ndarray

    Examples
    --------
    >>> layout = TokenLayout.tiled(1, 2, (1, 1), size=(80, 40), family="toy", thumbnail=True)
    >>> one_per_place(layout, layout.tile, np.array([0.1, 0.3, 0.2]))
    array([ True,  True, False])
    """
    if isinstance(layout, FramesLayout):
        order = np.argsort(-scores, kind="stable")
        place = np.stack([segment, layout.tile, layout.row, layout.col], axis=1)[order]
        chosen = np.zeros(layout.n, dtype=bool)
        chosen[order[np.unique(place, axis=0, return_index=True)[1]]] = True
        return chosen
    small = layout.thumbnail
    if not small.any() or small.all():
        return np.ones(layout.n, dtype=bool)
    rows, cols = layout.thumbnail_grid
    x, y = np.clip(layout.centers.T, 0, 1 - 1e-9)
    # a thumbnail's own tokens lie in their own cells, whatever margin its patches leave unseen
    row = np.where(small, layout.row, (y * rows).astype(np.int64))
    col = np.where(small, layout.col, (x * cols).astype(np.int64))
    place = row * cols + col
    best = np.full((2, rows * cols), -np.inf)
    np.maximum.at(best[0], place[~small], scores[~small])
    np.maximum.at(best[1], place[small], scores[small])
    whole = best[1] > best[0]
    return small == whole[place]
