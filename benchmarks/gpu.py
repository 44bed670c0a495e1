"""Everything that only a GPU can tell, in one script of at most eight minutes: ``make gpu``.

    python -m benchmarks.gpu                          on the first CUDA device
    python -m benchmarks.gpu --parts checks,kernels   some parts only
    python -m benchmarks.gpu --tiny --device cpu      every line on a CPU, toy sizes: a test, no measurement

The parts, each in a process of its own with its own time limit:

    checks      contracts of capture, engine and selection, float32 and bf16
    capture     rows of attention against plain SDPA and eager attention, InternVL2.5-8B's size, 13 tiles
    phases      vision, prefill, selection and decode of an answer, pruned or not, beside what was computed
    selection   DivPrune, D2Pruner and look-ahead alone
    fit         a conditional profile, at the model's width
    sweep       a sweep with shared work and without
    kernels     which attention kernels SDPA runs

Nothing is downloaded: weights are random, or the embedded grounder's. A part that fails or runs out of time is a line
in the results and keeps the rows it had; the results are written after every part. What is printed is progress.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .common import RESULTS, ROOT
from .gpu_parts.plan import Columns, Findings, Plan
from .gpu_parts.timing import one_line
from .report import Report, Table

#: part -> seconds, the start of its process included; together less than TOTAL
PARTS = {"checks": 50, "capture": 70, "phases": 120, "selection": 30, "fit": 45, "sweep": 115, "kernels": 35}
TOTAL = 470
_STATES: Columns = {"part": ("part", ""), "state": ("state", ""), "seconds": ("s", ".0f"), "limit": ("limit s", ".0f")}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts; 0 where all went through, 1 where something failed, 2 for bad arguments."""
    options = _options(argv)
    if options.only:
        _quiet(options.device)
        until = time.monotonic() + 0.8 * options.limit  # what has begun then ends in the rest, as a rule
        return run_part(options.only, Plan(options.device, options.tiny, until), Findings(options.found))
    plan = Plan(options.device, options.tiny)
    failures = measure(plan, options.parts, options.out)
    print(f"written: {options.out / 'gpu.md'} and .json" + (f"; {failures} failures" if failures else ""))
    return 1 if failures else 0


def _quiet(device: torch.device) -> None:
    """Set up the process of one part: its output is progress alone."""
    warnings.filterwarnings("ignore", "The profile rests on")
    logging.getLogger("biaslab").setLevel(logging.ERROR)  # answers of random weights are cut, as they must
    if device.type == "cpu":
        torch.set_num_threads(1)  # a toy's threads would only wait for each other


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for gpu.json and gpu.md")
    parser.add_argument("--device", default="cuda", help="torch device (default cuda)")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, single rounds: a test of the script")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--only", choices=PARTS, help=argparse.SUPPRESS)  # run one part, in this process
    parser.add_argument("--limit", type=float, default=math.inf, help=argparse.SUPPRESS)  # its seconds
    parser.add_argument("--found", type=Path, help=argparse.SUPPRESS)  # where it writes
    options = parser.parse_args(argv)
    options.parts = options.parts.split(",")
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: choose some of {', '.join(PARTS)}")
    try:
        options.device = torch.device(options.device)
    except RuntimeError as error:
        parser.error(one_line(error))
    if options.device.type not in ("cuda", "cpu"):
        parser.error(f"--device {options.device}: only cuda and cpu are known here")
    if options.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device: run this where there is one, or add --device cpu --tiny")
    if options.device.type == "cpu" and not options.tiny:
        parser.error("a model of 8 billion weights is not measured on a CPU: add --tiny")
    return options


def measure(
    plan: Plan, parts: Sequence[str], out: Path, limits: Mapping[str, float] = PARTS, total: float = TOTAL
) -> int:
    """Run parts one after the other, each in a fresh process, and write the results after each.

    Returns
    -------
    int
        Failures: of checks, of measurements, of whole parts.
    """
    states: list[dict[str, Any]] = []
    findings: list[Findings] = []
    started, failures = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        for name in parts:
            limit = min(limits[name], total - (time.monotonic() - started))
            found, begun = Path(folder) / f"{name}.json", time.monotonic()
            print(f"{name}, at most {max(limit, 0):.0f} s", flush=True)
            ended = _in_own_process(name, plan, found, limit) if limit > 0 else "no time was left"
            held = Findings.read(found)
            failures += len(held.failures) + (ended != "done" and not held.failures)
            count = f", {len(held.failures)} failed" if held.failures else ""
            state = {"part": name, "state": ended + count, "seconds": time.monotonic() - begun, "limit": limit}
            print(f"  {state['state']}, {state['seconds']:.0f} s", flush=True)
            states.append(state)
            findings.append(held)
            report(plan, states, findings).write(out)
    return failures


def _in_own_process(name: str, plan: Plan, found: Path, limit: float) -> str:
    """Run one part; "done", or how it ended."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--only", name, "--found", str(found),
               "--limit", str(limit), "--device", str(plan.device), *(["--tiny"] if plan.tiny else [])]  # fmt: skip
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "KINETO_LOG_LEVEL": "99"}  # the profiler's own lines on stderr
    process = subprocess.Popen(command, cwd=ROOT, env=env, start_new_session=True)
    try:
        status = process.wait(limit)
    except subprocess.TimeoutExpired:
        return f"out of time after {limit:.0f} s; what it had found by then is below"
    finally:
        if process.poll() is None:  # also where the keyboard interrupts
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return "done" if status in (0, 1) else f"its process ended with status {status}"


def run_part(name: str, plan: Plan, findings: Findings) -> int:
    """Run one part here; what it raises is a failure among its findings."""
    module = importlib.import_module(f"benchmarks.gpu_parts.{name}")
    try:
        module.run(plan, findings)
    except Exception as error:
        findings.fail(f"{name} ended early: {one_line(error)}")
    findings.save()
    return 1 if findings.failures else 0


def report(plan: Plan, states: Sequence[Mapping[str, Any]], findings: Sequence[Findings]) -> Report:
    """Lay out what is known by now."""
    tables = [Table("Parts", dict(_STATES), [dict(state) for state in states])]
    for found in findings:
        tables += [Table(t["caption"], {k: tuple(v) for k, v in t["columns"].items()}, t["rows"]) for t in found.tables]
    failed = [f"FAILED: {line}" for found in findings for line in found.failures]
    notes = [line for found in findings for line in found.notes]
    return Report(
        name="gpu",
        title="A rehearsal at toy size: its figures mean nothing" if plan.tiny else "On a GPU",
        settings={**_device(plan.device), "tiny": plan.tiny},
        tables=tables,
        notes=failed + notes,
    )


def _device(device: torch.device) -> dict[str, Any]:
    """Name the card and what drives it."""
    if device.type != "cuda":
        return {"device": str(device), "card": "none"}
    about = torch.cuda.get_device_properties(device)
    return {
        "device": str(device), "card": about.name, "memory_gib": round(about.total_memory / 2**30, 1),
        "compute_capability": f"{about.major}.{about.minor}", "multiprocessors": about.multi_processor_count,
        "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
