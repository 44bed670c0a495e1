"""The published prior: the mean attention of each visual position, layout by layer (D2Pruner, arXiv
2512.19443, A_bias).
"""

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
    """

    name = "mean"

    def _pool(self, parts: list[Part]) -> Arrays:
        return {
            p.layout.key: {"expected": p.mean.astype(np.float32), "spread": np.sqrt(p.var).astype(np.float32)}
            for p in parts
        }

    def _expand(self, arrays: Arrays, layout: TokenLayout) -> tuple[np.ndarray, np.ndarray]:
        part = arrays[layout.key]
        return part["expected"], part["spread"]
