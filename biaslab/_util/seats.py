"""Who is at work in a folder: the processes of one command share it, two commands do not."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from biaslab._util.files import locked
from biaslab._util.launch import Launch
from biaslab.errors import RunFolderError

__all__ = ["party_of", "seat", "turn"]

_TURN = "run.json"  # names the lock, in every kind of folder
_TURN_SECONDS = 120.0  # others only read and write a small file in their turn
_SEAT = re.compile(r"\.seat-(?P<party>[^-]+)-(?P<name>.+)\.lock")


def party_of(launch: Launch, *work: Any) -> str:
    """Name the command that a process belongs to: the same for all ranks of a launch, another for another command.

    Parameters
    ----------
    launch : Launch
    *work
        What is to be done, JSON-ready: settings, how much of it.

    Returns
    -------
    str
        12 hex digits.
    """
    parts = [launch.id, launch.world_size, *work]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


@contextmanager
def turn(folder: str | Path) -> Iterator[None]:
    """Be the one process that reads and writes what the others read, such as ``run.json``; they wait for their turn.

    Raises
    ------
    RunFolderError
        It does not come.
    """
    with locked(Path(folder) / _TURN, wait=_TURN_SECONDS):
        yield


@contextmanager
def seat(folder: str | Path, party: str, name: str) -> Iterator[None]:
    """Be at work in a folder, with the others of one command; to be taken in one's :func:`turn`, and kept to the end.

    A seat is a lock, which a process that ends in any way gives back. The files of seats that nobody holds are
    removed by the next command.

    Parameters
    ----------
    folder : str or Path
    party : str
        Of :func:`party_of`.
    name : str
        Of this process among those of its command.

    Raises
    ------
    RunFolderError
        A process of another command, or another one of this name, is at work in the folder.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from biaslab.errors import RunFolderError
    >>> from biaslab._util.seats import seat
    >>> with TemporaryDirectory() as folder, seat(folder, "a1", "0"), seat(folder, "a1", "1"):
    ...     try:
    ...         with seat(folder, "b2", "0"):
    ...             pass
    ...     except RunFolderError as error:
    ...         str(error).partition(": ")[2]
    'wait for it, or choose another run folder'
    """
    folder = Path(folder)
    for path in folder.glob(".seat-*.lock"):
        found = _SEAT.fullmatch(path.name)
        if found is None or found["party"] == party:
            continue
        with _held(folder, f"seat-{found['party']}-{found['name']}"):
            path.unlink(missing_ok=True)  # in our turn nobody takes it
    with _held(folder, f"seat-{party}-{name}"):
        yield


@contextmanager
def _held(folder: Path, name: str) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / name))
        except RunFolderError:
            raise RunFolderError(
                f"another command is at work in {folder}: wait for it, or choose another run folder"
            ) from None
        yield
