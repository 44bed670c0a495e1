"""The fit of a conditional profile at a model's true width: what a step takes, from maps on disk."""

from __future__ import annotations

import tempfile
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import inputs
from biaslab.maps.base import ImageRecord
from biaslab.maps.stored import StoredMaps
from biaslab.profiles import LookaheadProfile
from biaslab.profiles.lookahead.training import Lessons, Options, fit_student

from .models import spec
from .plan import Columns, Findings, Plan

__all__ = ["run"]

PICTURES, TEXT = 142, 40  # on disk: enough for some steps; tokens of a question
FITTED = 3000  # images of the fit that is computed from a step
COLUMNS: Columns = {
    "n": ("N", "d"), "width": ("width", "d"), "batch": ("batch", "d"), "parameters": ("parameters", ",d"),
    "read": ("s to read a batch, one thread", ".2f"), "step": ("s per step", ".2f"),
    "minutes": (f"min for {FITTED:,} images", ".1f"), "peak_mb": ("peak MiB", ".0f"),
}  # fmt: skip


def run(plan: Plan, findings: Findings) -> None:
    """Write maps of random features, fit a student for some epochs, and time a step."""
    sizes, layout = spec(plan), inputs.layout_of(256 if plan.tiny else 13 * 256)
    pictures, epochs = (20, 2) if plan.tiny else (PICTURES, 3)
    defaults = LookaheadProfile().get_params()
    options = Options(**{f.name: defaults[f.name] for f in fields(Options)})
    options = replace(options, batch_size=8) if plan.tiny else options
    with tempfile.TemporaryDirectory() as folder:
        maps = _maps(Path(folder) / "maps", layout, sizes.hidden, pictures)
        targets = np.random.default_rng(0).normal(size=pictures * layout.n).astype(np.float32)
        lessons = Lessons(maps, targets, np.arange(pictures + 1) * layout.n)
        learned, _ = lessons.split()
        started = time.perf_counter()
        lessons.batch(learned[: options.batch_size])
        read = time.perf_counter() - started
        times = []
        if plan.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(plan.device)
        for n in (1, epochs):  # the second without what the first step of a process takes
            started = time.perf_counter()
            student, _ = fit_student(lessons, replace(options, epochs=n), device=plan.device, show=False)
            times.append(time.perf_counter() - started)
    steps = -(-len(learned) // options.batch_size)
    step = times[1] / (epochs * steps)
    findings.add("Fit of a conditional profile", COLUMNS, {
        "n": layout.n, "width": sizes.hidden, "batch": options.batch_size, "read": read, "step": step,
        "parameters": sum(p.numel() for p in student.parameters()), "seconds": times,
        "minutes": step * options.epochs * -(-FITTED * 9 // 10 // options.batch_size) / 60,
        "peak_mb": torch.cuda.max_memory_allocated(plan.device) / 2**20 if plan.device.type == "cuda" else None,
    })  # fmt: skip
    findings.note(
        f"fit: maps of {pictures} images on disk, read from the system's cache; the held-out tenth is judged after "
        f"each epoch, which counts as part of its steps. Minutes: of all {options.epochs} epochs, computed "
        "from a step"
    )


def _maps(folder: Path, layout: Any, width: int, pictures: int) -> StoredMaps:
    """Write maps of one head, with features that are views of one random field."""
    about = {"layers": [0], "heads": "all", "folds": 5, "features": {"layer": 0, "width": width}}
    rng = np.random.default_rng(0)
    field = rng.normal(size=(layout.n + pictures, width)).astype(np.float16)
    attention = rng.random((1, 1, layout.n), dtype=np.float32)
    maps = StoredMaps.create(folder, about)
    with maps.writing():
        for i in range(pictures):
            maps.features.add(str(i), str(i), field[i : i + layout.n], field[i : i + TEXT])
            maps.add(ImageRecord(str(i), layout, str(i)), attention)
    return maps
