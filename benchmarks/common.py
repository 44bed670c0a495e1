"""Side-by-side timing, peak memory in a fresh process, and the options all benchmarks share."""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "Timing",
    "arguments",
    "extra_peak",
    "in_fresh_process",
    "interleaved",
    "measured_clock",
    "numbers",
]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


# -- time ------------------------------------------------------------------------------------------------------
@dataclass
class Timing:
    """Seconds of one task, a value per round. ``cpu`` counts all threads of this process."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def median(self, clock: str) -> float:
        return statistics.median(getattr(self, clock))

    def min(self, clock: str) -> float:
        return min(getattr(self, clock))

    def over(self, other: Timing, clock: str) -> float:
        """Median over the rounds of this time over ``other``'s: a machine that slows down does so for both."""
        pairs = zip(getattr(self, clock), getattr(other, clock), strict=False)
        return statistics.median(a / b for a, b in pairs)

    def summary(self) -> dict[str, float]:
        """Median and minimum of both clocks, in seconds."""
        return {
            f"{clock}_{name}": value(getattr(self, clock))
            for clock in ("cpu", "wall")
            for name, value in (("median", statistics.median), ("min", min))
        }


def interleaved(
    tasks: Mapping[str, Callable[[], Any]],
    repeats: int,
    few: Mapping[str, int] | None = None,
    warmup: int = 1,
) -> dict[str, Timing]:
    """Time tasks side by side: A B C, B C A, C A B, ...

    Parameters
    ----------
    tasks : name -> what to run. What a task returns is released after its clock has stopped.
    repeats : rounds that count.
    few : name -> rounds for tasks too slow for all of them; these are not warmed up either.
    warmup : rounds before, not timed.
    """
    few, names = dict(few or {}), list(tasks)
    timings = {name: Timing() for name in names}
    gc.collect()
    gc.freeze()  # what is there already need not be looked at again at every collection below
    try:
        for turn in range(-warmup, repeats):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                if name in few and not 0 <= turn < few[name]:
                    continue
                gc.collect()
                wall, cpu = time.perf_counter(), time.process_time()
                kept = tasks[name]()
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                del kept
                if turn >= 0:
                    timings[name].wall.append(wall)
                    timings[name].cpu.append(cpu)
    finally:
        gc.unfreeze()
    return timings


def measured_clock(threads: int) -> str:
    """The clock to compare by: on one thread CPU time, which other processes disturb least."""
    return "cpu" if threads == 1 else "wall"


# -- memory ----------------------------------------------------------------------------------------------------
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


def in_fresh_process(module: str, *options: str, threads: int) -> Any:
    """Run ``python -m module options`` and read the JSON on the last line it prints."""
    env = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    command = [sys.executable, "-m", module, *options, "--threads", str(threads)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


# -- options ---------------------------------------------------------------------------------------------------
def arguments(module: str, doc: str, repeats: int) -> argparse.ArgumentParser:
    """A parser with the options all benchmarks share."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=doc.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=repeats, help=f"timed rounds (default {repeats})")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the .json and .md written")
    return parser


def numbers(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """An argparse type: several values separated by commas."""

    def numbers_separated_by_commas(text: str) -> list[Any]:
        return [kind(part) for part in text.split(",")]

    return numbers_separated_by_commas
