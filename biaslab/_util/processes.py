"""Worker processes: how many are of use, and that none outlives the process that started it, or ends before it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from multiprocessing.connection import wait
from threading import Thread

__all__ = ["deaf_to_interrupts", "end_with_launcher", "end_with_parent", "usable_cores"]

_WATCH_SECONDS = 0.5


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Let processes that are started in this block not hear Ctrl-C.

    A terminal sends it to all processes of a command; the one that was typed ends the others (SIGTERM), and is the
    only one to say so. It hears at the end of the block what came in between. Without POSIX signals nothing is changed.

    Examples
    --------
    >>> from biaslab._util.processes import deaf_to_interrupts
    >>> with deaf_to_interrupts():
    ...     pass  # process.start()
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """End this process, whatever it does, when the process that started it has gone.

    To be called in a process that ``multiprocessing`` started, at its beginning. A parent that is killed cannot tell
    its children; they would go on, or wait for it for ever. Elsewhere the call does nothing.

    Examples
    --------
    >>> from biaslab._util.processes import end_with_parent
    >>> end_with_parent()  # nobody's child
    """
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)  # also out of a call that never returns; nothing is left to report to

    Thread(target=watch, name="watch of the parent process", daemon=True).start()


def end_with_launcher() -> None:
    """End this process when the one that started it has gone, as `end_with_parent` does for ``multiprocessing``.

    For commands that torchrun, accelerate or srun start: a launcher that is killed leaves nobody who would end them.
    """
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(_WATCH_SECONDS)
        os._exit(1)

    Thread(target=watch, name="watch of the launcher", daemon=True).start()


def usable_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
