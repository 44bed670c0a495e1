"""Prefill under schedules of several cuts, against unpruned and the speed-up that the saved FLOPs would give at best.

The limit is the ratio of the decoder's FLOPs, every layer at its real length (``biaslab.cost``). Layers of the stages
are a quarter, a half and three quarters of the depth; one method stands at all of them.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch

from biaslab.cost import decoder_flops
from biaslab.models.vlm import VLM
from biaslab.pruning import Schedule, Stage, make, prune

from . import inputs
from .common import arguments, measured_clock, numbers, side_by_side
from .report import Report, Table, Target

JUDGED = ("random, random", "fastv, fastv", "fastv, fastv, fastv", "divprune, fastv")
_KEEPS = {2: (0.5, 0.1), 3: (0.5, 0.25, 0.1)}
_DEPTHS = {2: (1, 2), 3: (1, 2, 3)}  # quarters


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write the report."""
    parser = arguments("benchmarks.schedules", __doc__, repeats=9)
    parser.add_argument("--size", type=int, default=2048, help="prompt tokens (default 2048)")
    parser.add_argument("--layers", type=numbers(int), default=[16], help="decoder layers, e.g. 8,16")
    parser.add_argument("--hidden", type=int, default=512, help="width of the decoder")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    found = report(options.size, options.layers, options.hidden, options.repeats, options.threads)
    found.publish(options.out)


def report(size: int, depths: list[int], hidden: int, repeats: int, threads: int) -> Report:
    """Measure every depth."""
    clock = measured_clock(threads)
    rows = [row for depth in depths for row in measure(inputs.model(hidden, depth), size, repeats, clock)]
    columns = {
        "layers": ("layers", "d"),
        "name": ("stages", ""),
        "cuts": ("tokens, layer", ""),
        "ms": (f"{clock} ms", ".0f"),
        "speedup": ("speed-up", ".2f"),
        "limit": ("FLOPs limit", ".2f"),
        "share": ("of the limit", ".3f"),
        "attention_ms": ("attention rows ms", ".1f"),
        "select_ms": ("selection ms", ".1f"),
    }
    return Report(
        name="schedules",
        title="Prefill under schedules of several cuts, against unpruned and the FLOPs limit",
        settings={
            "model": "InternVL, random float32 weights", "hidden": hidden, "N": size, "repeats": repeats,
            "threads": threads,
        },
        tables=[Table("Prefill of one prompt", columns, rows)],
        targets=[
            Target(f"{row['name']}, {row['layers']} layers: share of the FLOPs limit", row["share"], 0.85, least=True)
            for row in rows
            if row["name"] in JUDGED
        ],
        notes=[
            "speed-up: median over the rounds of the time of the unpruned prefill over the schedule's in a round",
            "attention rows, selection: the engine's own clock (wall time), all stages together",
        ],
    )  # fmt: skip


def measure(vlm: VLM, size: int, repeats: int, clock: str) -> list[dict[str, Any]]:
    """Everything about one model."""
    text = min(256, size // 4)
    visual, depth = size - text, vlm.n_layers
    prompt = inputs.prompt(vlm, visual, text)
    schedules = {name: _schedule(name.split(", "), vlm, prompt.layouts[0]) for name in (*JUDGED, "d2pruner, d2pruner")}
    clocks: dict[str, list[dict[str, float]]] = {name: [] for name in schedules}

    def pruned(name: str) -> Any:
        with prune(vlm, schedule=schedules[name], timed=True) as run:
            out = _plain(vlm, prompt)
        clocks[name].append(run.times)
        return out

    tasks = {"unpruned": lambda: _plain(vlm, prompt)}
    tasks |= {name: lambda name=name: pruned(name) for name in schedules}
    times = side_by_side(tasks, repeats)
    rows: list[dict[str, Any]] = []
    for name, timing in times.items():
        speedup = times["unpruned"].ratio_to(timing, clock)
        row = {"layers": depth, "name": name, "ms": timing.median(clock) * 1e3, "speedup": speedup}
        if name in schedules:
            schedule, kept = schedules[name], schedules[name].kept(visual)
            whole = decoder_flops(vlm.decoder.config, visual, text)[0]
            layers = [stage.layer for stage in schedule]
            limit = whole / decoder_flops(vlm.decoder.config, visual, text, keep_n=kept, layer=layers)[0]
            row |= {
                "cuts": "; ".join(f"{n} from {layer}" for n, layer in zip(kept, layers, strict=True)),
                "limit": limit,
                "share": speedup / limit,
                **{
                    key: statistics.median(c.get(key, 0.0) for c in clocks[name])
                    for key in ("attention_ms", "select_ms")
                },
            }
        rows.append(row)
    return rows


def _schedule(names: list[str], vlm: VLM, layout: Any) -> Schedule:
    """One method after the other, at quarters of the depth."""
    stages = []
    for name, keep, quarter in zip(names, _KEEPS[len(names)], _DEPTHS[len(names)], strict=True):
        layer = quarter * vlm.n_layers // 4
        options = {"profile": inputs.profile(layout, layer - 1, vlm)} if name == "d2pruner" else {}
        stages.append(Stage(layer, make(name, **options), keep))
    return Schedule(stages)


def _plain(vlm: VLM, encoded: Any) -> Any:
    return vlm.forward(encoded, logits_to_keep=1, use_cache=True)


if __name__ == "__main__":
    main()
