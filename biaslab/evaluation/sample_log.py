"""The sample logs of a run folder: one per process, a line per sample and configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from biaslab._util.jsonl import read_lines

__all__ = ["LineCounter", "log_files", "log_path", "sample_lines"]

_PATTERN = "samples-*.jsonl"


def log_path(folder: str | Path, rank: int) -> Path:
    """The log of one process of a run."""
    return Path(folder) / f"samples-{rank}.jsonl"


def log_files(folder: str | Path) -> list[Path]:
    """All sample logs of a run folder, by name."""
    return sorted(Path(folder).glob(_PATTERN))


def sample_lines(folder: str | Path) -> Iterator[dict[str, Any]]:
    """The lines of all logs of a run folder; torn last ones are left out.

    Raises
    ------
    RunFolderError
        A line before the last of its log is damaged.
    """
    for path in log_files(folder):
        yield from read_lines(path, kind="sample record")


class LineCounter:
    """Counts the lines that appear in the logs of a folder from now on, reading only what is new."""

    def __init__(self, folder: str | Path) -> None:
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
