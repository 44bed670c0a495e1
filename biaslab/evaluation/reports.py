"""What worker processes have to say besides their lines: warnings, failures, that they started."""

from __future__ import annotations

import json
import os
import pkgutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Reports", "WarningRepeater"]


class Reports:
    """Messages of worker processes in files of their own, so that a killed one can block nobody; may be pickled.

    Parameters
    ----------
    folder : str or Path
        Of this command alone.

    Examples
    --------
    >>> import tempfile
    >>> from biaslab.evaluation.reports import Reports
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     reports = Reports(folder)
    ...     reports.say("failure", "the disk is full")
    ...     list(reports.new()), list(reports.new())
    ([('failure', 'the disk is full')], [])
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._read: dict[str, int] = {}

    def say(self, kind: str, content: Any) -> None:
        """Leave a message of this process; `content` is JSON-ready."""
        with open(self.folder / f"report-{os.getpid()}.jsonl", "ab", buffering=0) as file:
            file.write(json.dumps([kind, content]).encode() + b"\n")

    def new(self) -> Iterator[tuple[str, Any]]:
        """Read the messages that came since the last call."""
        for path in sorted(self.folder.glob("report-*.jsonl")):
            with open(path, "rb") as file:
                file.seek(self._read.get(path.name, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read[path.name] = self._read.get(path.name, 0) + len(line)
                    kind, content = json.loads(line)
                    yield kind, content

    @contextmanager
    def warnings_told(self) -> Iterator[None]:
        """Report warnings instead of printing them; for a process that is nobody else's."""
        with warnings.catch_warnings():
            warnings.showwarning = lambda *warning, **_: self.say("warning", WarningRepeater.described(*warning))
            yield


class WarningRepeater:
    """Repeats here what workers warned of: this process has the caller's filters and the command line's hook.

    Examples
    --------
    >>> from biaslab.evaluation.reports import WarningRepeater
    >>> WarningRepeater.described(FutureWarning("in doubt"), FutureWarning, "rule.py", 3)
    ['in doubt', 'builtins:FutureWarning', 'rule.py', 3]
    """

    def __init__(self) -> None:
        self._registry: dict[Any, Any] = {}  # what every worker warns of is one warning

    @staticmethod
    def described(message: Any, category: type[Warning], filename: str, line: int, *_: Any) -> list[Any]:
        """Make a warning JSON-ready."""
        return [str(message), f"{category.__module__}:{category.__qualname__}", filename, line]

    def repeat(self, described: list[Any]) -> None:
        """Warn, unless it was said before."""
        message, name, filename, line = described
        try:
            category = pkgutil.resolve_name(name)
        except (ImportError, AttributeError, ValueError):  # of a script that the workers alone have as a module
            category = UserWarning
        warnings.warn_explicit(message, category, filename, line, registry=self._registry)
