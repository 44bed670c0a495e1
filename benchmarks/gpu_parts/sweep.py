"""A sweep of methods and keep ratios with shared work, against one run of the model for each configuration."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

import biaslab as bl
from benchmarks import inputs
from biaslab.models.vlm import VLM

from .models import LAYER, large
from .plan import Columns, Findings, Plan
from .timing import free

__all__ = ["run"]

COLUMNS: Columns = {
    "model": ("model", ""), "dtype": ("dtype", ""), "layer": ("K", "d"), "configs": ("configurations", "d"),
    "n": ("expressions", "d"), "plain_s": ("plain s", ".1f"), "shared_s": ("shared s", ".1f"),
    "ratio": ("x faster", ".2f"), "equal": ("answers equal", "d"), "lines": ("of", "d"),
}  # fmt: skip
_LINE = ["id", "method", "options_hash", "keep", "layer"]


@dataclass(frozen=True)
class Sweep:
    """What is evaluated: ``n`` expressions, a batch; ``exact`` where both ways must give the same answers."""

    methods: Sequence[str]
    keep: Sequence[float]
    layer: int
    n: int
    new_tokens: int
    exact: bool


def run(plan: Plan, findings: Findings) -> None:
    """Sweep the grounder in float32, then the large model in bf16."""
    methods = ("none", "random", "fastv", "divprune", "d2pruner")
    if plan.tiny:
        small, large_one = (Sweep(methods[:3], [0.2], 4, 2, 40, True), Sweep(methods[1:3], [0.2], LAYER, 2, 3, False))
    else:
        small = Sweep(methods, [0.5, 0.2, 0.1, 0.05], 4, 16, 40, True)
        large_one = Sweep(methods, [0.5, 0.1], LAYER, 16, plan.new_tokens, False)
    both_ways(plan, findings, bl.load("grounder", device=str(plan.device), dtype="float32"), small)
    free(plan.device)
    vlm = large(plan)
    # scenes are small: 13 tiles all the same
    vlm.set_image_options(min_tiles=vlm.processor.image_processor.max_patches)
    both_ways(plan, findings, vlm, large_one)
    findings.note(
        "wall time of `evaluate`, host work included: images are decoded and cut once in both ways; answers of "
        "random weights run to the limit of new tokens. In float32 all answers must be equal; in bf16 kernels of "
        "other shapes round differently"
    )


def both_ways(plan: Plan, findings: Findings, vlm: VLM, sweep: Sweep) -> None:
    """Measure a sweep both ways, in turn after one round of warming up."""
    dataset = bl.load_dataset("scenes", n=sweep.n)
    sample = next(iter(dataset))
    layout = vlm.encode_grounding([sample.image()], [sample.expression]).layouts[0]
    profile = inputs.profile(layout, sweep.layer - 1, vlm)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    tables: dict[bool, Any] = {}
    for turn in range(-1, 1 if plan.tiny else 2):
        if turn > 0 and plan.late:
            break
        for plain in (True, False) if turn % 2 else (False, True):
            if plan.device.type == "cuda":
                torch.cuda.synchronize(plan.device)
            start = time.perf_counter()
            found = bl.evaluate(
                vlm, dataset, methods=list(sweep.methods), keep=list(sweep.keep), layer=sweep.layer, profile=profile,
                n=2 if turn < 0 else sweep.n, batch_size=sweep.n, max_new_tokens=sweep.new_tokens, n_resamples=100,
                plain=plain, progress=False,
            )  # fmt: skip
            if turn >= 0:
                seconds[plain].append(time.perf_counter() - start)
                tables[plain] = found.samples
            free(plan.device)
    failed = {plain: int(table["error"].notna().sum()) for plain, table in tables.items()}
    pair = tables[True].merge(tables[False], on=_LINE, suffixes=("_plain", ""))
    equal = int((pair["answer_plain"] == pair["answer"]).sum())
    dtype = str(next(vlm.model.parameters()).dtype).removeprefix("torch.")
    plain_s, shared_s = (statistics.median(seconds[plain]) for plain in (True, False))
    findings.add("A sweep both ways", COLUMNS, {
        "model": vlm.name, "dtype": dtype, "layer": sweep.layer, "configs": len(pair) // sweep.n, "n": sweep.n,
        "plain_s": plain_s, "shared_s": shared_s, "ratio": plain_s / shared_s, "equal": equal, "lines": len(pair),
        "seconds": {"plain": seconds[True], "shared": seconds[False]},
    })  # fmt: skip
    if any(failed.values()):
        findings.fail(f"sweep, {vlm.name}: {failed[True]} plain and {failed[False]} shared lines hold an error")
    if sweep.exact and equal < len(pair):
        findings.fail(f"sweep, {vlm.name}: {len(pair) - equal} of {len(pair)} answers differ between the two ways")
