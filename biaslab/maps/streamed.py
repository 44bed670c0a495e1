"""Maps that keep moments only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from biaslab.errors import UnsupportedError
from biaslab.maps.base import AttentionMaps, ImageRecord, fold_of
from biaslab.maps.device_moments import DeviceMoments, device_of_moments, on_host, room_for_moments
from biaslab.maps.moments import Moments


class StreamedMaps(AttentionMaps):
    """Moments only: memory does not grow with the number of images.

    Maps on a GPU are added there, and the moments stay there until they are read or other moments need the room.

    Parameters
    ----------
    settings : dict
        As of all maps.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        #: (layout key, fold) -> moments of (L, H, N); those used last at the end
        self._moments: dict[tuple[str, int], Moments | DeviceMoments] = {}
        self._room: int | None = None  # bytes on the device

    def add(self, record: ImageRecord, attention: np.ndarray) -> None:
        """Merge one image into the moments of its layout and fold."""
        self._expect_heads(attention.shape[1])
        key = self._group(record)
        self._moments[key] = self._on_host(key, attention.shape).plus([attention])
        self._count(record, attention.shape[1])

    def add_batch(self, images: Sequence[tuple[ImageRecord, Tensor]]) -> None:
        """Merge images into the moments of their layouts and folds, on the device that they lie on."""
        groups: dict[tuple[str, int], list[Tensor]] = {}
        for record, attention in images:
            self._expect_heads(attention.shape[1])
            groups.setdefault(self._group(record), []).append(attention)
        for key, maps in groups.items():
            after = self._plus(key, maps)
            self._moments.pop(key, None)
            self._moments[key] = after  # as those used last
        for record, attention in images:
            self._count(record, attention.shape[1])

    def device_for(self, device: torch.device) -> torch.device:
        """Where `add_batch` takes maps that were computed on ``device``: there, if it can do float64."""
        return device_of_moments(device)

    @contextmanager
    def writing(self) -> Iterator[StreamedMaps]:
        """Bring the moments to the CPU at the end."""
        with super().writing():
            yield self
        self._moments = {key: on_host(moments) for key, moments in self._moments.items()}

    def has(self, image_id: str) -> bool:
        """Return False: single images are not remembered."""
        return False

    def image(self, index: int, layer: int) -> np.ndarray:
        """Refuse: single images are not kept."""
        raise UnsupportedError("streamed maps keep no single images: collect with out='FOLDER' to store them")

    def _group(self, record: ImageRecord) -> tuple[str, int]:
        return record.layout.key, fold_of(record.id, self.folds)

    def _on_host(self, key: tuple[str, int], shape: Sequence[int]) -> Moments:
        """Moments so far, on the CPU."""
        return on_host(self._moments[key]) if key in self._moments else Moments.empty(tuple(shape))

    def _plus(self, key: tuple[str, int], maps: list[Tensor]) -> Moments | DeviceMoments:
        """Moments so far and those of ``maps``, where these are."""
        device = maps[0].device
        if device.type == "cpu":
            return self._on_host(key, maps[0].shape).plus([attention.numpy() for attention in maps])
        before = self._moments.get(key)
        if not isinstance(before, DeviceMoments):
            before = DeviceMoments.of(before or Moments.empty(tuple(maps[0].shape)), device)
        after = before.plus(maps)
        self._make_room(key, after, device)
        return after

    def _make_room(self, coming: tuple[str, int], after: DeviceMoments, device: torch.device) -> None:
        """Bring to the CPU what was not used for longest, until the device has room for what comes."""
        self._room = room_for_moments(device) if self._room is None else self._room
        there = {k: m for k, m in self._moments.items() if isinstance(m, DeviceMoments) and k != coming}
        held = after.nbytes + sum(m.nbytes for m in there.values())
        for key, moments in there.items():
            if held <= self._room:
                break
            held -= moments.nbytes
            self._moments[key] = moments.moments()

    def _fold_moments(self, layer: int, layout_key: str, fold: int) -> Moments | None:
        moments = self._moments.get((layout_key, fold))
        place = self.layers.index(layer)
        if isinstance(moments, DeviceMoments):
            return moments.moments(place)
        return None if moments is None else moments[place]
