"""Streamed moments that survive an interruption: a single file, rewritten now and then and when work stops."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes
from torch import Tensor

from biaslab._util.files import atomic_write, writing_to
from biaslab._util.identity import differences
from biaslab._util.jsonable import plain
from biaslab._util.model_identity import not_compared
from biaslab.attention.heads import heads_on_disk
from biaslab.core.layout import TokenLayout
from biaslab.errors import RunFolderError
from biaslab.maps.base import IGNORED, ImageRecord
from biaslab.maps.device_moments import on_host
from biaslab.maps.moments import Moments
from biaslab.maps.streamed import StreamedMaps

__all__ = ["ResumableMaps"]

_KEY = "biaslab_moments"  # of the JSON string in the safetensors metadata
_FORMAT = 1
_EVERY = 60.0  # seconds between two writings, or more where one takes long
_SHARE = 20  # a writing may take a twentieth of the time
_FIELDS = ("mean", "var", "log_mean", "log_var")


class ResumableMaps(StreamedMaps):
    """Moments only, kept in a safetensors file as well, from which the same collection goes on.

    What is written is the state between two batches, in float64: moments of the images in the order they came, so an
    interrupted collection ends at the moments of an uninterrupted one. A kill that cannot be caught loses what came
    after the latest writing.

    Parameters
    ----------
    settings : dict
        As of all maps.
    path : path
        The file; it need not exist.
    n_images : int, optional
        How many there are to collect, if known: a file of another number is refused.

    Raises
    ------
    RunFolderError
        The file is no such file, is damaged, or belongs to another collection.
    """

    def __init__(self, settings: dict[str, Any], path: str | Path, *, n_images: int | None = None) -> None:
        super().__init__(settings)
        self.path, self._n_images = Path(path), n_images
        self._ids: dict[str, None] = {}
        if self.path.exists():
            self._load()
        self._written, self._took = time.monotonic(), 0.0
        self._between: dict[str, Any] | None = None

    def add(self, record: ImageRecord, attention: np.ndarray) -> None:
        """Append one image; it is on disk from the next writing on."""
        super().add(record, attention)
        self._ids[record.id] = None

    def add_batch(self, images: Sequence[tuple[ImageRecord, Tensor]]) -> None:
        """Append images; those that are in the moments already are left out."""
        new: dict[str, tuple[ImageRecord, Tensor]] = {}
        for record, attention in images:
            if not self.has(record.id):
                new.setdefault(record.id, (record, attention))
        super().add_batch(list(new.values()))
        self._ids.update(dict.fromkeys(new))

    def has(self, image_id: str) -> bool:
        """Whether this image is in the moments already."""
        return image_id in self._ids

    @contextmanager
    def writing(self) -> Iterator[ResumableMaps]:
        """Leave the latest complete state on disk, however the block ends."""
        with super().writing():
            try:
                yield self
            finally:
                self._write()

    def checkpoint(self) -> None:
        """Take this state, after a complete batch, as the one to go on from."""
        if not self._ids:  # every image so far was skipped: nothing to go on from
            return
        # moments are never changed in place, so references to them are a copy
        self._between = {
            "moments": dict(self._moments), "layouts": dict(self.layouts), "ids": len(self._ids), "n": self.n,
            "heads": self._n_heads, "digest": self._digest, "after": dict(self._query_distances),
        }  # fmt: skip
        if time.monotonic() - self._written > max(_EVERY, _SHARE * self._took):
            self._write()

    def discard(self) -> None:
        """Remove the file: what it was kept for is done."""
        self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        state, self._between = self._between, None
        if state is None:
            return
        start, tensors, groups = time.monotonic(), {}, []
        for i, ((key, fold), moments) in enumerate(state["moments"].items()):
            m = on_host(moments)
            groups.append([key, fold, m.n])
            tensors.update({f"{i}.{name}": np.ascontiguousarray(getattr(m, name)) for name in _FIELDS})
        head = {
            "format": _FORMAT, "settings": self._identity(), "groups": groups,
            "n": state["n"], "heads": state["heads"], "ids": list(self._ids)[: state["ids"]],
            "digest": f"{state['digest']:x}", "after": list(state["after"].items()),
            "layouts": [layout.to_dict() for layout in state["layouts"].values()],
        }  # fmt: skip
        with writing_to(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(self.path, to_bytes(tensors, metadata={_KEY: json.dumps(head)}))
        self._written = time.monotonic()
        self._took = self._written - start

    def _identity(self) -> dict[str, Any]:
        return {**heads_on_disk(self.settings), "number of images": self._n_images}

    def _load(self) -> None:
        try:
            with safe_open(self.path, framework="numpy") as file:
                head = json.loads((file.metadata() or {})[_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if head["format"] != _FORMAT:
                raise ValueError(f"format {head['format']}")
            settings = head["settings"]
        except (SafetensorError, OSError, KeyError, ValueError) as err:
            raise RunFolderError(f"{self.path} is no unfinished collection ({err}): delete it") from None
        mine = plain(self._identity())
        if wrong := differences(settings, mine, ignore=IGNORED | not_compared(settings, mine)):
            raise RunFolderError(
                f"{self.path} is what an unfinished run with another {wrong[0].name} left: finish that run, delete the "
                "file, or choose another --out"
            )
        layouts = [TokenLayout.from_dict(d) for d in head["layouts"]]
        self.layouts = {layout.key: layout for layout in layouts}
        self.n, self._n_heads, self._digest = head["n"], head["heads"], int(head["digest"], 16)
        self._query_distances = Counter(dict(head["after"]))
        self._ids = dict.fromkeys(head["ids"])
        self._moments = {
            (key, fold): Moments(n, *(tensors[f"{i}.{name}"] for name in _FIELDS))
            for i, (key, fold, n) in enumerate(head["groups"])
        }
