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
from pathlib import Path
from typing import Any

import torch

import biaslab as bl
from benchmarks.common import arguments, evaluation_arguments
from benchmarks.findings import FIRST, chosen, measured, stamp_of
from benchmarks.findings_fit import explained, folder_of_profiles, loaded
from benchmarks.findings_methods import DEPTHS, at_depths
from benchmarks.findings_report import MIDDLE
from benchmarks.findings_rows import TwoTasks, pair_rows
from benchmarks.gallery_pool import TASKS, tasks
from benchmarks.report import Report, Table, percent
from biaslab.datasets.calibration import calibration
from biaslab.workflows.fit_bias import fit_bias

__all__ = ["own_profiles", "report"]

#: what reads a positional profile of the mean over heads
METHODS = ("relative", "d2pruner")
LAYERS = (1, 2)
_COLUMNS: dict[str, tuple[str, str]] = {
    "what": ("", ""),
    **{
        f"{task}{name}": (f"{task}{title}", spec)
        for task in TASKS
        for name, title, spec in (
            ("_both", " kept, asked both", ""), ("_own", f" kept, asked for {task}", ""), ("", ": difference", ""),
            ("_p", ": p", ".4f"),
        )
    },
}  # fmt: skip


_DEPTH: dict[str, tuple[str, str]] = {
    "k": ("K", "d"), "explained_both": ("explained, asked both", ".2f"),
    **{
        f"{task}{name}": (f"{task}{title}", spec)
        for task in TASKS
        for name, title, spec in (
            ("_explained", ": explained", ".2f"), ("_fastv", ": fastv kept", ""), ("_both", ": asked both", ""),
            ("_own", ": asked alike", ""), ("", ": asked alike minus fastv, points", ""), ("_p", ": p", ".4f"),
        )
    },
}  # fmt: skip


def own_profiles(vlm: bl.VLM, folder: Path, n: int) -> dict[str, Any]:
    """Fit what is missing: task -> positional profile of n calibration images that are asked as it asks."""
    folder.mkdir(parents=True, exist_ok=True)
    for task, source in TASKS.items():
        target = folder / f"{task}.safetensors"
        if not target.exists():
            fit_bias(vlm, calibration(vlm, source, n=n), out=target, maps=folder / f"{task}-maps", batch_size=16)
    return {task: bl.load_profile(folder / f"{task}.safetensors") for task in TASKS}


def report(vlm: bl.VLM, options: argparse.Namespace) -> Report:
    """Run the methods with both kinds of profiles and lay it out."""
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

    of_both = dict.fromkeys(TASKS, both)
    found = {
        "both": run("asked-both", of_both, words.values()),
        "own": run("asked-own", {task: [own[task]] for task in TASKS}, [*words.values(), *relative.values()]),
    }
    before = run("test", of_both, [*fastv.values(), *relative.values()])
    rows = _rows({what: {kind: (side, words[what]) for kind, side in found.items()} for what in words}, "both")
    at_depth = {
        k: {"fastv": (before, fastv[k]), "both": (before, relative[k]), "own": (found["own"], relative[k])}
        for k in DEPTHS
    }
    depths = _rows(at_depth, "fastv")
    shares = {"both": explained(both), **{task: explained([profile]) for task, profile in own.items()}}
    for row in depths:
        row |= {"k": row["what"], "explained_both": float(shares["both"][row["what"] - 1])}
        row |= {f"{task}_explained": float(shares[task][row["what"] - 1]) for task in TASKS}
    layers = [
        {"layer": int(layer), **{asked: float(share[layer]) for asked, share in shares.items()}}
        for layer in shares["both"].index
    ]
    return Report(
        name="findings-asked", module="findings_asked", title="Profiles asked both ways, and as the task asks",
        settings={"model": options.model, "split": "test", "images": options.images, "calibration": options.calibration,
                  "cost": MIDDLE, "device": options.device, **stamp_of(vlm, both)},
        tables=[
            Table(f"{MIDDLE}: kept of the accuracy, and the difference in points", _COLUMNS, rows),
            Table("10% kept before layer K: kept of the accuracy, and what debiasing is worth", _DEPTH, depths),
            Table("log attention explained by position on other images, asked alike",
                  {"layer": ("layer", "d"), "both": ("asked both", ".3f"),
                   **{task: (f"asked for {task}", ".3f") for task in TASKS}}, layers),
        ],
        notes=["percent of the unpruned accuracy with 95 % intervals (bootstrap over images); p: family-wise over the "
               "lines of a task (max-T)"],
    )  # fmt: skip


def _rows(sides: Mapping[Any, Mapping[str, tuple[TwoTasks, str]]], against: str) -> list[dict[str, Any]]:
    """List what each side keeps of both tasks, and by how many points the own profile beats one of them."""
    one = next(iter(sides.values()))[against][0]
    pairs = {
        what: tuple(side.column(task, word) for task in TASKS for side, word in (of["own"], of[against]))
        for what, of in sides.items()
    }
    rows = pair_rows(pairs, one)
    for row in rows:
        for kind, (side, word) in sides[row["what"]].items():
            bootstrap = side.bootstrap()
            row |= {f"{task}_{kind}": percent(bootstrap.ratio(*side.parts(task, word))) for task in TASKS}
        row |= {f"{task}_p": row[f"p_{task}"] for task in TASKS}
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
