"""Maps that keep moments only."""

from __future__ import annotations

from typing import Any

import numpy as np

from biaslab.errors import UnsupportedError
from biaslab.maps.base import AttentionMaps, ImageRecord, fold_of
from biaslab.maps.moments import Moments


class StreamedMaps(AttentionMaps):
    """Moments only: memory does not grow with the number of images.

    Parameters
    ----------
    settings : dict
        As of all maps.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self._moments: dict[tuple[str, int], Moments] = {}  # (layout key, fold) -> moments of (L, H, N)

    def add(self, record: ImageRecord, attention: np.ndarray) -> None:
        """Merge one image into the moments of its layout and fold."""
        key = (record.layout.key, fold_of(record.id, self.folds))
        moments = Moments.of(attention)
        self._moments[key] = self._moments[key].merge(moments) if key in self._moments else moments
        self._count(record, attention.shape[1])

    def has(self, image_id: str) -> bool:
        """Return False: single images are not remembered."""
        return False

    def image(self, index: int, layer: int) -> np.ndarray:
        """Refuse: single images are not kept."""
        raise UnsupportedError("streamed maps keep no single images: collect with out='FOLDER' to store them")

    def _fold_moments(self, layer: int, layout_key: str, fold: int) -> Moments | None:
        moments = self._moments.get((layout_key, fold))
        return None if moments is None else moments[self.layers.index(layer)]
