"""The published prior: the mean attention of each visual position, by layout (D2Pruner, arXiv 2512.19443, A_bias)."""

from __future__ import annotations

import numpy as np

from biaslab.core.layout import TokenLayout
from biaslab.profiles.base import Profile
from biaslab.profiles.parts import Part
from biaslab.profiles.registry import Arrays, register

__all__ = ["MeanProfile"]


@register
class MeanProfile(Profile):
    """Mean and standard deviation of the attention of each position, one map per layout.

    Every tile, and the thumbnail, has its own map, so tile order and thumbnail bias are part of the profile.
    It does not transport: a tiling that was not in the calibration set is refused. (D2Pruner's reproduction
    shares one 256-vector between tiles: that is `TileProfile`.)

    References
    ----------
    D2Pruner, arXiv 2512.19443, A_bias.

    Examples
    --------
    >>> from biaslab import TokenLayout
    >>> from biaslab.maps.simulate import simulate
    >>> from biaslab.profiles import MeanProfile
    >>> layout = TokenLayout.raster(4, 4, size=(56, 56), family="demo")
    >>> maps = simulate("u-shaped", {layout: 60}, strength=1.0).maps
    >>> expected = MeanProfile().fit(maps).predict(layout)
    >>> (expected / expected.mean()).reshape(4, 4).round(1)
    array([[1.6, 1.2, 0.9, 1.2],
           [1. , 0.5, 0.4, 1.1],
           [1.1, 0.4, 0.4, 1. ],
           [1. , 1.1, 1.3, 1.7]], dtype=float32)
    """

    name = "mean"
    frames = True

    def _pool(self, parts: list[Part]) -> Arrays:
        return {
            p.layout.key: {"expected": p.mean.astype(np.float32), "spread": np.sqrt(p.var).astype(np.float32)}
            for p in parts
        }

    def _expand(self, arrays: Arrays, layout: TokenLayout) -> tuple[np.ndarray, np.ndarray]:
        part = arrays[layout.key]
        return part["expected"], part["spread"]
