"""Kills the processes of an evaluation at random and counts its lines: nothing may be lost, nothing done twice.

``python -m benchmarks.kills``. The grounder, the same expressions under each engine. A worker is killed with SIGKILL
whenever some new lines are there, a launcher (or driver) every few times; a command that ended is typed again, with
another number of processes. At the end the lines are compared with those of one process that nobody disturbed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from benchmarks.common import RESULTS
from benchmarks.report import Report, Table
from biaslab._util.jsonl import read_lines
from biaslab.evaluation.schema import record_key

ENGINES = ("torchrun", "processes", "ray")
_JUDGED = ("answer", "box", "hit", "parsed", "truncated", "tokens_kept", "error")
MARKS = {"torchrun": "biaslab", "processes": "multiprocessing-fork", "ray": "ray::Evaluator"}
_POLL_SECONDS = 0.1
_COLUMNS = {
    "engine": ("engine", ""),
    "starts": ("processes of each start", ""),
    "workers": ("workers killed", "d"),
    "launchers": ("launchers killed", "d"),
    "wanted": ("lines wanted", "d"),
    "found": ("lines found", "d"),
    "distinct": ("distinct", "d"),
    "equal": ("equal to an unbroken run", ""),
}


@dataclass
class Run:
    """An evaluation in a folder, started again and again until it is complete."""

    out: Path
    engine: str = "alone"
    n: int = 12
    methods: str = "none,random"
    batch_size: int = 2
    starts: list[int] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)

    @property
    def wanted(self) -> int:
        """Lines of the complete run."""
        return self.n * len(self.methods.split(","))

    def lines(self) -> list[dict]:
        """All whole lines of all logs."""
        return [line for path in sorted(self.out.glob("samples-*.jsonl")) for line in read_lines(path)]

    def count(self) -> int:
        """Count the lines, quickly."""
        return sum(path.read_bytes().count(b"\n") for path in self.out.glob("samples-*.jsonl"))

    def start(self, world: int) -> subprocess.Popen:
        """Type the command."""
        command = ["-m", "biaslab", "--quiet", "evaluate", "--n", str(self.n), "--methods", self.methods, "--keep",
                   "0.5", "--out", str(self.out), "--batch-size", str(self.batch_size)]  # fmt: skip
        prefix = [sys.executable]
        if world == 1:
            pass
        elif self.engine == "torchrun":
            prefix += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}", "--max-restarts=9"]
            command[0:2] = ["-m", "--", "biaslab"]
        else:
            command += ["--processes", str(world), *(["--engine", "ray"] if self.engine == "ray" else [])]
        self.starts.append(world)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.Popen(prefix + command, env=environment, stdout=subprocess.DEVNULL)

    def kill(self, process: subprocess.Popen, after: int, whom: str, choose: random.Random | None = None) -> bool:
        """Kill a process of the command ("worker", "launcher" or "nobody") once so many new lines are there.

        Waits for a worker where there is none at this moment: they are started again. Returns False where the command
        ended before.
        """
        until = self.count() + after
        while process.poll() is None:
            alone, there = self.starts[-1] == 1, self.count() >= until
            workers = descendants(process.pid, MARKS.get(self.engine, "")) if there and not alone else []
            if not there or not (workers or alone):
                time.sleep(_POLL_SECONDS)
                continue
            if whom == "nobody":
                return True
            if whom == "launcher" or alone:
                process.kill()
            else:
                os.kill((choose or random.Random(0)).choice(workers), signal.SIGKILL)
            self.killed.append(whom)
            return True
        return False

    def wait_for_the_dead(self, workers: list[int], seconds: float = 60.0) -> list[int]:
        """Wait until the workers of a launcher that was killed have noticed; returns those that have not."""
        end = time.monotonic() + seconds
        while (left := [pid for pid in workers if _state(pid)[0] not in ("", "Z")]) and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        return left

    def row(self, whole: Run) -> dict[str, object]:
        """Compare what became of the run with one that nobody disturbed."""
        lines = self.lines()
        mine, theirs = judged(lines), judged(whole.lines())
        return {
            "engine": self.engine,
            "starts": " ".join(map(str, self.starts)),
            "workers": self.killed.count("worker"),
            "launchers": self.killed.count("launcher"),
            "wanted": self.wanted,
            "found": len(lines),
            "distinct": len(mine),
            "equal": "yes" if mine == theirs else "NO",
        }


def judged(lines: list[dict]) -> dict[tuple[str, str], list]:
    """Take the verdicts by sample and configuration; times, memory and last bits of attention are none."""
    return {(line["id"], record_key(line)): [line[name] for name in _JUDGED] for line in lines}


def descendants(pid: int, mark: str) -> list[int]:
    """List the processes that come from one and whose command line holds a word."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        state, parent = _state(int(name))
        if state not in ("", "Z"):
            parents[int(name)] = parent
    found = []
    for process in sorted(parents):
        above = parents[process]
        while above in parents and above != pid:
            above = parents[above]
        if above == pid and mark in _command(process) and "resource_tracker" not in _command(process):
            found.append(process)
    return found


def _state(pid: int) -> tuple[str, int]:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[1])


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def disturb(run: Run, kills: int, after: int, choose: random.Random) -> None:
    """Run to the end, with so many kills on the way: every third one of the launcher."""
    most = (
        3 if run.engine == "torchrun" else min(3, os.cpu_count() or 1)
    )  # the others take no more than there are cores
    worlds = cycle([most, 1, 2])
    while run.count() < run.wanted or not (run.out / "results.csv").exists():
        process = run.start(next(worlds))
        while len(run.killed) < kills:
            whom = "launcher" if len(run.killed) % 3 == 2 or run.starts[-1] == 1 else "worker"
            before = descendants(process.pid, MARKS[run.engine])
            if not run.kill(process, after, whom, choose):
                break
            if whom == "launcher":
                process.wait()
                run.wait_for_the_dead(before)
                break
        process.wait()


def measure(kills: int, n: int, seed: int) -> Report:
    """Disturb a run under each engine."""
    choose = random.Random(seed)
    rows = []
    with tempfile.TemporaryDirectory() as work:
        whole = Run(Path(work) / "whole", n=n, batch_size=16)
        whole.start(1).wait()
        for i, engine in enumerate(ENGINES):
            share = kills // len(ENGINES) + (i < kills % len(ENGINES))
            run = Run(Path(work) / engine, engine, n=n)
            disturb(run, share, max(1, run.wanted // (2 * share)), choose)
            rows.append(run.row(whole))
            print(rows[-1], flush=True)
    return Report(
        name="kills",
        title="Processes of an evaluation killed with SIGKILL",
        settings={"model": "grounder", "expressions": n, "methods": "none, random at keep 0.5", "seed": seed},
        tables=[Table("Lines of a run that was killed so often", _COLUMNS, rows)],
        notes=[
            "A start with 1 process has no engine: it is killed itself, and counts among the launchers.",
            "equal: answers, boxes, hits and kept tokens of every line are those of one process that nobody disturbed.",
        ],
    )


def main() -> None:
    """Write benchmarks/results/kills.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="over all engines")
    parser.add_argument("--n", type=int, default=36, help="expressions")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    measure(options.kills, options.n, options.seed).publish(RESULTS)


if __name__ == "__main__":
    main()
