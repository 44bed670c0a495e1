"""A sweep of methods and keep ratios: what configurations share computed once, against one run for each.

    python -m benchmarks.sweep

Both evaluate the same expressions of the scenes with the embedded grounder, in one process, one after the other. The
bound is Amdahl's: what remains if everything but the model's own modules, the selection, the encoding and the lines
cost nothing, and no row were decoded beyond its answer's end.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch

import biaslab as bl
from biaslab.datasets.base import take
from biaslab.datasets.calibration import calibration
from biaslab.datasets.sample import Sample
from biaslab.evaluation.configurations import Config, configurations
from biaslab.evaluation.run_once import GenerationOptions
from biaslab.evaluation.worker import Worker, WorkItem
from biaslab.models.vlm import VLM

from .common import arguments, measured_clock, numbers
from .parts import PARTS, STEPS, STEPS_REST, Parts
from .report import Report, Table, Target

METHODS = ("none", "random", "uniform", "fastv", "relative", "layer_ratio", "divprune", "d2pruner")
KEEPS = (0.5, 0.2, 0.1, 0.05)
SAME = ("answer", "box", "iou", "parsed", "truncated", "kept", "target_kept", "target_auroc", "info", "error")


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write the report."""
    parser = arguments("benchmarks.sweep", __doc__, repeats=1)
    parser.add_argument("--layer", type=int, default=4, help="K (default 4)")
    parser.add_argument("--batch-sizes", type=numbers(int), default=[1, 8, 32])
    parser.add_argument("--n", type=int, default=16, help="expressions, at least; a batch at the least (default 16)")
    parser.add_argument("--calibration", type=int, default=32, help="scenes that the profile is fitted on (default 32)")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    report(
        options.layer, options.batch_sizes, options.n, options.calibration, options.repeats, options.threads
    ).publish(options.out)


