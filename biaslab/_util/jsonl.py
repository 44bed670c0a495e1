"""The append-only sample log: a JSON line per sample and configuration, safe against a kill at any moment."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from biaslab.errors import RunFolderError

try:
    import fcntl
except ImportError:  # no advisory locks on this platform: two runs on one folder are then not noticed
    fcntl = None

PATTERN = "samples-*.jsonl"


def log_path(folder: Path, rank: int) -> Path:
    """The log of one process of a run."""
    return Path(folder) / f"samples-{rank}.jsonl"


def log_files(folder: Path) -> list[Path]:
    """All sample logs of a run folder, by name."""
    return sorted(Path(folder).glob(PATTERN))


class SampleLog:
    """One process's log, open for appending.

    Every line is written in one piece and handed to the operating system at once, so a killed process loses
    at most the line it was writing. Opening cuts such a torn last line; that sample is done again.

    Parameters
    ----------
    path
        File to append to, made if missing.

    Raises
    ------
    RunFolderError
        If the file cannot be written, or another process is writing it.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise RunFolderError(f"cannot write {self.path} ({error.strerror}): choose another run folder") from error
        try:
            self._lock()
            self._file.truncate(_whole_length(self.path))
        except BaseException:
            self._file.close()
            raise

    def append(self, record: dict) -> None:
        """Write one line now. ``record`` must be JSON-serialisable; NaN is written as null."""
        line = json.dumps(_finite(record), ensure_ascii=False, allow_nan=False)
        data = line.encode() + b"\n"
        while data:  # an unbuffered write may be short
            data = data[self._file.write(data) :]

    def close(self) -> None:
        """Hand the lines to the disk and release the file."""
        if not self._file.closed:
            with contextlib.suppress(OSError):  # some file systems cannot sync; the lines are written
                os.fsync(self._file.fileno())
            self._file.close()

    def __enter__(self) -> SampleLog:
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFolderError(
                f"another process is writing {self.path}: wait for it, or choose another run folder"
            ) from None
        except OSError:
            return  # a file system without locks


def read_lines(path: Path) -> Iterator[dict]:
    """The records of one log; a torn last line is ignored.

    Raises
    ------
    RunFolderError
        If a line other than the last is not a JSON object: the file was edited or damaged.
    """
    content = Path(path).read_bytes()[: _whole_length(path)]
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        record = _parse(line)
        if record is None:
            raise RunFolderError(f"{path}, line {number} is no sample record: delete that line and run again")
        yield record


class LineCounter:
    """Counts the lines that appear in the logs of a folder from now on, reading only what is new."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._offsets = {path: path.stat().st_size for path in log_files(folder)}

    def new(self) -> int:
        """Lines finished since the last call."""
        lines = 0
        for path in log_files(self.folder):
            with open(path, "rb") as file:
                file.seek(self._offsets.get(path, 0))
                fresh = file.read()
            self._offsets[path] = self._offsets.get(path, 0) + len(fresh)
            lines += fresh.count(b"\n")
        return lines


def _whole_length(path: Path) -> int:
    """Length in bytes of the part of a log that ends with its last whole record."""
    content = Path(path).read_bytes()
    end = content.rfind(b"\n") + 1
    start = content.rfind(b"\n", 0, max(end - 1, 0)) + 1
    # a power cut can leave a last line of zero bytes that does have its end
    return end if end == 0 or _parse(content[start:end]) is not None else start


def _parse(line: bytes) -> dict | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _finite(value):
    """The same value with NaN and infinities, which JSON does not have, as null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value
