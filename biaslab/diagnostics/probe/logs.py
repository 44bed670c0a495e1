"""Logs of a probe: of one process, or of several that share it, one each, which the last one makes one."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from biaslab._util.files import atomic_write, is_unlocked, locked, writing_to
from biaslab._util.identity import differences
from biaslab._util.jsonable import plain
from biaslab._util.jsonl import JsonLines, read_lines
from biaslab._util.launch import Launch
from biaslab._util.model_identity import not_compared
from biaslab._util.seats import party_of, seat, turn
from biaslab.attention.heads import heads_on_disk
from biaslab.diagnostics.probe.result import LOG, RUN
from biaslab.errors import RunFolderError

__all__ = ["ProbeLog"]

_MERGING = "merging"  # names a lock
_PART = "stimuli-{}.jsonl"
_ANOTHER = "own share done: another process makes one log of all and finishes the work"

logger = logging.getLogger(__name__)


class ProbeLog:
    """The log of this process in the folder of a probe, and what those of others hold.

    A process alone writes ``stimuli.jsonl``; each of several a log of its own beside it. Whoever finds the probe
    complete writes all lines into ``stimuli.jsonl``, in the order of the design, and removes the others.

    Parameters
    ----------
    folder : Path
        Made for these settings, or to be made.
    settings : dict
        What is measured.
    order : sequence of str
        The images of the design.
    launch : Launch
        Which process of how many this is.

    Attributes
    ----------
    done : set of str
        Images that are in some log.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], order: Sequence[str], launch: Launch) -> None:
        self.folder, self.launch, self.order = folder, launch, order
        self.done: set[str] = set()
        self._settings = heads_on_disk(plain(settings))
        self._was_whole = False
        self._log: JsonLines | None = None

    @contextmanager
    def writing(self) -> Iterator[ProbeLog]:
        """Be at work in the folder, with the others of one command.

        Raises
        ------
        RunFolderError
            It cannot be written, holds another probe, or another command is at work in it.
        """
        with writing_to(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        own = LOG if self.launch.alone else _PART.format(self.launch.writer)
        with ExitStack() as stack:
            with turn(self.folder):
                stack.enter_context(seat(self.folder, party_of(self.launch, self._settings), self.launch.writer))
                self._log = stack.enter_context(JsonLines(self.folder / own))
                self._expect_settings()
                held = {path.name: {record["id"] for record in read_lines(path)} for path in self._logs()}
                self._was_whole = held.get(LOG, set()).issuperset(self.order)
                self.done = set().union(*held.values())
            yield self

    def append(self, record: dict[str, Any]) -> None:
        """Write one image, unless some log has it."""
        assert self._log is not None
        if record["id"] not in self.done:
            self._log.append(record)
            self.done.add(record["id"])

    def finish(self) -> bool:
        """Make one log of all, if they are complete; tells whether the rest of the work is this process's.

        To be called within `writing`.
        """
        if left := len(set(self.order).difference(self._lines())):
            logger.warning(
                "own share done: %d of %d images of all ranks are in, the one that ends last finishes the work",
                len(self.order) - left, len(self.order),
            )  # fmt: skip
            return False
        with ExitStack() as stack:
            try:  # only now: who has the lock knows that all are in
                stack.enter_context(locked(self.folder / _MERGING))
            except RunFolderError:
                logger.warning(_ANOTHER)
                return False
            parts, lines = [path for path in self._logs() if path.name != LOG], self._lines()
            if any(path.stat().st_size for path in parts):
                text = "".join(json.dumps(lines[image], ensure_ascii=False) + "\n" for image in self.order)
                with writing_to(self.folder):
                    atomic_write(self.folder / LOG, text)
                main = True
            else:  # nothing was to do from the beginning: who made one log of all has ended, maybe by a kill
                main = self.launch.alone or (self._was_whole and self.launch.rank == 0)
            if not main:
                logger.warning(_ANOTHER)
            with turn(self.folder):  # nobody comes meanwhile
                for path in parts:
                    if not path.exists() or path.stat().st_size or path == self._path or is_unlocked(path):
                        with suppress(OSError):  # where an open file cannot be removed it stays, and is read again
                            path.unlink(missing_ok=True)
            return main

    @property
    def _path(self) -> Path:
        assert self._log is not None
        return self._log.path

    def _logs(self) -> list[Path]:
        return [path for path in (*sorted(self.folder.glob(_PART.format("*"))), self.folder / LOG) if path.exists()]

    def _lines(self) -> dict[str, dict[str, Any]]:
        lines: dict[str, dict[str, Any]] = {}
        for path in self._logs():  # the log of all last: what left the others is there
            with suppress(FileNotFoundError):
                lines.update({record["id"]: record for record in read_lines(path)})
        return lines

    def _expect_settings(self) -> None:
        path, settings = self.folder / RUN, self._settings
        try:
            held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        except (OSError, ValueError) as err:
            raise RunFolderError(f"{self.folder} cannot be used for a probe ({err}): choose another folder") from None
        others = [] if held is None else differences(held, settings, ignore=not_compared(held, settings))
        if others and any(log.stat().st_size for log in self._logs()):
            name = others[0].name or "format"
            raise RunFolderError(
                f"{self.folder} holds a probe with another {name}: choose another folder, or the same settings"
            )
        if held is None or others:  # of a probe that ended before its first image, nothing is lost
            with writing_to(self.folder):
                atomic_write(path, json.dumps(settings, indent=1))
