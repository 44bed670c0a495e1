"""What a part is asked to do, and what it has found so far."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from biaslab._util.files import atomic_write

__all__ = ["Columns", "Findings", "Plan"]

#: key in the rows -> (header, format spec), as in `benchmarks.report.Table`
Columns = Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Plan:
    """Sizes of all parts.

    Attributes
    ----------
    device : torch.device
    tiny : bool
        Small models and single rounds, to go through every line on a CPU; the figures mean nothing.
    until : float
        Moment of `time.monotonic` after which no further round begins.
    """

    device: torch.device
    tiny: bool = False
    until: float = math.inf

    @property
    def late(self) -> bool:
        """Whether the time for further rounds is over."""
        return time.monotonic() > self.until

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Prompts per forward."""
        return (1, 2) if self.tiny else (1, 16)

    @property
    def new_tokens(self) -> int:
        """Length of an answer: a box of InternVL."""
        return 3 if self.tiny else 26

    @property
    def rounds(self) -> int:
        """Rounds that count, after one that does not."""
        return 1 if self.tiny else 3


@dataclass
class Findings:
    """Tables, notes and failures of one part; on disk after every row, so that a killed part keeps its rows.

    Attributes
    ----------
    path : Path or None
        JSON file; None keeps everything in memory.
    tables : list of dict
        ``caption``, ``columns`` and ``rows`` each.
    notes, failures : list of str
    """

    path: Path | None = None
    tables: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Findings:
        """Read what a part has left; nothing where it did not come to its first row."""
        return cls(path, **json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else cls(path)

    def add(self, caption: str, columns: Columns, row: Mapping[str, Any]) -> None:
        """Add a row to the table of that caption; the first one makes it. One line of progress."""
        table = next((table for table in self.tables if table["caption"] == caption), None)
        if table is None:
            table = {"caption": caption, "columns": dict(columns), "rows": []}
            self.tables.append(table)
        table["rows"].append(dict(row))
        cells = ((title, row.get(key), spec) for key, (title, spec) in columns.items())
        print("  " + ", ".join(f"{title} {format(x, spec)}" for title, x, spec in cells if x is not None), flush=True)
        self.save()

    def note(self, text: str) -> None:
        """Add a line that explains the tables; one said before is not repeated."""
        if text not in self.notes:
            self.notes.append(text)
            self.save()

    def fail(self, text: str) -> None:
        """Add what did not work; the part goes on."""
        self.failures.append(text)
        print(f"  FAILED: {text}", flush=True)
        self.save()

    def save(self) -> None:
        """Write the file, replaced as a whole."""
        if self.path is not None:
            held = {name: getattr(self, name) for name in ("tables", "notes", "failures")}
            atomic_write(self.path, json.dumps(held))
