"""The sample logs of a run folder: one per process, a line per sample and configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from biaslab._util.jsonl import read_lines
from biaslab.errors import RunFolderError
from biaslab.evaluation.schema import KEY_FIELDS, current_name

__all__ = ["current_record", "log_files", "log_path", "sample_lines"]

_PATTERN = "samples-*.jsonl"
_NEEDED = frozenset((*KEY_FIELDS, "id", "index", "error"))


def log_path(folder: str | Path, writer: int | str) -> Path:
    """Return the path of the log of one process of a run."""
    return Path(folder) / f"samples-{writer}.jsonl"


def log_files(folder: str | Path) -> list[Path]:
    """List the sample logs of a run folder, by name."""
    return sorted(Path(folder).glob(_PATTERN))


def sample_lines(folder: str | Path) -> Iterator[dict[str, Any]]:
    """Read the lines of all logs of a run folder; torn last ones are left out.

    Fields of lines that earlier versions wrote come under their names of today.

    Raises
    ------
    RunFolderError
        A line before the last of its log is damaged, or one is of another kind.
    """
    for path in log_files(folder):
        for number, line in enumerate(read_lines(path, kind="sample record"), start=1):
            yield current_record(line, path, number)


def current_record(line: dict[str, Any], path: Path, number: int) -> dict[str, Any]:
    """Give the fields of a line their names of today.

    Raises
    ------
    RunFolderError
        It lacks what every sample line has; `path` and `number` (from 1) say which it is.
    """
    record = {current_name(name): value for name, value in line.items()}
    if not record.keys() >= _NEEDED:
        raise RunFolderError(f"{path}, line {number} is no sample record: delete that line and run again")
    return record
