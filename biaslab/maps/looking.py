"""What a map of log attention is like that looks at something: blobs instead of specks, a few tokens that stick out."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from torch import Tensor

__all__ = ["LOOKS", "moran_and_skewness"]

LOOKS = 0.01  # share of its attention that the image must draw for a row or head to look at it at all
_TINY = 1e-9  # added to a variance that is divided by

Values = TypeVar("Values", np.ndarray, Tensor)


def moran_and_skewness(log: Values, left: Any, right: Any) -> tuple[Values, Values]:
    """Measure spatial autocorrelation and skewness of maps.

    Parameters
    ----------
    log : (..., N) array or Tensor
        Log attention, centred over the N tokens of the image.
    left, right : (P,) integers of the same kind
        Pairs of tokens that touch (:func:`biaslab.core.neighbours.neighbours`).

    Returns
    -------
    moran, skewness : (...) array or Tensor
        Moran's I between tokens that touch, 0 where none do; skewness over the tokens.

    Examples
    --------
    >>> blob, specks = np.array([[3.0, 3.0, -1, -1, -1, -1, -1, -1], [3, -1, -1, 3, -1, -1, -1, -1]])
    >>> side = np.arange(7)
    >>> [[round(float(x), 2) for x in moran_and_skewness(log, side, side + 1)] for log in (blob, specks)]
    [[0.52, 1.15], [-0.24, 1.15]]
    """
    variance = (log**2).mean(-1) + _TINY
    moran = (log[..., left] * log[..., right]).mean(-1) / variance if len(left) else 0 * variance
    return moran, (log**3).mean(-1) / variance**1.5
