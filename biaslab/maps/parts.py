"""Stored maps that several processes collect, each into a part of its own, and one of them puts together.

``parts/WRITER`` in the folder of the maps is a folder of maps itself, with ``failures.jsonl`` (a line per image that
could not be used). The processes take the batches of the source in turn, so that a batch is the same images whoever
does it, and exchange nothing. Once every image is in a part or in the maps, or failed, one process appends the parts to
the maps in the order of the source and removes them: the maps are those of one process, and so is all that is fitted on
them.
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from biaslab._util.files import is_unlocked, locked, writing_to
from biaslab._util.jsonable import plain
from biaslab._util.jsonl import JsonLines, whole_lines
from biaslab._util.launch import Launch
from biaslab._util.seats import party_of, seat, turn
from biaslab.errors import RunFolderError
from biaslab.maps.stored import PARTS, StoredMaps, part_folders

__all__ = ["PartMaps", "has_parts"]

_FAILURES = "failures.jsonl"
_INDEX = "images.jsonl"
_MERGING = "merging"  # names a lock
_ANOTHER = "own share done: another process puts the parts together and finishes the work"
_WAIT_SECONDS = 30.0

logger = logging.getLogger(__name__)


class Source(Protocol):
    """What a collection is shared by: who takes which batch, and the prompts so far."""

    takes: Any
    prompts: list[tuple[str, list[str]]]


class PartMaps(StoredMaps):
    """The part of one process; it has the images of all parts, and of the maps, and adds to its own.

    Parameters
    ----------
    folder : path
        Of the maps, which the parts are put into.
    settings : dict
        As of all maps.
    launch : Launch
        Which process of how many this is.
    n_images : int, optional
        How many there are to collect, if known: commands that differ in it do not share.

    Attributes
    ----------
    whole : StoredMaps or None
        After `writing`: the maps, put together by this process, which has the rest of the work to do; None where there
        are images that are neither collected nor failed, or where another process puts them together.

    Raises
    ------
    RunFolderError
        The folder cannot be written, holds something else, or maps of other settings, in a part or as a whole.
    """

    def __init__(
        self, folder: str | Path, settings: dict[str, Any], launch: Launch, *, n_images: int | None = None
    ) -> None:
        self.main, self.launch = Path(folder), launch
        self.whole: StoredMaps | None = None
        self._party = party_of(launch, plain(settings), n_images)
        self._prompts: list[tuple[str, list[str]]] = []
        self._elsewhere: set[str] = set()
        self._before: set[str] = set()  # in the maps when this process came
        self._said = 0  # failures that are in the log
        own = self.main / PARTS / launch.writer
        with writing_to(self.main):
            self.main.mkdir(parents=True, exist_ok=True)
        with turn(self.main):
            for part in part_folders(self.main):  # what holds images of other settings refuses
                StoredMaps.create(part, settings)
            StoredMaps.create(self.main, settings)
            StoredMaps.create(own, settings)
        super().__init__(own)

    def share_in(self, source: Source, total: int | None, batch_size: int) -> int | None:
        """Take this process's batches of a source; returns how many of its entries these are, None if not known."""
        self._prompts = source.prompts
        world, rank = self.launch.world_size, self.launch.rank
        source.takes = lambda batch: batch % world == rank
        if total is None:
            return None
        return sum(min(batch_size, total - at) for at in range(rank * batch_size, total, world * batch_size))

    @property
    def shows_progress(self) -> bool:
        """Whether this process draws a bar: on a terminal those of several would overwrite each other."""
        return self.launch.rank == 0 or not sys.stderr.isatty()

    def has(self, image_id: str) -> bool:
        """Whether this image is complete on disk, in whatever part, or failed since parts were last put together."""
        return image_id in self._ids or image_id in self._elsewhere

    @contextmanager
    def writing(self) -> Iterator[PartMaps]:
        """Allow `add`; at the end put the parts together, if they are complete and nobody else does."""
        with ExitStack() as stack:
            with turn(self.main):
                stack.enter_context(seat(self.main, self._party, self.launch.writer))
                with locked(self.main / _INDEX, wait=_WAIT_SECONDS):  # one process that shares with nobody is at work
                    pass
                parts = self._parts()
                self._before = set(StoredMaps(self.main).ids())
                self._elsewhere = self._before.union(*(part.ids() for part in parts))
                self._elsewhere.update(_failures(parts))
                StoredMaps.create(self.folder, self.settings)  # another one may have cleared it away as empty
                at_work = ExitStack()
                stack.enter_context(at_work)
                at_work.enter_context(super().writing())
            yield self
            self.checkpoint()
            at_work.close()
            self._put_together()

    def checkpoint(self) -> None:
        """Log the images that failed since the last batch."""
        if self._said < len(self.failures):
            with JsonLines(self.folder / _FAILURES) as log:
                for image_id, why in self.failures[self._said :]:
                    log.append({"id": image_id, "why": why})
            self._said = len(self.failures)

    def _put_together(self) -> None:
        if left := self._left():
            logger.warning(
                "own share done: %d of %d images of all ranks are in, the one that ends last finishes the work",
                len(self._prompts) - left, len(self._prompts),
            )  # fmt: skip
            return
        with ExitStack() as stack:
            try:  # only now: who has the lock knows that all are in
                stack.enter_context(locked(self.main / _MERGING))
            except RunFolderError:
                logger.warning(_ANOTHER)
                return
            parts, whole = self._parts(), StoredMaps(self.main)
            if (why := _failures(parts)) or any(part.n for part in parts):
                self._merge(whole, parts)
                whole.failures = [(name, why[name]) for name in self._in_order(why)]
                self.whole = whole
            elif self.launch.rank == 0 and self._was_whole():
                self.whole = whole
            else:
                logger.warning(_ANOTHER)
            _remove(self.folder)

    def _left(self) -> int:
        """Count the prompts that are neither collected nor failed."""
        parts = self._parts()
        why, done = _failures(parts), set[str]().union(*(part.ids() for part in parts))
        done.update(StoredMaps(self.main).ids())  # last: what left the parts is there
        return sum(not _settled(name, names, done, why) for name, names in self._prompts)

    def _was_whole(self) -> bool:
        """Whether nothing was to do from the beginning: who put the parts together has ended, maybe by a kill."""
        return all(_settled(name, names, self._before, {}) for name, names in self._prompts)

    def _merge(self, whole: StoredMaps, parts: list[StoredMaps]) -> None:
        """Append what the parts have to the maps, in the order of the source, and remove the parts."""
        places = {image_id: (part, i) for part in parts for i, image_id in enumerate(part.ids())}
        with whole.writing():
            for name in self._in_order(places):
                if not whole.has(name):
                    part, index = places[name]
                    whole.add(part.record(index), part.values(index))
        with turn(self.main):  # nobody comes meanwhile
            for part in parts:
                if part.n or (part.folder / _FAILURES).exists() or is_unlocked(part.folder / _INDEX):
                    _remove(part.folder)

    def _in_order(self, wanted: Any) -> list[str]:
        """List names that are wanted in the order of the source; those that it does not have (any more) at the end."""
        of_source = dict.fromkeys(name for prompt, names in self._prompts for name in (prompt, *names))
        return [name for name in of_source if name in wanted] + [name for name in wanted if name not in of_source]

    def _parts(self) -> list[StoredMaps]:
        parts = []
        for folder in part_folders(self.main):
            try:
                parts.append(StoredMaps(folder))
            except RunFolderError:
                if folder.exists():
                    raise  # else it has just been put together with the others
        return parts


def has_parts(folder: str | Path) -> bool:
    """Whether a folder of maps has parts that wait to be put together.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from biaslab.maps.parts import has_parts
    >>> with TemporaryDirectory() as folder:
    ...     has_parts(folder)
    False
    """
    return bool(part_folders(folder))


def _remove(part: Path) -> None:
    shutil.rmtree(part, ignore_errors=True)
    with suppress(OSError):  # there are others
        part.parent.rmdir()


def _failures(parts: list[StoredMaps]) -> dict[str, str]:
    """Read what failed and why."""
    logs = [part.folder / _FAILURES for part in parts]
    lines = [line for log in logs if log.exists() for line, _ in whole_lines(log) if line is not None]
    return {str(line["id"]): str(line["why"]) for line in lines}


def _settled(name: str, names: list[str], done: set[str], failed: dict[str, str]) -> bool:
    """Whether nothing is left to do for a prompt: its images are collected, or one of them failed."""
    return all(image in done for image in names) or any(image in failed for image in (name, *names))
