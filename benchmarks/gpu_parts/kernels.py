"""Which attention kernels SDPA really runs: torch's profiler over prefill, padded prefill, pruning and decode."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from biaslab.attention.capture import capture
from biaslab.models.encoded import Encoded
from biaslab.models.vlm import VLM
from biaslab.pruning import FastV, prune

from .models import LAYER, large, prompts
from .plan import Columns, Findings, Plan
from .timing import free, in_turn

__all__ = ["backends", "run"]

#: name of the operation -> what SDPA's documentation calls it
OPERATIONS = {
    "flash": "_scaled_dot_product_flash_attention",
    "flash (CPU)": "_scaled_dot_product_flash_attention_for_cpu",
    "memory-efficient": "_scaled_dot_product_efficient_attention",
    "cuDNN": "_scaled_dot_product_cudnn_attention",
    "math": "_scaled_dot_product_attention_math",
}
_KERNEL = re.compile(r"flash|fmha|attention|sdpa|softmax", re.IGNORECASE)
COLUMNS: Columns = {
    "what": ("forward", ""), "backends": ("SDPA ran", ""), "ms": ("ms", ".2f"),
    "kernels": ("kernels on the device", ""), "why": ("remark", ""),
}  # fmt: skip


def run(plan: Plan, findings: Findings) -> None:
    """Profile every kind of forward once, and time it."""
    layers = {"layers": 4, "vision_layers": 2}  # full width, and enough layers on both sides of K
    vlm = large(plan, **layers)
    one, even, padded = (vlm.vision(prompts(vlm, b, padded=p)) for b, p in ((1, False), (2, False), (2, True)))
    raw = prompts(vlm, 1)
    kinds: dict[str, Callable[[], Any]] = {
        "vision tower": lambda: vlm.vision(raw),
        "prefill, 1 prompt": lambda: _prefill(vlm, one),
        "prefill, 2 of one length": lambda: _prefill(vlm, even),
        "prefill, 2, one padded": lambda: _prefill(vlm, padded),
        "prefill, 1 prompt, rows captured": lambda: _prefill(vlm, one, capture(vlm)),
        "pruned prefill, 2 of one length": lambda: _prefill(vlm, even, prune(vlm, FastV(keep=0.1), LAYER)),
        "pruned prefill, 2, one padded": lambda: _prefill(vlm, padded, prune(vlm, FastV(keep=0.1), LAYER)),
        "prefill and 4 decode steps, 1 prompt": partial(_generate, vlm, one),
        "prefill and 4 decode steps, 2, one padded": partial(_generate, vlm, padded),
    }
    times = in_turn(kinds, plan)
    for what, task in kinds.items():
        row: dict[str, Any] = {"what": what, "ms": times[what].median, "why": times[what].why,
                               "times_ms": times[what].ms}  # fmt: skip
        if times[what].why is None:
            row |= backends(task, plan.device)
        findings.add(f"Attention under SDPA, bf16, {len(vlm.decoder.layers)} decoder layers", COLUMNS, row)
        if times[what].failed:
            findings.fail(f"kernels, {what}: {times[what].why}")
        free(plan.device)
    findings.note(
        "calls of each SDPA operation; kernels: the busiest three whose name speaks of attention or softmax, with "
        "their share of the device's time. A padded batch has a mask, which flash attention does not take"
    )


def backends(task: Callable[[], Any], device: torch.device) -> dict[str, str]:
    """Tell which SDPA operations a task calls, and which attention kernels they become."""
    on_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with profile(activities=activities) as profiler:
        task()
        if on_cuda:
            torch.cuda.synchronize(device)
    events = profiler.key_averages()
    calls = {event.key: event.count for event in events}
    ran = [f"{calls[f'aten::{op}']} {name}" for name, op in OPERATIONS.items() if f"aten::{op}" in calls]
    found = {"backends": ", ".join(ran) or "none"}
    if on_cuda:
        busy = {e.key: e.self_device_time_total for e in events if str(e.device_type).endswith("CUDA")}
        total = sum(busy.values()) or 1.0
        names = sorted((k for k in busy if _KERNEL.search(k)), key=busy.__getitem__, reverse=True)
        found["kernels"] = "; ".join(f"{_short(name)} {busy[name] / total:.0%}" for name in names[:3])
    return found


def _short(name: str) -> str:
    """Name a kernel without its template and arguments."""
    bare = re.sub(r"^void ", "", name).split("<")[0].split("(")[0]
    return (bare or name)[:80].replace("|", "/")


def _prefill(vlm: VLM, encoded: Encoded, block: Any = None) -> Any:
    with nullcontext() if block is None else block:
        return vlm.forward(encoded, logits_to_keep=1, use_cache=True)


def _generate(vlm: VLM, encoded: Encoded) -> Any:
    return vlm.generate(encoded, max_new_tokens=5, min_new_tokens=5)
