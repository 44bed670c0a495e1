"""Attention maps on disk: append-only, survives a kill at any moment.

A folder holds ``maps.json`` (settings), ``layer-003.f32`` per layer (raw little-endian float32, image after
image, each ``(H or 1, N)``) and ``images.jsonl`` (a line per image: id, digest, layout, heads, after). An image
counts once its line is complete; the line is written after its values. What follows the last complete image
is cut off when writing resumes. Memory does not grow with the number of images but for their ids and places:
values are read when asked for, and images of one layout share it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from biaslab._util.arguments import as_path
from biaslab._util.files import atomic_write, locked, write_all, writing_to
from biaslab._util.identity import differences
from biaslab._util.jsonable import plain
from biaslab._util.jsonl import JsonLines, whole_lines
from biaslab._util.model_identity import not_compared
from biaslab._util.number_text import count_text
from biaslab._util.watermark import is_rehearsal
from biaslab.attention.heads import check_heads, heads_from_disk, heads_on_disk
from biaslab.core.layers import resolve_layer
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, RunFolderError
from biaslab.maps.base import IGNORED, AttentionMaps, ImageRecord, fold_of
from biaslab.maps.features import Features
from biaslab.maps.moments import Moments, moments_of

__all__ = ["StoredMaps", "load_maps"]

_SETTINGS, _INDEX = "maps.json", "images.jsonl"
_FORMAT = 1
PARTS = "parts"  # in a folder of maps: those of processes that share a collection (biaslab.maps.parts)

logger = logging.getLogger(__name__)


class StoredMaps(AttentionMaps):
    """Maps in a folder. Reading never changes it; `writing` opens it for `add`.

    Parameters
    ----------
    folder : path
        That `create` made.

    Raises
    ------
    RunFolderError
        The folder holds no maps, or they are damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        super().__init__(_read_settings(self.folder))
        self._files: list[BinaryIO] | None = None  # of the layers, while writing
        self._index: JsonLines | None = None
        self._features: Features | None = None
        self._load()

    def _reset(self) -> None:
        super()._reset()
        self._records: list[ImageRecord] = []
        self._starts: list[int] = []  # first value of each image, the same in every layer file
        self._end = 0  # values in every layer file
        self._index_bytes = 0
        self.lost = 0  # lines of the index from the first damaged one on, or without values
        self._ids: set[str] = set()
        self._groups: dict[tuple[str, int], list[int]] = {}  # (layout key, fold) -> images
        self._seen: dict[str, TokenLayout] = {}  # a layout as text -> the one object of all images that have it
        self._forget()

    def _forget(self) -> None:
        """Drop what depends on the number of images."""
        self._moments: dict[tuple[int, str, int], Moments | None] = {}

    @classmethod
    def create(cls, folder: str | Path, settings: dict[str, Any]) -> StoredMaps:
        """Make a folder, or open the existing one if it was made with the same settings.

        Parameters
        ----------
        folder : path
            May exist, if it is empty or holds maps.
        settings : dict
            As of all maps.

        Raises
        ------
        InputError
            A value of ``heads`` that is neither "all" nor "mean".
        RunFolderError
            If the folder cannot be written, holds something else, or was made with other settings.
        """
        check_heads(settings["heads"])
        folder, settings = Path(folder), plain({"format": _FORMAT, **settings})
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / _SETTINGS).exists():
                if any(not path.name.startswith(".") for path in folder.iterdir()):  # a killed process left its draft
                    raise RunFolderError(f"{folder} holds other files and no {_SETTINGS}: choose another folder")
                atomic_write(folder / _SETTINGS, json.dumps(heads_on_disk(settings), indent=1))
            if not os.access(folder, os.W_OK):
                raise RunFolderError(f"cannot write {folder}: choose another folder")
        on_disk = {"format": _FORMAT, **_read_settings(folder)}
        index = folder / _INDEX
        if differences(on_disk, settings, ignore=IGNORED) and not (index.exists() and index.stat().st_size):
            with locked(index), writing_to(folder):  # of a collection that ended before its first image
                atomic_write(folder / _SETTINGS, json.dumps(heads_on_disk(settings), indent=1))
            return cls(folder)
        if is_rehearsal(on_disk) != is_rehearsal(settings):
            theirs, ours = ("a rehearsal", "real") if is_rehearsal(on_disk) else ("real maps", "rehearsed")
            raise RunFolderError(f"{folder} holds {theirs}, which {ours} maps cannot go on with: choose another folder")
        if other := differences(on_disk, settings, ignore=IGNORED | not_compared(on_disk, settings)):
            name, there, here = other[0]
            raise RunFolderError(
                f"{folder} was collected with {name}={_short(there)}, not {_short(here)}: "
                "choose another folder, or the same settings"
            )
        return cls(folder)

    @property
    def features(self) -> Features:
        """What enters the decoder, where it was collected.

        Raises
        ------
        InputError
            The maps were collected without features.
        """
        if self._features is None:
            kept = self.settings.get("features")
            if kept is None:
                raise InputError("these maps were collected without features: collect them with features=True")
            self._features = Features(self.folder, int(kept["width"]), shared=kept["layer"] == 0)
        return self._features

    @contextmanager
    def writing(self) -> Iterator[StoredMaps]:
        """Cut off what an interrupted run left half written, then allow `add`."""
        with ExitStack() as stack:
            with writing_to(self.folder):
                index = stack.enter_context(JsonLines(self.folder / _INDEX))
                if self.settings.get("features") is not None:
                    stack.enter_context(self.features.writing())
                self._load()  # another process may have written since this object was made
                index.cut(self._index_bytes)
                files: list[BinaryIO] = []
                for layer in self.layers:
                    file = stack.enter_context(open(self._path(layer), "ab", buffering=0))
                    file.truncate(4 * self._end)
                    files.append(file)
            self._files, self._index = files, index
            try:
                yield self
            finally:
                self._files = self._index = None

    def add(self, record: ImageRecord, attention: np.ndarray) -> None:
        """Write one image: its values, then its line in the index, with which it counts.

        Raises
        ------
        InputError
            Outside `writing`, or attention of another shape than (layers, heads, tokens).
        RunFolderError
            The folder cannot be written; what is complete stays.
        """
        if self._files is None or self._index is None:
            raise InputError("stored maps are read-only here: add inside `with maps.writing():`")
        values = np.ascontiguousarray(attention, dtype="<f4")
        if values.shape[0] != len(self.layers) or values.shape[2] != record.layout.n:
            raise InputError(f"attention must be (layers, heads, tokens), got {values.shape} for {record.layout}")
        self._expect_heads(values.shape[1])
        line = {
            "id": record.id,
            "digest": record.digest,
            "heads": values.shape[1],
            "layout": record.layout.to_dict(),
            "after": record.query_distance,
        }
        try:
            with writing_to(self.folder):
                for file, layer in zip(self._files, values, strict=True):
                    write_all(file, layer.tobytes())
            self._index.append(line)
        except RunFolderError:
            for file in self._files:
                with suppress(OSError):
                    file.truncate(4 * self._end)
            raise
        layout = self._seen.setdefault(json.dumps(line["layout"]), record.layout)
        self._take(replace(record, layout=layout), values.shape[1])

    def has(self, image_id: str) -> bool:
        """Whether this image is complete on disk, its features too where they are kept."""
        kept = self.settings.get("features") is None or image_id in self.features
        return kept and image_id in self._ids

    def ids(self) -> list[str]:
        """List the images, in the order of collection."""
        return [record.id for record in self._records]

    def values(self, index: int) -> np.ndarray:
        """Read all layers of one image: (L, H or 1, N) float32, as `add` takes them."""
        return np.stack([self.image(index, layer) for layer in self.layers])

    def record(self, index: int) -> ImageRecord:
        """Id, layout (of this image's own size), digest and distance to the query of one image."""
        return self._records[self._checked(index)]

    def image(self, index: int, layer: int) -> np.ndarray:
        """Read the attention of one image, in the order of collection: (H or 1, N) float32.

        Raises
        ------
        InputError
            An image or layer that the maps do not hold.
        RunFolderError
            The file ends before this image.
        """
        resolve_layer(layer, self.layers, "the maps", "collect")
        index = self._checked(index)
        shape, start = (self._n_heads or 1, self._records[index].layout.n), self._starts[index]
        # not a memory map, whose pages count as this process's memory as long as they are mapped
        values = np.fromfile(self._path(layer), dtype="<f4", count=shape[0] * shape[1], offset=4 * start)
        if values.size < shape[0] * shape[1]:
            raise RunFolderError(f"{self._path(layer)} ends before image {index}: open the folder again")
        return values.reshape(shape)

    # -------------------------------------------------------------------------------------- inside
    def _fold_moments(self, layer: int, layout_key: str, fold: int) -> Moments | None:
        key = (layer, layout_key, fold)
        if key not in self._moments:
            images = self._groups.get((layout_key, fold), [])
            self._moments[key] = moments_of(self.image(i, layer) for i in images)
        return self._moments[key]

    def _checked(self, index: int) -> int:
        if not -self.n <= index < self.n:
            raise InputError(f"image {index} does not exist: the maps hold {self.n}")
        return index % self.n

    def _path(self, layer: int) -> Path:
        return self.folder / f"layer-{layer:03d}.f32"

    def _take(self, record: ImageRecord, n_heads: int) -> None:
        self._count(record, n_heads)
        group = (record.layout.key, fold_of(record.id, self.folds))
        self._groups.setdefault(group, []).append(len(self._records))
        self._records.append(record)
        self._ids.add(record.id)
        self._starts.append(self._end)
        self._end += n_heads * record.layout.n
        self._forget()

    def _load(self) -> None:
        """Read the index up to the last complete image."""
        self._reset()
        path = self.folder / _INDEX
        if not path.exists():
            return
        sizes = [p.stat().st_size if (p := self._path(i)).exists() else 0 for i in self.layers]
        room = min(sizes, default=0) // 4
        for data, end in whole_lines(path):
            line = None if data is None or self.lost else _image_of(data, self._seen)
            if line is None or self._end + line[1] * line[0].layout.n > room:
                self.lost += 1
                continue
            self._take(*line)
            self._index_bytes = end


