"""The images of a collection: walked in order, named, opened and cut ahead of the model."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import TYPE_CHECKING, Any

from biaslab.core.images import content_hash, image_name, load_image
from biaslab.datasets.calibration import PROMPT
from biaslab.errors import InputError
from biaslab.maps.base import AttentionMaps
from biaslab.models.preparing import Preparers

if TYPE_CHECKING:
    from PIL import Image

    from biaslab.models.encoded import Encoded
    from biaslab.models.vlm import VLM

__all__ = ["ImageSource", "Item", "PreparedImages", "asked_digest", "prepare_images"]


class Item:
    """One prompt that is still to do.

    ``pictures`` holds a hash of each image's pixels, ``records`` its id and a hash of content and question; frames of a
    video (several images of one name) have one record.
    """

    def __init__(self, names: list[str], images: list[Image.Image], text: str) -> None:
        self.images, self.text = images, text
        self.pictures = [content_hash(image) for image in images]
        if len(names) < len(images):
            self.records = [(names[0], asked_digest("+".join(self.pictures), text))]
            return
        self.records = [(n, asked_digest(picture, text)) for n, picture in zip(names, self.pictures, strict=True)]


def asked_digest(picture: str, text: str) -> str:
    """Hash what an image (by the hash of its pixels) is asked: the digest of its record."""
    return hashlib.sha256(f"{picture}|{text}".encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Entry:
    """An entry of the source, its images unread.

    Attributes
    ----------
    name : str
    names : list of str
        Of its images.
    group : list
        What they are opened from.
    text : str
    problem : str
        Why it could not be named.
    done : bool
        Whether the maps of all its images are there.
    """

    name: str
    names: list[str]
    group: list[Any]
    text: str
    problem: str = ""
    done: bool = False


@dataclass(frozen=True, eq=False)
class PreparedImages:
    """A batch that is ready for the model.

    Attributes
    ----------
    size : int
        Entries of the batch.
    items : list of Item
        Those that could be opened; none where nothing that is still to do could.
    failed : list of (name, str)
        Those still to do that could not.
    prompts : Encoded, InputError or None
        Of the items, not yet sent to the device, or why they could not be made as one batch; None without any.
    """

    size: int
    items: list[Item]
    failed: list[tuple[str, str]]
    prompts: Encoded | InputError | None = None


class ImageSource:
    """Walks the images: names them, and leaves out the batches already done.

    A batch is the same images whatever was done before and whoever does it, so that maps depend on neither.
    """

    def __init__(
        self, images: Iterable[Any], ids: list[str] | None, prompt: Any, maps: AttentionMaps, *, frames: bool = False
    ) -> None:
        self.images, self.ids, self.prompt, self.maps, self.frames = images, ids, prompt, maps, frames
        self.failures: list[tuple[str, str]] = []
        self.prompts: list[tuple[str, list[str]]] = []  # of all so far, other processes' too: its name, its images'
        self.takes: Callable[[int], bool] = lambda batch: True

    def batches(self, size: int, advance: Callable[[int], None]) -> Iterator[list[Entry]]:
        """Yield ``size`` entries at a time; ``advance`` hears of the batches that are done."""
        entries = self._entries()
        for number in count():
            batch = list(islice(entries, size))
            if not batch:
                return
            if not self.takes(number):
                continue
            batch = [replace(entry, done=all(map(self.maps.has, entry.names))) for entry in batch]
            if all(entry.done for entry in batch):
                advance(len(batch))
            else:
                yield batch

    def _entries(self) -> Iterator[Entry]:
        """Name the images."""
        seen: Counter[str] = Counter()
        for i, source in enumerate(self.images):
            group, problem = list(source) if isinstance(source, (list, tuple)) else [source], ""
            text = self._at("prompt", self.prompt, i)
            name = str(self._at("ids", self.ids, i))
            try:
                if not group:
                    raise InputError("an empty list among the images: leave it out")
                name = _name(group) if self.ids is None else name
            except InputError as err:
                name, problem = str(i) if self.ids is None else name, str(err)
            else:
                seen[name] += 1
                name = name if seen[name] == 1 else f"{name}#{seen[name]}"
            if self.frames and not isinstance(source, (list, tuple)):
                problem = "frames=True takes a list of frames for every prompt: pass [[first, second, ...]]"
            names = [name] if len(group) < 2 or self.frames else [f"{name}[{k}]" for k in range(len(group))]
            self.prompts.append((name, names))
            yield Entry(name, names, group, PROMPT if text is None else text, problem)

    @staticmethod
    def _at(name: str, values: Any, i: int) -> Any:
        if not isinstance(values, list):
            return values
        if i >= len(values):
            raise InputError(f"{name} has {len(values)} entries and there are more images: give one per image")
        return values[i]


def prepare_images(preparers: Preparers, batch: list[Entry], *, frames: bool = False) -> PreparedImages:
    """Open, cut and tokenize a batch, in whatever thread; nothing is raised for an image that is broken.

    Parameters
    ----------
    preparers : Preparers
    batch : list of Entry
    frames : bool
        The images of each prompt are frames of a video.

    Returns
    -------
    PreparedImages
    """
    failed: list[tuple[str, str]] = []
    pictures: dict[int, Image.Image] = {}
    opened = {entry: _opened(entry, pictures, failed) for entry in batch if not entry.done}
    if not any(opened.values()):
        return PreparedImages(len(batch), [], failed)
    # the done ones too, so that a batch is the same; that one cannot be opened any more is no matter
    each = [opened[entry] if entry in opened else _opened(entry, pictures, []) for entry in batch]
    items = [item for item in each if item is not None]
    with preparers.one() as vlm:
        try:
            prompts: Encoded | InputError = prepared(vlm, items, frames=frames)
        except InputError as error:
            prompts = error
    return PreparedImages(len(batch), items, failed, prompts)


def prepared(vlm: VLM, items: list[Item], *, frames: bool) -> Encoded:
    """Make the prompts of some items, on the host.

    Raises
    ------
    InputError
        An image that the family cannot take, or frames of one prompt that are not laid out alike.
    """
    made = vlm.prepare([i.images for i in items], [i.text for i in items], frames=frames)
    keys = [layout.key for layout in made.layouts]
    if frames and any(keys[i] != keys[made.owners.index(owner)] for i, owner in enumerate(made.owners)):
        raise InputError("frames of one prompt are laid out differently: give frames of one size")
    return made


def _opened(entry: Entry, pictures: dict[int, Image.Image], failed: list[tuple[str, str]]) -> Item | None:
    """Open what an entry shows; what the batch has opened for another question is taken from ``pictures``."""
    try:
        if entry.problem:
            raise InputError(entry.problem)
        for source in entry.group:
            if id(source) not in pictures:
                pictures[id(source)] = load_image(source)
        return Item(entry.names, [pictures[id(source)] for source in entry.group], entry.text)
    except InputError as error:
        failed.append((entry.name, str(error)))
        return None


def _name(group: list[Any]) -> str:
    return "+".join(image_name(item) for item in group)
