"""One exponential along the sequence of visual tokens: the recency curve of PoRe (arXiv 2508.17807)."""

from __future__ import annotations

import numpy as np

from biaslab.core.layout import TokenLayout
from biaslab.profiles.estimators.logspace import LogProfile
from biaslab.profiles.parts import Part
from biaslab.profiles.registry import Arrays, register

__all__ = ["ExponentialProfile"]


@register
class ExponentialProfile(LogProfile):
    """Attention falls as ``exp(-c i)``, i being the image's placeholders that come after the token.

    PoRe divides by this curve with a constant c of 0.001 to 0.005 set by hand for each host method; no fitter is
    published. Here c is the least-squares slope of centred log attention on the position in the sequence, over
    all images and layouts together (each layout has its own level), for every layer and head. A negative c means
    that early tokens draw more.

    It transports to any number of tokens and any tiling. It knows no rows, columns, tiles or thumbnail: a bias
    that is not monotone along the sequence, such as a U shape, is invisible to it.

    References
    ----------
    PoRe, arXiv 2508.17807.

    Examples
    --------
    >>> from biaslab import TokenLayout
    >>> from biaslab.maps.simulate import simulate
    >>> from biaslab.profiles import ExponentialProfile
    >>> layout = TokenLayout.raster(4, 4, size=(56, 56), family="demo")
    >>> maps = simulate("bottom-heavy", {layout: 60}).maps
    >>> profile = ExponentialProfile().fit(maps)
    >>> other = TokenLayout.raster(3, 5, size=(70, 42), family="demo")  # transports to any grid
    >>> expected = profile.predict(other)
    >>> (expected / expected.mean()).reshape(3, 5).mean(axis=1).round(1)
    array([0.6, 0.9, 1.5], dtype=float32)
    """

    name = "exponential"
    transports = frozenset({"layout"})
    frames = True

    def _learn(self, parts: list[Part]) -> Arrays:
        along = [_after(p.layout) for p in parts]
        squares = sum(p.n * (x**2).sum() for p, x in zip(parts, along, strict=True))
        products = sum(p.n * (p.mean @ x) for p, x in zip(parts, along, strict=True))
        return {"curve": {"c": -products / squares if squares > 0 else np.zeros_like(products)}}

    def _log(self, arrays: Arrays, layout: TokenLayout) -> np.ndarray | None:
        return -arrays["curve"]["c"][:, None].astype(np.float64) * _after(layout)


def _after(layout: TokenLayout) -> np.ndarray:
    """(N,) placeholders of the image after each token, mean taken off; newlines between rows count."""
    i = layout.placeholders - 1.0 - layout.placeholder_index
    return i - i.mean()
