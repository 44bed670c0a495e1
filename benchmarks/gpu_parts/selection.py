"""Selection alone: a batch of images as the engine hands them over, features smooth over the image.

DivPrune, D2Pruner, and look-ahead with the student that foresees: random weights, of the width of the model. Wall time,
and beside it what the device itself has to do: in a prefill the host asks for it while the device is still at the work
before.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from benchmarks import inputs
from biaslab.pruning import TokenBatch, TokenContext, budget, make

from .device_work import device_work
from .models import LAYER, spec
from .plan import Columns, Findings, Plan
from .timing import free, in_turn

__all__ = ["run"]

METHODS = ("divprune", "d2pruner", "lookahead")
TEXT = 40  # tokens of a question
KEEPS = (0.1, 0.5)
COLUMNS: Columns = {
    "batch": ("B", "d"), "n": ("N", "d"), "method": ("method", ""), "keep": ("keep", ".0%"),
    "ms": ("ms per batch", ".2f"), "each": ("ms per image", ".2f"),
    "device_each": ("device ms per image", ".2f"), "launches_each": ("launches per image", ".0f"),
    "peak_mb": ("peak MiB", ".0f"),
    "why": ("remark", ""),
}  # fmt: skip


def run(plan: Plan, findings: Findings) -> None:
    """Measure the methods at two keep ratios and every batch size."""
    for batch in plan.batch_sizes:
        images = context(plan, batch)
        n = images[0].n
        profiles = {"d2pruner": inputs.profile(images[0].layout, LAYER - 1), "lookahead": inputs.RandomStudent()}
        tasks = {}
        for keep in KEEPS:
            asked = TokenBatch([_at(ctx, keep) for ctx in images], images.stack, images.starts)
            for name in METHODS:
                method = make(name, keep=keep, **({"profile": profiles[name]} if name in profiles else {}))
                tasks[f"{name} {keep}"] = partial(method.select_batch, asked)
        with torch.inference_mode():
            times = in_turn(tasks, plan, plan.rounds + 2)
            work = {name: device_work(task, plan.device) for name, task in tasks.items() if times[name].ms}
        for keep in KEEPS:
            for name in METHODS:
                found, done = times[f"{name} {keep}"], work.get(f"{name} {keep}", {})
                findings.add("Selection alone", COLUMNS, {
                    "batch": batch, "n": n, "method": name, "keep": keep, "ms": found.median,
                    "each": found.median and found.median / batch, "peak_mb": found.peak_mb, "why": found.why,
                    "times_ms": found.ms, **{f"{key.removesuffix('_ms')}_each": x / batch for key, x in done.items()},
                })  # fmt: skip
                if found.failed:
                    findings.fail(f"selection, B = {batch}, {name}, keep {keep}: {found.why}")
        del images, tasks
        free(plan.device)
    findings.note(
        "device ms: the time of all kernels and copies of one run by torch's profiler, without the gaps in which "
        "the device waits for the host; launches: how many there were"
    )
    findings.note("features in bf16, smooth over the image with a part of their own; hidden states of random weights "
                  "would make another graph")  # fmt: skip


def context(plan: Plan, batch: int) -> TokenBatch:
    """Make the images of a batch, their features in one tensor on the device."""
    sizes = spec(plan)
    layout = inputs.layout_of(256 if plan.tiny else 13 * 256)
    smooth = inputs.features(layout, sizes.hidden, length=0.04).to(plan.device)
    generator = torch.Generator(plan.device).manual_seed(0)
    noise = torch.randn(batch, *smooth.shape, generator=generator, device=plan.device)
    stack = (smooth + 0.3 * noise).to(torch.bfloat16).flatten(0, 1)
    rows = [inputs.attention(layout, heads=sizes.heads, seed=i).to(plan.device) for i in range(batch)]
    starts = [i * layout.n for i in range(batch)]
    text = noise[0, :1].expand(TEXT, -1).to(torch.bfloat16)
    images = [
        TokenContext(layout, 1, i, LAYER, row, stack[first : first + layout.n], text=text)
        for i, (row, first) in enumerate(zip(rows, starts, strict=True))
    ]
    return TokenBatch(images, stack, starts)


def _at(ctx: TokenContext, keep: float) -> TokenContext:
    return replace(ctx, budget=budget(keep, ctx.n))