def report(layer: int, batch_sizes: Sequence[int], n: int, calibrated: int, repeats: int, threads: int) -> Report:
    """Both ways at every batch size."""
    vlm, clock = bl.load("grounder"), measured_clock(threads)
    configs = configurations(METHODS, KEEPS, layer, profile(vlm, layer, calibrated))
    evaluate(vlm, configs, 2, 2, layer, clock, plain=False)  # warms up
    evaluate(vlm, configs[:3], 2, 2, layer, clock, plain=True)
    rows, parts, targets = [], [], []
    for size in batch_sizes:
        runs = [
            {plain: evaluate(vlm, configs, max(n, size), size, layer, clock, plain=plain) for plain in (True, False)}
            for _ in range(repeats)
        ]
        runs.sort(key=lambda pair: pair[True]["s"] / pair[False]["s"])
        plain, shared = (runs[(repeats - 1) // 2][way] for way in (True, False))
        answers = equal(plain["lines"], shared["lines"], ("answer", "box"))
        rows.append({
            "batch": size, "lines": len(plain["lines"]), "plain_s": plain["s"], "shared_s": shared["s"],
            "ratio": plain["s"] / shared["s"], "bound_s": shared["bound"], "bound": plain["s"] / shared["bound"],
            "efficiency": shared["bound"] / shared["s"], "answers": answers,
            "all": equal(plain["lines"], shared["lines"], SAME),
        })  # fmt: skip
        for part in (*PARTS, "else"):
            row = next((row for row in parts if row["part"] == part), None) or {"part": part}
            if row not in parts:
                parts.append(row)
            row |= {f"plain {size}": plain["parts"].get(part, 0.0), f"shared {size}": shared["parts"].get(part, 0.0)}
        targets += [
            Target(f"batch {size}: times faster than one run per configuration", rows[-1]["ratio"], 2.0, least=True),
            Target(f"batch {size}: share of the Amdahl bound", rows[-1]["efficiency"], 0.8, least=True),
            Target(
                f"batch {size}: share of the answers that are identical", answers / rows[-1]["lines"], 1.0, least=True
            ),
        ]
    columns = {
        "batch": ("batch", "d"), "lines": ("lines", "d"), "plain_s": (f"plain, {clock} s", ".1f"),
        "shared_s": ("shared", ".1f"), "ratio": ("x faster", ".2f"), "bound_s": ("bound, s", ".1f"),
        "bound": ("x at the bound", ".2f"), "efficiency": ("share of the bound", ".2f"),
        "answers": ("answers equal", "d"), "all": ("whole lines equal", "d"),
    }  # fmt: skip
    split = {"part": ("part", "")} | {
        f"{way} {size}": (f"{way}, batch {size}", ".2f") for size in batch_sizes for way in ("plain", "shared")
    }
    return Report(
        name="sweep",
        title="A sweep of methods and keep ratios: shared work against one run for each configuration",
        settings={"model": "grounder, 10 layers x 4 heads", "methods": METHODS, "keep": KEEPS, "layer": layer,
                  "configurations": len(configs), "repeats": repeats, "threads": threads},
        tables=[
            Table("Both ways, the same expressions", columns, rows),
            Table(f"Where the time goes, {clock} s", split, parts),
        ],
        targets=targets,
        notes=[
            "bound: the shared run's time in the model's modules (at the widths it ran at, what is shared once), the "
            "selection, encoding and lines; of the decode the part of its rows that had not ended. What is left out "
            'is "else": making the wide batches and their caches, masks, the generation loop',
            "x faster, x at the bound: the plain time over the shared one, over the bound",
            "whole lines: everything but times; FLOPs follow from these",
        ],
    )  # fmt: skip


def profile(vlm: VLM, layer: int, n: int) -> Any:
    """Fit a profile of layer K - 1."""
    scenes = calibration(vlm, "scenes", n=n)
    maps = bl.collect(
        vlm, list(scenes.images), prompt=list(scenes.prompts), layers=[layer - 1], ids=list(scenes.ids), progress=False
    )
    return bl.MeanProfile().fit(maps)


def evaluate(
    vlm: VLM, configs: Sequence[Config], n: int, batch_size: int, layer: int, clock: str, *, plain: bool,
    samples: Iterable[Sample] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One way over the first ``n`` expressions: lines, seconds, parts of them, and the bound."""
    shown = take(bl.load_dataset("scenes"), n) if samples is None else list(samples)[:n]
    tasks = [WorkItem(i, sample, tuple(range(len(configs)))) for i, sample in enumerate(shown)]
    lines: list[dict[str, Any]] = []
    now = time.process_time if clock == "cpu" else time.perf_counter
    parts = Parts(now)
    with parts.watching(vlm, layer):
        start = now()
        Worker(vlm, configs, GenerationOptions(plain=plain), lines.append, workers=0).run(tasks, batch_size)
        seconds = now() - start
    tokenizer = vlm.processor.tokenizer
    # an answer of n tokens and an end takes n steps after the prefill, which gives the first
    needed = sum(len(tokenizer(line["answer"], add_special_tokens=False)["input_ids"]) for line in lines)
    spared = (1 - needed / parts.row_steps) * (parts.seconds[STEPS] + parts.seconds[STEPS_REST])
    known = sum(parts.seconds.values())
    return {
        "lines": lines, "s": seconds, "bound": known - spared,
        "parts": {**parts.seconds, "else": seconds - known}, "row_steps": (parts.row_steps, needed),
    }  # fmt: skip


def equal(plain: list[dict[str, Any]], shared: list[dict[str, Any]], fields: Sequence[str]) -> int:
    """Count the lines of both ways that agree in some fields."""
    names = ("id", "method", "options_hash", "keep")
    known = {tuple(line[name] for name in names): line for line in plain}
    pairs = [(line, known[tuple(line[name] for name in names)]) for line in shared]
    return sum(all(ours[name] == theirs[name] for name in fields) for ours, theirs in pairs)


if __name__ == "__main__":
    main()
