"""Maps seen otherwise: the mean over heads, and all folds of images but one. Nothing is copied to disk."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np

from biaslab.errors import UnsupportedError
from biaslab.maps.base import AttentionMaps, ImageRecord
from biaslab.maps.device_moments import on_host
from biaslab.maps.moments import Moments, moments_of
from biaslab.maps.protocol import expect_maps
from biaslab.maps.streamed import StreamedMaps

__all__ = ["WithoutFold", "mean_over_heads"]


def mean_over_heads(maps: AttentionMaps) -> AttentionMaps:
    """Average the heads of maps, which is what pruning methods score; the images are the same.

    Of streamed maps only the mean attention is exact: log attention becomes the heads' mean of logarithms, and the
    variances are the heads' mean, an upper bound. Tests that rest on those are not for them.

    Parameters
    ----------
    maps : AttentionMaps
        Of single heads or of their mean.

    Returns
    -------
    AttentionMaps
        A view; ``maps`` itself where it holds the mean already.

    Examples
    --------
    >>> from biaslab.core.layout import TokenLayout
    >>> from biaslab.maps.simulate import simulate
    >>> layout = TokenLayout.raster(4, 4, size=(64, 64), family="toy")
    >>> maps = simulate("u-shaped", {layout: 20}, heads=3).maps
    >>> maps.heads, mean_over_heads(maps).heads
    (3, 'mean')
    """
    expect_maps(maps)
    if maps.heads == "mean":
        return maps
    return _streamed(maps) if isinstance(maps, StreamedMaps) else _HeadMean(maps)


def _streamed(maps: StreamedMaps) -> StreamedMaps:
    out = copy(maps)
    out.settings, out._n_heads = {**maps.settings, "heads": "mean"}, 1
    out._moments = {
        key: Moments(m.n, *(x.mean(1, keepdims=True) for x in (m.mean, m.var, m.log_mean, m.log_var)))
        for key, m in ((key, on_host(moments)) for key, moments in maps._moments.items())
    }
    return out


class _HeadMean(AttentionMaps):
    """Stored maps whose heads are averaged as they are read."""

    def __init__(self, maps: Any) -> None:
        super().__init__({**maps.settings, "heads": "mean"})
        self._maps = maps
        self.layouts, self.n, self._n_heads = maps.layouts, maps.n, 1
        self._moments: dict[tuple[int, str, int], Moments | None] = {}

    @property
    def provenance(self) -> dict[str, Any]:
        return {**self._maps.provenance, "heads": "mean"}

    def record(self, index: int) -> ImageRecord:
        return self._maps.record(index)

    def image(self, index: int, layer: int) -> np.ndarray:
        return self._maps.image(index, layer).mean(0, keepdims=True)

    def has(self, image_id: str) -> bool:
        return self._maps.has(image_id)

    def add(self, record: ImageRecord, attention: np.ndarray) -> None:
        raise UnsupportedError("the mean over heads is a view: add images to the maps it is of")

    def _fold_moments(self, layer: int, layout_key: str, fold: int) -> Moments | None:
        key = (layer, layout_key, fold)
        if key not in self._moments:
            self._moments[key] = moments_of(self.image(i, layer) for i in self._maps._groups.get(key[1:], []))
        return self._moments[key]


class WithoutFold:
    """Maps without one fold of images: what a profile may be fitted on that is used for the images of that fold.

    Parameters
    ----------
    maps : AttentionMaps
        The maps.
    fold : int
        The fold to leave out.

    Examples
    --------
    >>> from biaslab.core.layout import TokenLayout
    >>> from biaslab.maps.simulate import simulate
    >>> layout = TokenLayout.raster(4, 4, size=(64, 64), family="toy")
    >>> maps = simulate("u-shaped", {layout: 20}).maps
    >>> WithoutFold(maps, 1).moments(0, layout.key).n == 20 - maps.moments(0, layout.key, fold=1).n
    True
    """

    def __init__(self, maps: AttentionMaps, fold: int) -> None:
        self._maps, self._fold = maps, fold

    def __getattr__(self, name: str) -> Any:
        return getattr(self._maps, name)

    def moments(self, layer: int, layout_key: str, *, fold: int | None = None) -> Moments:
        """Moments as of the maps, of the images of the other folds; of the fold left out there are none."""
        if fold is None:
            return self._maps.moments(layer, layout_key, exclude_fold=self._fold)
        return self._maps.moments(layer, layout_key, fold=fold, exclude_fold=self._fold)
