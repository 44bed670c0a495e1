"""What enters the decoder, kept beside attention maps: features of visual tokens, embeddings of the question."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from biaslab._util.files import write_all, writing_to
from biaslab._util.jsonl import JsonLines, whole_lines
from biaslab.errors import InputError, RunFolderError

__all__ = ["Features", "Place"]

_INDEX, _VISUAL, _TEXT = "features.jsonl", "visual.f16", "text.f16"


class Place(NamedTuple):
    """Where the features of one image and its question lie.

    Attributes
    ----------
    picture : str
        Hash of the pixels: questions on one image share its features.
    visual, text : int
        First row in the two files.
    n, t : int
        Visual tokens, and tokens behind the image.
    """

    picture: str
    visual: int
    n: int
    text: int
    t: int


class Features:
    """Hidden states that enter a decoder layer, on disk in half precision.

    Two files of rows of ``width`` values, ``visual.f16`` and ``text.f16``, and ``features.jsonl``, a line per image,
    written after its values. Values are read when asked for.

    Parameters
    ----------
    folder : path
        Of the maps.
    width : int
        D, of the decoder's hidden states.
    shared : bool
        Whether features do not depend on the question, as in front of the first layer: then those of an image that is
        asked about several times are kept once.
    """

    def __init__(self, folder: Path, width: int, *, shared: bool = True) -> None:
        self.folder, self.width, self.shared = Path(folder), width, shared
        self._files: list[BinaryIO] | None = None
        self._index: JsonLines | None = None
        self._load()

    def _load(self) -> None:
        self._places: dict[str, Place] = {}
        self._pictures: dict[str, tuple[int, int]] = {}  # hash -> first row, rows
        self._rows = [0, 0]  # of the two files, as far as the index tells
        self._bytes = 0
        path = self.folder / _INDEX
        if not path.exists():
            return
        room = [self._size(name) // (2 * self.width) for name in (_VISUAL, _TEXT)]
        for data, end in whole_lines(path):
            try:
                name, place = str(data["id"]), Place(*data["place"])  # type: ignore[index]
                needs = [place.visual + place.n, place.text + place.t]
            except (KeyError, TypeError, ValueError):
                break
            if any(need > have for need, have in zip(needs, room, strict=True)):
                break
            self._take(name, place)
            self._bytes = end

    def _size(self, name: str) -> int:
        path = self.folder / name
        return path.stat().st_size if path.exists() else 0

    def _take(self, name: str, place: Place) -> None:
        self._places[name] = place
        self._pictures.setdefault(place.picture, (place.visual, place.n))
        self._rows = [max(self._rows[0], place.visual + place.n), max(self._rows[1], place.text + place.t)]

    @contextmanager
    def writing(self) -> Iterator[Features]:
        """Cut off what an interrupted run left half written, then allow `add`."""
        with ExitStack() as stack:
            with writing_to(self.folder):
                index = stack.enter_context(JsonLines(self.folder / _INDEX))
                self._load()
                index.cut(self._bytes)
                files: list[BinaryIO] = []
                for name, rows in zip((_VISUAL, _TEXT), self._rows, strict=True):
                    file = stack.enter_context(open(self.folder / name, "ab", buffering=0))
                    file.truncate(2 * self.width * rows)
                    files.append(file)
            self._files, self._index = files, index
            try:
                yield self
            finally:
                self._files = self._index = None

    def add(self, name: str, picture: str, visual: np.ndarray, text: np.ndarray) -> None:
        """Write what belongs to one image: its values, then its line.

        Parameters
        ----------
        name : str
            The image's id in the maps.
        picture : str
            Hash of its pixels.
        visual : (N, D) array
        text : (T, D) array

        Raises
        ------
        InputError
            Outside `writing`, or values of another width.
        RunFolderError
            The folder cannot be written; what is complete stays.
        """
        if self._files is None or self._index is None:
            raise InputError("features are read-only here: add inside `with features.writing():`")
        if visual.shape[1] != self.width or text.shape[1] != self.width:
            raise InputError(f"features of width {visual.shape[1]} and {text.shape[1]} beside ones of {self.width}")
        known = self._pictures.get(picture) if self.shared else None
        first = self._rows[0] if known is None else known[0]
        place = Place(picture, first, len(visual), self._rows[1], len(text))
        with writing_to(self.folder):
            if known is None:
                write_all(self._files[0], np.ascontiguousarray(visual, dtype="<f2").tobytes())
            write_all(self._files[1], np.ascontiguousarray(text, dtype="<f2").tobytes())
        self._index.append({"id": name, "place": list(place)})
        self._take(name, place)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __len__(self) -> int:
        return len(self._places)

    def place(self, name: str) -> Place:
        """Tell where an image's features lie, and which distinct image it is of."""
        if name not in self._places:
            raise InputError(f"no features of {name!r}: collect the maps with features=True")
        return self._places[name]

    def visual(self, name: str) -> np.ndarray:
        """Read the features of an image's visual tokens: (N, D) float16."""
        place = self.place(name)
        return self._read(_VISUAL, place.visual, place.n)

    def text(self, name: str) -> np.ndarray:
        """Read the hidden states of the tokens behind the image: (T, D) float16."""
        place = self.place(name)
        return self._read(_TEXT, place.text, place.t)

    def _read(self, name: str, first: int, rows: int) -> np.ndarray:
        count = rows * self.width
        values = np.fromfile(self.folder / name, dtype="<f2", count=count, offset=2 * self.width * first)
        if values.size < count:
            raise RunFolderError(f"{self.folder / name} ends before row {first + rows}: collect the maps again")
        return values.reshape(rows, self.width)
