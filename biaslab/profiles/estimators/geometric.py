"""The geometric mean of the attention of each visual position, layout by layer."""

from __future__ import annotations

import numpy as np

from biaslab.core.layout import TokenLayout
from biaslab.profiles.estimators.logspace import LogProfile
from biaslab.profiles.parts import Part
from biaslab.profiles.registry import Arrays, register

__all__ = ["GeometricProfile"]


@register
class GeometricProfile(LogProfile):
    """exp of the mean log attention of each position, one map per layout.

    Logs are centred per image, so that every image weighs alike whatever share of attention it draws, and a few
    images in which a position is a huge sink do not decide, as they do in the arithmetic mean. See
    `LogProfile` for the way back to attention. It does not transport: a tiling
    that was not in the calibration set is refused. ``std`` is the measured standard deviation of each position.

    Examples
    --------
    >>> from biaslab import TokenLayout
    >>> from biaslab.maps.simulate import simulate
    >>> from biaslab.profiles import GeometricProfile
    >>> layout = TokenLayout.raster(4, 4, size=(56, 56), family="demo")
    >>> maps = simulate("u-shaped", {layout: 60}, strength=1.0).maps
    >>> expected = GeometricProfile().fit(maps).predict(layout)
    >>> (expected / expected.mean()).reshape(4, 4).round(1)
    array([[1.4, 1.1, 1. , 1.4],
           [1.2, 0.5, 0.4, 1.1],
           [1.2, 0.4, 0.4, 1.1],
           [1.1, 1.1, 1.3, 1.3]], dtype=float32)
    """

    name = "geometric"
    frames = True

    def _learn(self, parts: list[Part]) -> Arrays:
        return {p.layout.key: {"log": p.mean} for p in parts}

    def _log(self, arrays: Arrays, layout: TokenLayout) -> np.ndarray | None:
        return arrays[layout.key]["log"] if layout.key in arrays else None

    def _pool(self, parts: list[Part]) -> Arrays:
        arrays = super()._pool(parts)
        for p in parts:
            arrays[p.layout.key]["spread"] = np.sqrt(p.var).astype(np.float32)
        return arrays

    def _expand(self, arrays: Arrays, layout: TokenLayout) -> tuple[np.ndarray, np.ndarray]:
        return super()._expand(arrays, layout)[0], arrays[layout.key]["spread"]
