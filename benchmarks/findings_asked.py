"""What a profile is worth that was asked what the task asks, beside one that was asked both for objects and questions.

    python -m benchmarks.findings_asked

`benchmarks.findings` has one profile for two tasks. Here each task gets its own, fitted on as many calibration images
that are asked as it asks, and the methods that divide by it run at the keeps of the middle cost, and with 10 % kept at
all depths beside what `benchmarks.findings test` has run. The work is kept and goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch

import biaslab as bl
from benchmarks.common import arguments, evaluation_arguments
from benchmarks.findings import FIRST, chosen, measured, stamp_of
from benchmarks.findings_fit import explained, fit_missing, folder_of_profiles, loaded
from benchmarks.findings_methods import DEPTHS, at_depths
from benchmarks.findings_report import MIDDLE
from benchmarks.findings_rows import TwoTasks, pair_rows
from benchmarks.gallery_pool import TASKS, tasks
from benchmarks.report import Report, Table, percent
from biaslab.datasets.calibration import calibration

__all__ = ["own_profiles", "report"]

#: what reads a positional profile of the mean over heads
METHODS = ("relative", "d2pruner")
LAYERS = (1, 2)


def _columns(shared: dict[str, tuple[str, str]], of_task: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Lay out columns that both tasks share, and behind them those of each: "{task}" stands for its name."""
    return shared | {
        key.format(task=task): (title.format(task=task), spec)
        for task in TASKS
        for key, (title, spec) in of_task.items()
    }


_AT_EQUAL_COST = _columns(
    {"what": ("", "")},
    {"{task}_both": ("{task} kept, asked both", ""), "{task}_own": ("{task} kept, asked for {task}", ""),
     "{task}": ("{task}: difference", ""), "p_{task}": ("{task}: p", ".4f")},
)  # fmt: skip
_BY_DEPTH = _columns(
    {"k": ("K", "d"), "explained_both": ("explained, asked both", ".2f")},
    {"{task}_explained": ("{task}: explained", ".2f"), "{task}_fastv": ("{task}: fastv kept", ""),
     "{task}_both": ("{task}: asked both", ""), "{task}_own": ("{task}: asked alike", ""),
     "{task}": ("{task}: asked alike minus fastv, points", ""), "p_{task}": ("{task}: p", ".4f")},
)  # fmt: skip
_EXPLAINED = _columns({"layer": ("layer", "d"), "both": ("asked both", ".3f")}, {"{task}": ("asked for {task}", ".3f")})


def own_profiles(vlm: bl.VLM, folder: Path, n: int) -> dict[str, Any]:
    """Fit what is missing: task -> positional profile of n calibration images that are asked as it asks."""
    return {
        task: bl.load_profile(fit_missing(vlm, folder, task, partial(calibration, vlm, source, n=n)))
        for task, source in TASKS.items()
    }


def report(vlm: bl.VLM, options: argparse.Namespace) -> Report:
    """Run the methods with both kinds of profiles and lay it out; those asked both ways go on with the run of test."""
    both = loaded(vlm, folder_of_profiles(options))
    own = own_profiles(vlm, options.runs / "asked", options.calibration)
    _, keeps = chosen(options.runs, stamp_of(vlm, both))
    words = {f"`{method}`, K = {k}": f"{method}@{keeps[k]}@{k}" for method in METHODS for k in LAYERS}
    fastv, relative = at_depths("fastv"), at_depths("relative")
    data = tasks("test", range(FIRST["test"], FIRST["test"] + options.images))

    def run(folder: str, profiles: Mapping[str, list[Any]], chosen_words: Iterable[str]) -> TwoTasks:
        lines = {}
        for task in TASKS:
            one = copy(options)
            one.loaded = profiles[task]
            lines[task] = measured(vlm, {task: data[task]}, chosen_words, one, folder)[task]
        return TwoTasks.from_lines(lines, data)

    alike = [*words.values(), *relative.values()]
    with_both = run("test", dict.fromkeys(TASKS, both), [*alike, *fastv.values()])
    with_own = run("asked-own", {task: [own[task]] for task in TASKS}, alike)
    rows = _rows({what: {"both": (with_both, word), "own": (with_own, word)} for what, word in words.items()}, "both")
    at_depth = {
        k: {"fastv": (with_both, fastv[k]), "both": (with_both, relative[k]), "own": (with_own, relative[k])}
        for k in DEPTHS
    }
    depths = _rows(at_depth, "fastv")
    shares = {"both": explained(both), **{task: explained([profile]) for task, profile in own.items()}}
    layers = [
        {"layer": int(layer), **{asked: float(share[layer]) for asked, share in shares.items()}}
        for layer in shares["both"].index
    ]
    for row in depths:
        row["k"] = row["what"]
        row |= {f"{task}_explained": float(shares[task][row["k"] - 1]) for task in TASKS}
        row["explained_both"] = float(shares["both"][row["k"] - 1])
    return Report(
        name="findings-asked", module="findings_asked", title="Profiles asked both ways, and as the task asks",
        settings={"model": options.model, "split": "test", "images": options.images, "calibration": options.calibration,
                  "cost": MIDDLE, "device": options.device, **stamp_of(vlm, both)},
        tables=[
            Table(f"{MIDDLE}: kept of the accuracy, and the difference in points", _AT_EQUAL_COST, rows),
            Table("10% kept before layer K: kept of the accuracy, and what debiasing is worth", _BY_DEPTH, depths),
            Table("log attention explained by position on other images, asked alike", _EXPLAINED, layers),
        ],
        notes=["percent of the unpruned accuracy with 95 % intervals (bootstrap over images); p: family-wise over the "
               "lines of a task (max-T)"],
    )  # fmt: skip


def _rows(sides: Mapping[Any, Mapping[str, tuple[TwoTasks, str]]], against: str) -> list[dict[str, Any]]:
    """List what each side keeps of both tasks, and by how many points the own profile beats one of them."""
    samples = next(iter(sides.values()))[against][0]  # all sides are of the same
    bootstrap = samples.bootstrap()
    pairs = {
        what: tuple(side.column(task, word) for task in TASKS for side, word in (of["own"], of[against]))
        for what, of in sides.items()
    }
    rows = pair_rows(pairs, samples)
    for row in rows:
        for kind, (side, word) in sides[row["what"]].items():
            row |= {f"{task}_{kind}": percent(bootstrap.ratio(*side.parts(task, word))) for task in TASKS}
    return rows


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write the report."""
    parser = arguments("benchmarks.findings_asked", __doc__ or "", repeats=1)
    parser.add_argument("--images", type=int, default=420, help="images of the test split")
    parser.add_argument("--calibration", type=int, default=1200, help="images of a profile")
    parser.add_argument("--profiles", type=Path, help="folder of those asked both ways; default profiles in --runs")
    parser.add_argument("--model", default="observer")
    evaluation_arguments(parser, batch_size=16, runs=Path("runs/findings"))
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    report(bl.load(options.model, device=options.device, dtype="float32"), options).publish(options.out)


if __name__ == "__main__":
    main()
