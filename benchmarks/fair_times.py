"""What choosing costs: the prefill under every method against one that keeps as many tokens at random."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import biaslab as bl
from benchmarks.common import measured_clock, side_by_side
from biaslab.evaluation.configurations import Config, configurations
from biaslab.models.vlm import Encoded
from biaslab.pruning import Schedule

__all__ = ["as_random", "measure"]


def as_random(config: Config) -> str:
    """Write the word that keeps as many tokens at the same layers, at random.

    Examples
    --------
    >>> (config,) = configurations("divprune@0.5@0+fastv@0.1@4", 1.0, 0)
    >>> as_random(config)
    'random@0.5@0+random@0.1@4'
    """
    return "+".join(f"random@{json.dumps(stage.rule.keep)}@{stage.layer}" for stage in config.stages)


def measure(vlm: bl.VLM, options: argparse.Namespace) -> None:
    """Time what was chosen at one cost, side by side, and write milliseconds per image to ``times.json``."""
    choice = json.loads((options.runs / "choice.json").read_text(encoding="utf-8"))
    chosen = [one for one in choice["candidates"] if one["best"] and one["cost"] == "FLOPs of 10% before K = 2"]
    samples = options.data.samples[: options.batch_size]
    encoded = vlm.encode(
        [sample.loader() for sample in samples], [sample.expression for sample in samples],
        sample_ids=[sample.id for sample in samples],
    )  # fmt: skip
    configs = {one["method"]: _config(one["word"], vlm, options.loaded) for one in chosen}
    tasks: dict[str, Callable[[], Any]] = {
        word: partial(_prefill, vlm, encoded, config)
        for config in configs.values()
        for word, config in (
            (_word(config), config),
            (as_random(config), _config(as_random(config), vlm, options.loaded)),
        )
    }
    tasks["none"] = partial(_prefill, vlm, encoded, None)
    clock = measured_clock(options.threads)
    timings = side_by_side(tasks, options.repeats)
    per_picture = 1000 / len(samples)
    found = {
        name: {
            "word": _word(config),
            "more_ms": per_picture * (timings[_word(config)].median(clock) - timings[as_random(config)].median(clock)),
            "of_unpruned": timings[_word(config)].ratio_to(timings["none"], clock),
        }
        for name, config in configs.items()
    }
    settings = {
        "clock": clock, "batch": len(samples), "repeats": options.repeats, "threads": options.threads,
        "device": options.device, "unpruned_ms": per_picture * timings["none"].median(clock),
    }  # fmt: skip
    (options.runs / "times.json").write_text(json.dumps({"settings": settings, "methods": found}, indent=1), "utf-8")


def _config(word: str, vlm: bl.VLM, profiles: list[Any]) -> Config:
    (config,) = configurations(word, 1.0, None, profiles, model=vlm)
    return config


def _word(config: Config) -> str:
    return Schedule(config.stages).word


def _prefill(vlm: bl.VLM, encoded: Encoded, config: Config | None) -> None:
    if config is None:
        vlm.forward(encoded)
        return
    with bl.prune(vlm, **config.engagement):
        vlm.forward(encoded)
