"""Files that are whole or not there at all, and files that one process writes at a time."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeGuard

from filelock import FileLock, Timeout

from biaslab.errors import RunFolderError

__all__ = ["atomic_write", "is_disk_full", "is_unlocked", "locked", "why_not_written", "write_all", "writing_to"]

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_HOST = socket.gethostname().replace(".", "-")


def is_disk_full(error: BaseException) -> TypeGuard[OSError]:
    """Whether a disk, or a user's share of it, is full.

    Examples
    --------
    >>> from biaslab._util.files import is_disk_full
    >>> is_disk_full(OSError(28, "No space left on device")), is_disk_full(OSError(13, "Permission denied"))
    (True, False)
    """
    return isinstance(error, OSError) and error.errno in _FULL


def why_not_written(path: str | Path, error: OSError, otherwise: str) -> str:
    """Say why a file was not written, and the fix.

    Parameters
    ----------
    path : str or Path
        The file or folder.
    error : OSError
        What the system said.
    otherwise : str
        The fix where the disk is not full.

    Returns
    -------
    str
        One line.

    Examples
    --------
    >>> from biaslab._util.files import why_not_written
    >>> why_not_written("runs/x/run.json", OSError(28, "No space left on device"), "choose another folder")
    'runs/x/run.json: disk full; make room and run the same command again'
    """
    if is_disk_full(error):
        return f"{error.filename or path}: disk full; make room and run the same command again"
    return f"cannot write {path} ({error.strerror or error}): {otherwise}"


@contextmanager
def writing_to(place: str | Path, otherwise: str = "choose another folder") -> Iterator[None]:
    """Say in one line why a file or folder was not written.

    Parameters
    ----------
    place : str or Path
        The file or folder.
    otherwise : str
        The fix where the disk is not full.

    Raises
    ------
    RunFolderError
        In place of an OSError of the block.

    Examples
    --------
    >>> from biaslab._util.files import writing_to
    >>> with writing_to("runs/x/bench.csv"):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    biaslab.errors.RunFolderError: runs/x/bench.csv: disk full; make room and run the same command again
    """
    try:
        yield
    except OSError as error:
        raise RunFolderError(why_not_written(place, error, otherwise)) from error


def atomic_write(path: str | Path, content: str | bytes | Callable[[Path], object]) -> Path:
    """Replace a file as a whole: a kill at any moment leaves the old file or the new one.

    The content is written beside the file and renamed. The draft is opened as any new file is, so the result is as
    readable for others as the umask says. It is not synced to the disk: a power cut may lose it. What a killed process
    left of a draft of this file is removed.

    Parameters
    ----------
    path : str or Path
        The file; its folder must exist.
    content : str, bytes or callable
        Text (written as UTF-8, with escapes for what that cannot hold), bytes, or a function that writes a file to the
        path it is called with.

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    OSError
        It cannot be written; no draft stays.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from biaslab._util.files import atomic_write
    >>> with TemporaryDirectory() as folder:
    ...     path = atomic_write(Path(folder) / "card.md", "# Card")
    ...     path.read_text(), len(list(Path(folder).iterdir()))
    ('# Card', 1)
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.tmp")
    _remove_left_drafts(path)
    try:
        if isinstance(content, str):
            draft.write_text(content, encoding="utf-8", errors="backslashreplace")
        elif isinstance(content, bytes):
            draft.write_bytes(content)
        else:
            content(draft)
        draft.replace(path)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # nobody knows the draft
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    return path


def write_all(file: BinaryIO, data: bytes) -> None:
    """Write to an unbuffered file, whose writes may be short.

    An unbuffered file hands what it is given to the system at once, and owes nothing when it is closed.

    Parameters
    ----------
    file : binary file
        Opened with ``buffering=0``.
    data : bytes
        To be written whole.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from biaslab._util.files import write_all
    >>> with TemporaryDirectory() as folder, open(Path(folder) / "a", "w+b", buffering=0) as file:
    ...     write_all(file, b"values")
    ...     file.tell()
    6
    """
    while data:
        data = data[file.write(data) :]


def _remove_left_drafts(path: Path) -> None:
    """Remove drafts of processes of this machine that are no more; those of other machines may be at work."""
    start = f".{path.name}.{_HOST}."
    with suppress(OSError):
        left = [name for name in os.listdir(path.parent) if name.startswith(start) and name.endswith(".tmp")]
        for name in left:
            process = name[len(start) : -len(".tmp")]
            if process.isdigit() and not _runs(int(process)):
                path.with_name(name).unlink(missing_ok=True)


def _runs(process: int) -> bool:
    if os.name == "nt":  # where signal 0 is not harmless
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        pass
    return True


@contextmanager
def locked(path: str | Path, *, wait: float = 0.0) -> Iterator[None]:
    """Be the one process that writes a file, or refuse.

    The lock is a file of its own beside the other (``.NAME.lock``), which stays there; a process that ends in any
    way releases it. On a file system without locks, or in a folder that cannot be written, nothing is locked.

    Parameters
    ----------
    path : str or Path
        The file that is to be written.
    wait : float
        Seconds to wait for another one; the default refuses at once.

    Raises
    ------
    RunFolderError
        Another process (or another holder in this one) is writing the file.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from biaslab._util.files import locked
    >>> from biaslab.errors import RunFolderError
    >>> with TemporaryDirectory() as folder, locked(Path(folder) / "log"):
    ...     try:
    ...         with locked(Path(folder) / "log"):
    ...             pass
    ...     except RunFolderError:
    ...         "refused"
    'refused'
    """
    path = Path(path)
    with ExitStack() as stack:
        # not bound to a thread: whoever closes a log releases it
        lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=wait, thread_local=False)
        try:
            stack.enter_context(lock)
        except Timeout:
            raise RunFolderError(
                f"another process is writing {path}: wait for it, or choose another run folder"
            ) from None
        except (OSError, NotImplementedError):
            pass
        yield


def is_unlocked(path: str | Path) -> bool:
    """Whether nobody holds the lock of a file: a process that wrote it has ended.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from biaslab._util.files import is_unlocked, locked
    >>> with TemporaryDirectory() as folder, locked(Path(folder) / "log"):
    ...     is_unlocked(Path(folder) / "log"), is_unlocked(Path(folder) / "other")
    (False, True)
    """
    try:
        with locked(path):
            return True
    except RunFolderError:
        return False