def _image_of(data: dict[str, Any], seen: dict[str, TokenLayout]) -> tuple[ImageRecord, int] | None:
    """Record and heads of one line of the index; None if it is damaged."""
    try:
        text = json.dumps(data["layout"])
        if text not in seen:
            seen[text] = TokenLayout.from_dict(data["layout"])
        distance = data.get("after")  # older folders do not have it
        record = ImageRecord(data["id"], seen[text], data["digest"], None if distance is None else int(distance))
        return record, int(data["heads"])
    except (ValueError, KeyError, TypeError):
        return None


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / _SETTINGS
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (folder / "run.json").exists():
            raise RunFolderError(f"{folder} is a run, no maps: `biaslab report {folder}` shows it") from None
        raise RunFolderError(
            f"no attention maps in {folder}: collect some by `biaslab fit-bias --maps FOLDER`"
        ) from None
    except (OSError, ValueError) as err:
        raise RunFolderError(f"{path} cannot be read ({err}): restore it, or collect in another folder") from None
    if not isinstance(settings, dict):
        raise RunFolderError(f"{path} is not of attention maps: choose another folder")
    if settings.pop("format", None) != _FORMAT:
        raise RunFolderError(f"{folder} was written by another version of biaslab: collect again")
    if missing := [k for k in ("layers", "folds", "heads") if k not in settings]:
        raise RunFolderError(f"{path} does not say {missing[0]}: it is damaged, or of something else; collect again")
    return heads_from_disk(settings)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def part_folders(folder: str | Path) -> list[Path]:
    """List the parts of a folder of maps, in a fixed order.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     part_folders(folder)
    []
    """
    return sorted(path.parent for path in Path(folder).glob(f"{PARTS}/*/{_SETTINGS}"))


