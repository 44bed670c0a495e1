"""Measuring side by side: the order of rounds, and how far a task raises the memory of this process."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["extra_peak", "rounds"]


def rounds(names: Sequence[Any], repeats: int, warmup: int = 1) -> Iterator[tuple[int, Any]]:
    """(round, name) in the order A B C, B C A, C A B, ...; rounds below 0 warm up.

    A machine that slows down does so for neighbours alike, and no task always follows the same other one. Garbage
    is collected before every task, so that none pays for another's.
    """
    names = list(names)
    gc.collect()
    gc.freeze()  # what is there already need not be looked at again at every collection below
    try:
        for turn in range(-warmup, repeats):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                gc.collect()
                yield turn, name
    finally:
        gc.unfreeze()


def extra_peak(task: Callable[[], Any], warm: Callable[[], Any]) -> float | None:
    """MiB by which a task raises this process's resident memory over what it held when idle.

    Parameters
    ----------
    task : what to measure; what it returns is alive until the peak is read.
    warm : a small task of the same kind, run first, so that libraries loaded on first use do not count.

    Returns
    -------
    float, or None where the kernel does not let a process reset its peak (only Linux does).
    """
    warm()
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # free memory the allocator still holds would hide part of the task
    try:
        Path("/proc/self/clear_refs").write_text("5")  # peak := now
    except OSError:
        return None
    idle = _resident("VmRSS")
    kept = task()
    peak = _resident("VmHWM")
    del kept
    return (peak - idle) / 1024


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
