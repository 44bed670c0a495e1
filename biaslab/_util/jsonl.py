"""An append-only log with a JSON object per line, safe against a kill at any moment."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from biaslab._util.files import locked, write_all, writing_to
from biaslab._util.jsonable import finite
from biaslab.errors import RunFolderError

try:  # five times as fast as the standard library on a sample line
    import orjson
except ImportError:
    orjson: Any = None  # type: ignore[no-redef]

__all__ = ["JsonLines", "parse_line", "read_lines", "whole_length", "whole_lines"]

_TAIL = 1 << 16  # bytes read from the end at first


class JsonLines:
    """A log, open for appending; one process at a time writes it.

    Every line is written in one piece and handed to the operating system at once, so a killed process loses at most
    the line it was writing. Opening cuts such a torn last line.

    Parameters
    ----------
    path : str or Path
        File to append to, made if missing.

    Raises
    ------
    RunFolderError
        The file cannot be written, or another process is writing it.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from biaslab._util.jsonl import JsonLines, read_lines
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "samples.jsonl"
    ...     with JsonLines(path) as log:
    ...         log.append({"id": "a", "iou": 0.5})
    ...     _ = path.open("a").write('{"id": "b", "io')  # killed within a line
    ...     list(read_lines(path))
    [{'id': 'a', 'iou': 0.5}]
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._stack = contextlib.ExitStack()
        with writing_to(self.path, "choose another run folder"):
            self._file = self._stack.enter_context(open(self.path, "a+b", buffering=0))  # noqa: SIM115
        try:
            self._stack.enter_context(locked(self.path))
            self.cut(whole_length(self._file))
        except BaseException:
            self._stack.close()
            raise

    def append(self, record: dict[str, Any]) -> None:
        """Write one line now.

        Parameters
        ----------
        record : dict
            JSON-serialisable; NaN and infinities are written as null.

        Raises
        ------
        RunFolderError
            The disk is full, or the file cannot be written any more; the log is left without the line.
        """
        data = _line(record)
        whole = self._file.seek(0, os.SEEK_END)
        try:
            with writing_to(self.path, "choose another run folder"):
                write_all(self._file, data)
        except RunFolderError:
            with contextlib.suppress(OSError):  # or the next line would be joined to the half of this one
                self.cut(whole)
            raise

    def cut(self, length: int) -> None:
        """Keep the first ``length`` bytes only (of :func:`whole_lines`)."""
        self._file.truncate(length)

    def close(self) -> None:
        """Hand the lines to the disk and release the file."""
        if not self._file.closed:
            with contextlib.suppress(OSError):  # some file systems cannot sync; the lines are written
                os.fsync(self._file.fileno())
            self._stack.close()

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def whole_lines(path: str | Path) -> Iterator[tuple[dict[str, Any] | None, int]]:
    """Read the lines of a log that have their end, one at a time.

    Parameters
    ----------
    path : str or Path
        The log.

    Yields
    ------
    record : dict or None
        None where the line is no JSON object.
    end : int
        Length of the log in bytes up to the end of this line.
    """
    end = 0
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            end += len(line)
            yield parse_line(line), end


def read_lines(path: str | Path, *, kind: str = "record") -> Iterator[dict[str, Any]]:
    """Read the records of a log, one at a time; a torn last line is left out.

    Parameters
    ----------
    path : str or Path
        The log.
    kind : str
        What a line is, for the message.

    Yields
    ------
    dict
        A record.

    Raises
    ------
    RunFolderError
        A line other than the last is not a JSON object: the file was edited or damaged.
    """
    damaged = None  # a power cut can leave a last line of zero bytes that does have its end
    for number, (record, _) in enumerate(whole_lines(path), start=1):
        if damaged is not None:
            break
        if record is None:
            damaged = number
        else:
            yield record
    else:
        return
    raise RunFolderError(f"{path}, line {damaged} is no {kind}: delete that line and run again")


def _line(record: dict[str, Any]) -> bytes:
    record = finite(record)
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair, as of an undecodable file name: only escapes carry it
        return json.dumps(record, allow_nan=False).encode() + b"\n"


def whole_length(file: BinaryIO) -> int:
    """Length in bytes of the part of an open log that ends with its last whole record: its next writer cuts the rest.

    Examples
    --------
    >>> import io
    >>> whole_length(io.BytesIO(b'{"id": "a"}' + bytes([10]) + b'{"id": "torn'))
    12
    """
    size, block = file.seek(0, os.SEEK_END), _TAIL
    while True:
        offset = max(0, size - block)
        file.seek(offset)
        tail = _read(file)
        end = tail.rfind(b"\n") + 1
        start = tail.rfind(b"\n", 0, max(end - 1, 0)) + 1
        if start or not offset:  # the last line is all there
            return offset + (end if end == 0 or parse_line(tail[start:end]) is not None else start)
        block *= 4


def _read(file: BinaryIO) -> bytes:
    """Read the rest of an unbuffered file, whose reads may be short."""
    return b"".join(iter(lambda: file.read(1 << 20), b""))


def parse_line(line: bytes) -> dict[str, Any] | None:
    """Parse a line; None where it is no JSON object."""
    try:
        record = _loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _loads(line: bytes) -> Any:
    """Parse JSON; what orjson refuses (half a surrogate pair, NaN) the standard library decides."""
    if orjson is not None:
        with contextlib.suppress(ValueError):
            return orjson.loads(line)
    return json.loads(line)