def load_maps(folder: str | Path) -> StoredMaps:
    """Open a folder of maps that `collect` wrote with ``out=folder``, finished or not.

    Parameters
    ----------
    folder : path
        Of the maps.

    Returns
    -------
    StoredMaps
        Every image's attention, and the moments over them.

    Raises
    ------
    RunFolderError
        The folder holds no maps, or they are damaged.

    Examples
    --------
    >>> import biaslab as bl
    >>> from tempfile import TemporaryDirectory
    >>> vlm = bl.load("grounder")
    >>> scenes = list(bl.load_dataset("scenes", split="test", n=2))
    >>> with TemporaryDirectory() as folder:
    ...     _ = bl.collect(vlm, scenes, prompt="Where is it?", layers=[3], heads="all", out=folder, progress=False)
    ...     maps = bl.load_maps(folder)
    ...     print(maps, maps.heads, maps.image(0, layer=3).shape)
    StoredMaps(n=2, layers=[3], layouts=['internvl/16x16/tiles1x1']) 4 (4, 256)
    """
    folder = as_path("folder", folder)
    maps = StoredMaps(folder)
    if parts := sum(StoredMaps(part).n for part in part_folders(folder)):
        logger.warning(
            "%s has %s more in parts that were not put together: the same `fit-bias --maps` does so", folder,
            count_text(parts, "image"),
        )  # fmt: skip
    if maps.lost:
        logger.warning(
            "%s is damaged: %s without values are left out, %d remain; the same `fit-bias --maps` collects them again",
            folder, count_text(maps.lost, "image"), maps.n,
        )  # fmt: skip
    return maps
