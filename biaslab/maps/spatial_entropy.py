"""Spatial entropy of attention maps: whether what stands out lies in one place or is scattered over the image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from biaslab.core.layout import TokenLayout

__all__ = ["Foreground", "foreground"]

# tokens of one map that touch, also at a corner; never those of two maps
_TOUCHING = np.zeros((3, 3, 3), dtype=bool)
_TOUCHING[1] = True


class Foreground(NamedTuple):
    """What stands out of the maps of some heads.

    Attributes
    ----------
    entropy : (H,) array
        Spatial entropy in nats; 0 is a single component, inf is nothing that stands out.
    fills_bottom : (H,) bool array
        Whether all tokens of the bottom row of the image stand out.
    """

    entropy: np.ndarray
    fills_bottom: np.ndarray


def foreground(attention: np.ndarray, layout: TokenLayout, *, least: float = 1e-3) -> Foreground:
    """Measure what stands out of maps.

    Of a map A, ``relu(A - mean A)`` above ``least`` falls into components of tokens that touch, also at a corner (in
    one tile; those of two tiles do not touch). With p_c the share of component c, the spatial entropy is
    ``- sum_c p_c log p_c``.

    Parameters
    ----------
    attention : (H, N) array
    layout : TokenLayout
    least : float
        In units of attention.

    Returns
    -------
    Foreground

    References
    ----------
    Kang et al. (2025), Your Large Vision-Language Model Only Needs A Few Attention Heads For Visual Grounding, arXiv
    2503.06287.

    Examples
    --------
    >>> layout = TokenLayout.raster(3, 4, size=(40, 30), family="demo")
    >>> blob, two = np.zeros((2, 12))
    >>> blob[[0, 1, 5]], two[[0, 3]] = 0.1, 0.1
    >>> foreground(np.stack([blob, two, np.full(12, 0.1)]), layout).entropy.round(3)
    array([0.   , 0.693,   inf])
    """
    out = np.maximum(attention - attention.mean(1, keepdims=True), 0)
    out = np.where(out > least, out, 0).astype(np.float64)
    # tiles one below the other, a row between them
    height, width = int(layout.row.max()) + 2, int(layout.col.max()) + 1
    sheet = np.zeros((len(out), (int(layout.tile.max()) + 1) * height, width))
    sheet[:, layout.tile * height + layout.row, layout.col] = out
    labels, count = ndimage.label(sheet > 0, structure=_TOUCHING)
    mass = np.bincount(labels.ravel(), weights=sheet.ravel(), minlength=count + 1)[1:]
    owner = np.zeros(count, dtype=int)  # head of each component
    at = np.nonzero(labels)
    owner[labels[at] - 1] = at[0]
    total = np.bincount(owner, weights=mass, minlength=len(out))
    shares = mass / total[owner]
    entropy = np.bincount(owner, weights=-shares * np.log(shares), minlength=len(out))
    bottom = np.asarray((out[:, _bottom(layout)] > 0).all(1))
    return Foreground(np.where(total > 0, np.abs(entropy), np.inf), bottom)


def _bottom(layout: TokenLayout) -> np.ndarray:
    """(N,) bool, tokens of the lowest row of the image; of the thumbnail where there is nothing else."""
    tiles = ~layout.thumbnail if (~layout.thumbnail).any() else layout.thumbnail
    heights = np.where(tiles, layout.centers[:, 1], -np.inf)
    return heights >= heights.max() - 1e-9
