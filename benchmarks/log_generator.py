"""Run folders of any size without a model: ``run.json`` and sample logs in the real schema, seeded, never committed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from biaslab.evaluation.configurations import Config
from biaslab.evaluation.kept_tokens import token_mask
from biaslab.evaluation.run_folder import RUN_FILE
from biaslab.evaluation.sample_log import log_path
from biaslab.evaluation.schema import LINE_FIELDS
from biaslab.pruning import parse

#: what the eight splits of RefCOCO, RefCOCO+ and RefCOCOg hold
EXPRESSIONS, IMAGES = 57_457, 9_900
METHODS = ("random", "uniform", "fastv", "relative", "divprune", "d2pruner", "fastv:score=no_rope")
KEEPS = (0.5, 0.2, 0.1, 0.05)
TYPES = ("attribute", "location", "relation")
SIZES = ("small", "medium", "large")
_BATCH = 16


def write_run(
    folder: Path,
    *,
    expressions: int = EXPRESSIONS,
    images: int = IMAGES,
    tokens: int = 256,
    layer: int = 2,
    seed: int = 0,
) -> int:
    """Write a complete run of 29 configurations by two processes; returns its number of lines."""
    folder.mkdir(parents=True)
    records = configuration_records(layer)
    record = {
        "identity": {
            "model": {"name": "synthetic", "revision": None, "fingerprint": None, "family": "internvl",
                      "dtype": "bfloat16"},
            "dataset": {"name": "refcoco", "split": "all", "hash": "0" * 16, "n": expressions},
            "options": {"seed": seed, "max_new_tokens": 128, "positions": "original", "limit": None,
                        "image_options": {}},
            "configurations": records,
        },
        "settings": {"batch_size": _BATCH, "processes": 2, "reference": "random", "device": "cuda:0", "dataset": {}},
        "profiles": {}, "commands": [], "environment": {}, "created": "2026-01-01T00:00:00+00:00",
        "n_samples": expressions,
    }  # fmt: skip
    with open(log_path(folder, 0), "wb") as first, open(log_path(folder, 1), "wb") as second:
        for number, line in enumerate(_lines(records, expressions, images, tokens, seed)):
            log = second if (number // (_BATCH * len(records))) % 2 else first
            log.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    (folder / RUN_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return expressions * len(records)


def configuration_records(layer: int) -> list[dict[str, Any]]:
    """List the configurations of ``run.json``: no pruning, and every method at every keep ratio."""
    records = [{**Config(None, None).describe(), "options": {}}]
    for name in METHODS:
        for keep in KEEPS:
            method = parse(name).with_keep(keep)  # type: ignore[union-attr]
            profile = "f" * 16 if "profile" in method.needs else ""
            record = {"method": method.name, "options_hash": method.options_hash, "profile_hash": profile}
            records.append({**record, "keep": keep, "layer": layer, "options": method.options()})
    return json.loads(json.dumps(records))


def _lines(
    records: list[dict[str, Any]], expressions: int, images: int, tokens: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Lines in the order of a real log: a batch of samples under one configuration after the other."""
    rng = np.random.default_rng(seed)
    image = np.sort(rng.integers(0, images, expressions))
    for start in range(0, expressions, _BATCH):
        batch = range(start, min(start + _BATCH, expressions))
        corners = rng.uniform(0, 400, (len(batch), 2)).round(2)
        targets = np.hstack([corners, corners + rng.uniform(20, 240, (len(batch), 2)).round(2)]).round(2).tolist()
        difficulty = rng.normal(0, 0.25, len(batch))  # of an expression, for every method
        for c, record in enumerate(records):
            times = {"prefill_ms": float(rng.gamma(40, 2.0)), "decode_ms": float(rng.gamma(40, 9.0))}
            for i, index in enumerate(batch):
                yield _line(rng, record, c, index, int(image[index]), targets[i], difficulty[i], tokens, seed) | times


def _line(
    rng: np.random.Generator, record: dict[str, Any], c: int, index: int, image: int, target: list[float],
    difficulty: float, tokens: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """One line; every 5,000th is an error."""
    head = {
        "index": index, "id": f"refcoco-all-{index:06d}", "sample_hash": f"{index * 2654435761 % 2**64:016x}",
        "image_id": f"COCO_train2014_{image:012d}", "expression_type": TYPES[index % 3],
        "object_size": SIZES[index % 7 % 3],
        **{name: record[name] for name in ("method", "options_hash", "profile_hash", "keep", "layer")},
        "seed": seed, "target": target,
    }  # fmt: skip
    if (index * 29 + c) % 5000 == 4999:
        return dict.fromkeys(LINE_FIELDS) | head | {"error": "OutOfMemoryError: CUDA out of memory"}
    iou = float(np.clip(0.75 - 0.01 * c + difficulty + rng.normal(0, 0.1), 0, 1))
    parsed, kept = iou > 0.02, max(1, int(record["keep"] * tokens))
    box = [float(v) for v in np.array(target) + rng.normal(0, 8, 4)] if parsed else None
    info: dict[str, Any] = {}
    if record["method"] == "d2pruner":
        pivots = rng.choice(tokens, max(1, int(0.7 * kept)), replace=False).tolist()
        info = {"pivots": len(pivots), "mis_size": kept - len(pivots), "filled": 0, "overlap_topk": float(rng.random()),
                "pivot_indices": pivots, "edge_density": float(rng.random()), "degenerate": None}  # fmt: skip
    mask = None if record["method"] == "none" else token_mask(rng.choice(tokens, kept, replace=False), tokens)
    scores = record["method"] not in ("none", "random", "uniform", "divprune")
    line = head | {
        "error": None, "answer": _answer(box, index), "box": box, "iou": iou if parsed else 0.0,
        "hit": parsed and iou >= 0.5, "parsed": parsed, "truncated": False,
        "target_auroc": float(rng.random()) if scores else None, "target_kept": float(rng.random()), "tokens": tokens,
        "tokens_kept": kept, "kept": mask, "info": info, "tflops_vision": 0.7, "tflops_projector": 0.02,
        "tflops_decoder": 8.0 * record["keep"], "batch": _BATCH, "peak_mb": 21000.0 + 100 * record["keep"],
    }  # fmt: skip
    return line


def _answer(box: list[float] | None, index: int) -> str:
    if box is None:
        return "I cannot find it in the image."
    return f"<ref>the object number {index}</ref><box>[[{', '.join(str(int(v)) for v in box)}]]</box>"
