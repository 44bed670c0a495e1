"""Time by CUDA events (on a CPU by its clock), medians over rounds in turn, peak memory, memory freed in between."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from biaslab.evaluation.stopwatch import interleaved

from .plan import Plan

__all__ = ["Clock", "Timed", "free", "in_turn", "one_line"]


@dataclass(frozen=True)
class Clock:
    """Moments on a device, and the time between them."""

    device: torch.device

    def mark(self) -> Any:
        """Note this moment in the device's queue of work; the host does not wait."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def ms(self, first: Any, last: Any) -> float:
        """Milliseconds from one mark to another; waits for the later one."""
        if self.device.type != "cuda":
            return 1e3 * (last - first)
        last.synchronize()
        return first.elapsed_time(last)


@dataclass
class Timed:
    """What became of one task.

    Attributes
    ----------
    ms : list of float
        Milliseconds of each round that counts.
    peak_mb : float or None
        Most that tensors held at a time over what they held before, MiB; None on a CPU.
    why : str or None
        Why there is no time: "out of memory", "out of time", or the exception.
    """

    ms: list[float] = field(default_factory=list)
    peak_mb: float | None = None
    why: str | None = None

    @property
    def median(self) -> float | None:
        """Median over the rounds, ms."""
        return statistics.median(self.ms) if self.ms else None

    @property
    def failed(self) -> bool:
        """Whether it failed for another reason than memory or time."""
        return self.why not in (None, OUT_OF_MEMORY, OUT_OF_TIME)


OUT_OF_MEMORY, OUT_OF_TIME = "out of memory", "out of time"


def in_turn(tasks: Mapping[str, Callable[[], Any]], plan: Plan, rounds: int | None = None) -> dict[str, Timed]:
    """Time tasks in turn: one round that warms up, then ``rounds`` (the plan's) that count, fewer if time runs out.

    A task that raises is not tried again, and the others go on. What a task returns is alive when the peak is read.
    """
    found, clock = {name: Timed() for name in tasks}, Clock(plan.device)
    for turn, name in interleaved(list(tasks), plan.rounds if rounds is None else rounds):
        mine = found[name]
        if plan.late:
            break
        if mine.why is not None:
            continue
        try:
            ms, peak = _once(tasks[name], clock)
        except torch.OutOfMemoryError:
            mine.why = OUT_OF_MEMORY
        except Exception as error:
            mine.why = one_line(error)
        else:
            if turn >= 0:
                mine.ms.append(ms)
            mine.peak_mb = max((x for x in (mine.peak_mb, peak) if x is not None), default=None)
        if mine.why is not None:  # here the traceback, and what its frames held, is gone
            mine.ms.clear()
            free(plan.device)
    for mine in found.values():
        if not mine.ms and mine.why is None:
            mine.why = OUT_OF_TIME
    return found


def _once(task: Callable[[], Any], clock: Clock) -> tuple[float, float | None]:
    """Milliseconds and peak MiB of one call."""
    on_cuda, idle = clock.device.type == "cuda", 0
    if on_cuda:
        torch.cuda.synchronize(clock.device)
        torch.cuda.reset_peak_memory_stats(clock.device)
        idle = torch.cuda.memory_allocated(clock.device)
    first = clock.mark()
    kept = task()
    ms = clock.ms(first, clock.mark())
    peak = (torch.cuda.max_memory_allocated(clock.device) - idle) / 2**20 if on_cuda else None
    del kept
    return ms, peak


def free(device: torch.device) -> None:
    """Give back what nothing holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def one_line(error: BaseException, most: int = 300) -> str:
    """Tell an exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:most]
