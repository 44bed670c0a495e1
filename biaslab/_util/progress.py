"""How far long work has come: a bar on a terminal or in a notebook, elsewhere a plain line every half minute."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread

__all__ = ["INTERVAL", "duration", "phase", "progress_bar"]

INTERVAL = 30.0  # seconds between two plain lines

logger = logging.getLogger(__name__)
phases = logging.getLogger("biaslab.phases")


@contextmanager
def progress_bar(
    phase: str, *, total: int | None, done: int = 0, show: bool = True, interval: float = INTERVAL
) -> Iterator[Callable[[int], None]]:
    """Show on stderr how far a phase has come, and the time left.

    On a terminal and in a notebook it is a bar. Elsewhere (a batch job, a file) it is a plain line every ``interval``
    seconds, also while a single step takes longer than that. The lines go to this module's logger at level INFO where
    logging shows that level, else to stderr. A level above WARNING on the logger silences both. The logger
    ``biaslab.phases`` tells when a phase begins, at level INFO.

    Parameters
    ----------
    phase : str
        The job, in a word or two.
    total : int or None
        Steps of the whole job; None where that is not known (no time left is shown then, and the bar does not stay).
    done : int
        Steps already made.
    show : bool
        Whether anything is shown at all.
    interval : float
        Seconds between plain lines.

    Yields
    ------
    callable
        Moves on by a number of steps.

    Examples
    --------
    >>> with progress_bar("collect", total=2, show=False) as advance:
    ...     advance(2)
    """
    if not show or not logger.isEnabledFor(logging.WARNING) or (total is not None and done >= total):
        yield lambda steps: None
        return
    phases.info(phase)
    from rich.console import Console

    console, lines = Console(stderr=True), _Lines(phase, total, done)
    bar = console.is_terminal or console.is_jupyter
    with _beating(lines, interval, active=not bar or logger.isEnabledFor(logging.INFO), stderr=not bar):
        if not bar:
            yield lines.advance
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn(phase), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*(columns[:2] if total is None else columns), console=console, transient=total is None) as shown:
            task = shown.add_task("", total=total, completed=done)

            def advance(steps: int) -> None:
                lines.advance(steps)
                shown.advance(task, steps)

            yield advance


@contextmanager
def phase(name: str, *, show: bool = True) -> Iterator[None]:
    """Name a phase of the work whose steps are not counted, such as loading a model.

    Parameters
    ----------
    name : str
        What is done, as in "load grounder".
    show : bool
        Whether anything is shown at all.

    Examples
    --------
    >>> with phase("fit the profile", show=False):
    ...     pass
    """
    with progress_bar(name, total=None, show=show):
        yield


class _Lines:
    """Counts the steps and says how far the work has come."""

    def __init__(self, phase: str, total: int | None, done: int) -> None:
        self.phase, self.total, self.before, self.done = phase, total, done, done
        self.started, self.lock = time.monotonic(), Lock()

    def advance(self, steps: int) -> None:
        with self.lock:
            self.done += steps

    def line(self) -> str:
        elapsed = time.monotonic() - self.started
        rate = (self.done - self.before) / elapsed if elapsed > 0 else 0.0
        if self.total is None:
            return f"{self.phase}: {f'{self.done:,}, ' if self.done else ''}{duration(elapsed)} so far"
        share = f"{self.phase}: {self.done:,}/{self.total:,} ({100 * self.done / self.total:.0f} %)"
        if not rate:
            return f"{share}, {duration(elapsed)} so far"
        speed = f"{rate:.3g}/s" if rate >= 1 else f"{60 * rate:.2g}/min"
        return f"{share}, {speed}, {duration((self.total - self.done) / rate)} left"


@contextmanager
def _beating(lines: _Lines, interval: float, *, active: bool, stderr: bool) -> Iterator[None]:
    """Say the line every ``interval`` seconds while the block lasts."""
    ended = Event()

    def beat() -> None:
        while not ended.wait(interval):
            if logger.isEnabledFor(logging.INFO) and logger.hasHandlers():
                logger.info(lines.line())
            elif stderr:
                sys.stderr.write(f"{lines.line()}\n")
                sys.stderr.flush()

    thread = Thread(target=beat, name=f"progress of {lines.phase}", daemon=True) if active else None
    if thread is not None:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread is not None:
            thread.join()


def duration(seconds: float) -> str:
    """Say a time in one or two units.

    Examples
    --------
    >>> duration(42), duration(200), duration(7 * 3600 + 120)
    ('42 s', '3 min', '7 h 2 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
