"""Run folders of any verdicts, without a model: what figures and tables of runs are made of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from biaslab._util.jsonl import JsonLines
from biaslab.evaluation.results import Results
from biaslab.evaluation.sample_log import log_path
from biaslab.evaluation.schema import LINE_FIELDS
from biaslab.pruning import parse, parse_schedule
from biaslab.pruning.schedule import is_schedule

TFLOPS = {"tflops_vision": 0.9, "tflops_projector": 0.1}


def made_run(
    folder: Path, hits: dict[str, dict[float, np.ndarray]], *, layer: int = 4, model: str = "org/InternVL2_5-8B"
) -> Path:
    """Write a run of methods and schedules (words as on a command line) at keeps, whose hits on n samples are given.

    Two samples are of one image.
    """
    configs, verdicts = [], []
    for word, by_keep in hits.items():
        method = None if word == "none" else parse_schedule(word) if is_schedule(word) else parse(word)
        for keep, found in by_keep.items():
            name = {"method": "none", "options_hash": "", "options": {}} if method is None else {
                "method": method.name, "options_hash": method.options_hash, "options": method.options()
            }  # fmt: skip
            where = None if method is None else method.layer if is_schedule(word) else layer
            configs.append(name | {"profile_hash": "", "keep": keep, "layer": where})
            verdicts.append(np.asarray(found, bool))
    n = len(verdicts[0])
    identity = {
        "model": {"name": model, "family": "toy"}, "options": {"seed": 0}, "configurations": configs,
        "dataset": {"name": "scenes", "split": "test", "hash": "0", "n": n},
    }  # fmt: skip
    folder.mkdir(parents=True)
    record = {"identity": identity, "settings": {"reference": "random", "n_layers": 10}, "n_samples": n}
    (folder / "run.json").write_text(json.dumps(record))
    with JsonLines(log_path(folder, 0)) as log:
        for i in range(n):
            for config, found in zip(configs, verdicts, strict=True):
                line = dict.fromkeys(LINE_FIELDS) | {k: v for k, v in config.items() if k != "options"}
                line |= {
                    "index": i,
                    "id": f"s{i}",
                    "image_id": f"image{i // 2}",
                    "seed": 0,
                    "info": {},
                    "hit": bool(found[i]),
                }
                line |= {"expression_type": "attribute", "object_size": "small", "iou": 0.9 * found[i], "parsed": True}
                line |= {**TFLOPS, "tflops_decoder": 1 + 5 * config["keep"], "target_kept": 0.5, "truncated": False}
                line |= {"tokens": 256, "tokens_kept": int(256 * config["keep"])}
                log.append(line)
    Results.load(folder, n_resamples=200).save()
    return folder


def coins(share: float, n: int, seed: int) -> np.ndarray:
    """Flip n coins that come up heads with a probability."""
    return np.random.default_rng(seed).random(n) < share
