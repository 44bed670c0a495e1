"""What is added to the logs of a run folder from a moment on, by whichever process, without reading what was there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

from biaslab._util.jsonl import whole_length
from biaslab.evaluation.sample_log import log_files

__all__ = ["LogGrowth", "heard"]

_POLL_SECONDS = 0.5


class LogGrowth:
    """The lines that were added to the logs of a folder since it was made; it can go to another process.

    Parameters
    ----------
    folder : str or Path
        The run folder.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from biaslab.evaluation.log_growth import LogGrowth
    >>> with TemporaryDirectory() as folder:
    ...     log = Path(folder) / "samples-0.jsonl"
    ...     _ = log.write_text('{"id": "a"}' + chr(10))
    ...     growth = LogGrowth(folder)
    ...     with log.open("a") as file:
    ...         _ = file.write('{"id": "b"}' + chr(10) + '{"id": "torn')
    ...     list(growth.records()), growth.advanced(), growth.advanced()
    ([{'id': 'b'}], 1, 0)
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._starts: dict[str, int] = {}
        for path in log_files(folder):
            with open(path, "rb") as file:
                self._starts[path.name] = whole_length(file)
        self._seen: dict[str, int] = dict(self._starts)

    def advanced(self) -> int:
        """Count the lines that were finished since the last call."""
        lines = 0
        for path in log_files(self.folder):
            with open(path, "rb") as file:
                file.seek(self._seen.get(path.name, 0))
                fresh = file.read()
            end = fresh.rfind(b"\n") + 1  # a torn line is cut by its next writer
            self._seen[path.name] = self._seen.get(path.name, 0) + end
            lines += fresh.count(b"\n")
        return lines

    def records(self) -> Iterator[dict[str, Any]]:
        """Read the whole lines that were added since the beginning."""
        for path in log_files(self.folder):
            with open(path, "rb") as file:
                file.seek(self._starts.get(path.name, 0))
                for line in file:
                    if line.endswith(b"\n"):
                        yield json.loads(line)


@contextmanager
def heard(growth: LogGrowth, *hearers: Callable[[], None], advance: Callable[[int], None]) -> Iterator[None]:
    """Tell ``advance`` of new lines while the block lasts, and once more at its end; the others are called as often.

    What a hearer raises ends the block's work with that exception, at its end.
    """
    ended, problems = Event(), list[BaseException]()

    def hear() -> None:
        try:
            advance(growth.advanced())
            for hearer in hearers:
                hearer()
        except BaseException as problem:
            problems.append(problem)

    def listen() -> None:
        while not ended.wait(_POLL_SECONDS) and not problems:
            hear()

    thread = Thread(target=listen, name="progress of other processes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if not problems:
            hear()
    if problems:
        raise problems[0]
