"""Side-by-side timing, peak memory in a fresh process, and the options all benchmarks share."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from biaslab.evaluation.stopwatch import extra_peak, interleaved

__all__ = [
    "Timing",
    "arguments",
    "evaluation_arguments",
    "extra_peak",
    "in_fresh_process",
    "side_by_side",
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
        """Median over the rounds, in seconds."""
        return statistics.median(getattr(self, clock))

    def min(self, clock: str) -> float:
        """Shortest round, in seconds."""
        return min(getattr(self, clock))

    def ratio_to(self, other: Timing, clock: str) -> float:
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


def side_by_side(
    tasks: Mapping[str, Callable[[], Any]],
    repeats: int,
    fewer_repeats: Mapping[str, int] | None = None,
    warmup: int = 1,
) -> dict[str, Timing]:
    """Time tasks side by side: A B C, B C A, C A B, ...

    Parameters
    ----------
    tasks : name -> what to run. What a task returns is released after its clock has stopped.
    repeats : rounds that count.
    fewer_repeats : name -> rounds for tasks too slow for all of them; these are not warmed up either.
    warmup : rounds before, not timed.
    """
    fewer_repeats = dict(fewer_repeats or {})
    timings = {name: Timing() for name in tasks}
    for turn, name in interleaved(list(tasks), repeats, warmup):
        if name in fewer_repeats and not 0 <= turn < fewer_repeats[name]:
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        returned = tasks[name]()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        del returned
        if turn >= 0:
            timings[name].wall.append(wall)
            timings[name].cpu.append(cpu)
    return timings


def measured_clock(threads: int) -> str:
    """Name the clock to compare by: on one thread CPU time, which other processes disturb least."""
    return "cpu" if threads == 1 else "wall"


# -- processes -------------------------------------------------------------------------------------------------
def in_fresh_process(module: str, *options: str, threads: int, environment: Mapping[str, str] | None = None) -> Any:
    """Run ``python -m module options`` and read the JSON on the last line it prints.

    ``environment`` adds to this process's variables.
    """
    env = {
        **os.environ,
        **(environment or {}),
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
    """Make a parser with the options all benchmarks share."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=doc.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=repeats, help=f"timed rounds (default {repeats})")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the .json and .md written")
    return parser


def evaluation_arguments(parser: argparse.ArgumentParser, *, batch_size: int, runs: Path) -> None:
    """Add the options of benchmarks that call `evaluate` and go on where they were interrupted."""
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--runs", type=Path, default=runs)


def numbers(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Make an argparse type: several values separated by commas."""

    def numbers_separated_by_commas(text: str) -> list[Any]:
        return [kind(number) for number in text.split(",")]

    return numbers_separated_by_commas
