"""Capture of 1 and of 64 rows in every head of every layer, against plain SDPA and against eager attention."""

from __future__ import annotations

from functools import partial

from benchmarks.capture import MODES, prefill

from .models import large, prompts
from .plan import Columns, Findings, Plan
from .timing import free, in_turn

__all__ = ["run"]

COLUMNS: Columns = {
    "batch": ("B", "d"), "n": ("N", "d"), "name": ("attention", ""), "ms": ("ms", ".1f"),
    "ratio": ("x plain", ".3f"), "peak_mb": ("peak MiB", ".0f"), "memory_ratio": ("x memory", ".2f"),
    "why": ("remark", ""),
}  # fmt: skip


def run(plan: Plan, findings: Findings) -> None:
    """Measure every batch size and mode; eager attention for one prompt alone."""
    vlm = large(plan)
    for batch in plan.batch_sizes:
        encoded = vlm.vision(prompts(vlm, batch))
        modes = [mode for mode in MODES if mode != "eager" or batch == 1]
        times = in_turn({mode: partial(prefill, vlm, encoded, mode) for mode in modes}, plan)
        plain = times["plain"]
        for mode in modes:
            found = times[mode]
            row = {"batch": batch, "n": encoded.last + 1, "name": MODES[mode], "ms": found.median,
                   "peak_mb": found.peak_mb, "why": found.why, "times_ms": found.ms}  # fmt: skip
            if found.median and plain.median:
                row["ratio"] = found.median / plain.median
            if found.peak_mb and plain.peak_mb:
                row["memory_ratio"] = found.peak_mb / plain.peak_mb
            findings.add("Prefill with attention rows of all heads and layers, the image features given", COLUMNS, row)
            if found.failed:
                findings.fail(f"capture, B = {batch}, {MODES[mode]}: {found.why}")
        del encoded
        free(plan.device)
    findings.note("peak: what tensors held at most over the idle model and its inputs, what was captured included")
    findings.note("eager attention returns every map of every layer; it is asked of one prompt alone")
