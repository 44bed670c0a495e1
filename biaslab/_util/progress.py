"""A progress bar on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(what: str, *, total: int | None, done: int = 0, show: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr with the time left.

    Parameters
    ----------
    what : str
        The job, in a word.
    total : int or None
        Steps of the whole job; None where that is not known (no time left is shown then).
    done : int
        Steps already made.
    show : bool
        Whether there is a bar at all.

    Yields
    ------
    callable
        Moves the bar by a number of steps.
    """
    if not show or (total is not None and done >= total):
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, completed=done)
        yield lambda n: bar.advance(task, n)
