"""Files that are whole or not there at all, and files that one process writes at a time."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from biaslab.errors import RunFolderError

__all__ = ["atomic_write", "locked", "why_not_written"]

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


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
    'runs/x/run.json: disk full; make room, the same command goes on'
    """
    if error.errno in _FULL:
        return f"{error.filename or path}: disk full; make room, the same command goes on"
    return f"cannot write {path} ({error.strerror or error}): {otherwise}"


def atomic_write(path: str | Path, content: str | bytes | Callable[[Path], object]) -> Path:
    """Replace a file as a whole: a kill at any moment leaves the old file or the new one.

    The content is written beside the file and renamed. The draft is opened as any new file is, so the result is as
    readable for others as the umask says. It is not synced to the disk: a power cut may lose it.

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
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if isinstance(content, str):
            draft.write_text(content, encoding="utf-8", errors="backslashreplace")
        elif isinstance(content, bytes):
            draft.write_bytes(content)
        else:
            content(draft)
        draft.replace(path)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    return path


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Be the one process that writes a file, or refuse at once.

    The lock is a file of its own beside the other (``.NAME.lock``), which stays there; a process that ends in any
    way releases it. On a file system without locks, or in a folder that cannot be written, nothing is locked.

    Parameters
    ----------
    path : str or Path
        The file that is to be written.

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
        lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0, thread_local=False)
        try:
            stack.enter_context(lock)
        except Timeout:
            raise RunFolderError(
                f"another process is writing {path}: wait for it, or choose another run folder"
            ) from None
        except (OSError, NotImplementedError):
            pass
        yield
