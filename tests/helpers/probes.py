"""Probe results made up for a test."""

from __future__ import annotations

import numpy as np

from biaslab.diagnostics.probe import ProbeResult

SETTINGS = {"model": "toy", "revision": None, "family": "internvl", "queries": "last", "heads": "mean"}


def probe_of(effects, layout, cell, seed=0):
    """A probe of (G, R, C) effects whose objects stood in a jittered cell of ``cell`` px."""
    groups, rows, cols = effects.shape
    rng = np.random.default_rng(seed)
    corner = np.stack(np.meshgrid(np.arange(cols), np.arange(rows)), -1) + rng.uniform(0, 0.3, (groups, rows, cols, 2))
    boxes = np.concatenate([corner, corner + 0.7], -1)[:, :, :, None] * cell
    log = (effects + rng.normal(0, 3, (groups, 1, 1)))[..., None, None, None]
    regions = ["tiles"] if not layout.thumbnail.any() else ["tiles", "thumbnail"]
    log = np.repeat(log, len(regions), axis=3)
    return ProbeResult(log, None, boxes, [f"o{g}" for g in range(groups)], [3], ["mean"], regions, layout, SETTINGS)
