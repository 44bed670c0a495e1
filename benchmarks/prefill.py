"""Pruned prefill against unpruned, and against the speed-up that the saved FLOPs would give at best.

The limit is the ratio of the decoder's FLOPs, every layer at its real length (``biaslab.cost``). Where a method
falls short of it is told by three more measurements: a plain prefill as short as the pruned one (what the
machine makes of short layers, without any hook), pruning at random (hooks and cutting), and the engine's own
clock (attention rows, selection).
"""

from __future__ import annotations

import statistics
from typing import Any

import torch

from biaslab.cost import decoder_flops, layer_lengths
from biaslab.models.encoded import Encoded
from biaslab.models.vlm import VLM
from biaslab.pruning import D2Pruner, FastV, Method, Random, budget
from biaslab.pruning.engine.prune import prune

from . import inputs
from .common import arguments, measured_clock, numbers, side_by_side
from .report import Report, Table, Target

JUDGED = ("fastv", "d2pruner")


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write the report."""
    parser = arguments("benchmarks.prefill", __doc__, repeats=9)
    parser.add_argument("--size", type=int, default=2048, help="prompt tokens (default 2048)")
    parser.add_argument("--layers", type=numbers(int), default=[8, 16], help="decoder layers, e.g. 8,16")
    parser.add_argument("--hidden", type=int, default=512, help="width of the decoder")
    parser.add_argument("--keep", type=float, default=0.1, help="share of the visual tokens kept (default 0.1)")
    parser.add_argument("--prune-layer", type=int, default=2, help="K: tokens are dropped before it (default 2)")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    result = report(
        options.size,
        options.layers,
        options.hidden,
        options.keep,
        options.prune_layer,
        options.repeats,
        options.threads,
    )
    result.publish(options.out)


def report(size: int, depths: list[int], hidden: int, keep: float, layer: int, repeats: int, threads: int) -> Report:
    """Measure every depth."""
    clock = measured_clock(threads)
    measured = [measure(inputs.model(hidden, depth), size, keep, layer, repeats, clock) for depth in depths]
    rows = [row for one in measured for row in one["methods"]]
    first = measured[0]
    speed = {
        "layers": ("layers", "d"),
        "name": ("prefill", ""),
        "ms": (f"{clock} ms", ".0f"),
        "ms_min": ("min ms", ".0f"),
        "wall_ms": ("wall ms", ".0f"),
        "speedup": ("speed-up", ".2f"),
        "limit": ("FLOPs limit", ".2f"),
        "share": ("of the limit", ".3f"),
        "causal_limit": ("causal limit", ".2f"),
        "causal_share": ("of the causal limit", ".3f"),
    }
    losses = {
        "layers": ("layers", "d"),
        "name": ("prefill", ""),
        "limit_ms": ("at the limit ms", ".0f"),
        "causal_ms": ("+ attention is causal", ".1f"),
        "rate_ms": ("+ short layers run slower", ".1f"),
        "hooks_ms": ("+ hooks and cutting", ".1f"),
        "attention_ms": ("+ attention rows", ".1f"),
        "select_ms": ("+ selection", ".1f"),
        "other_ms": ("+ other", ".1f"),
        "ms": ("= measured ms", ".0f"),
    }
    return Report(
        name="prefill",
        title=f"Prefill at keep {keep:.0%}, K = {layer}, against unpruned and the FLOPs limit",
        settings={
            "model": "InternVL, random float32 weights",
            "hidden": hidden,
            "N": size,
            "visual": first["visual"],
            "kept": first["kept"],
            "repeats": repeats,
            "threads": threads,
        },
        tables=[
            Table("Prefill of one prompt", speed, rows),
            Table("Where the loss is", losses, [row for row in rows if "hooks_ms" in row]),
        ],
        targets=[
            Target(
                f"{row['name']}, {row['layers']} layers: share of the FLOPs limit",
                row["share"],
                0.85,
                least=True,
            )
            for row in rows
            if row["name"] in JUDGED
        ],
        notes=[
            "speed-up: median over the rounds of the time of the unpruned prefill over the method's in the same round",
            "FLOPs limit: attention counted over the full square, as usual; causal limit: over the triangle, "
            "which is what SDPA computes",
            "short layers: K long layers and the others short, from plain prefills of both lengths, without hooks; "
            "hooks and cutting: pruning at random over that",
            "attention rows, selection: the engine's own clock (wall time); other: what is left, noise included",
            "d2pruner is the default; 'd2pruner, diagnosed' reports the edge density as well, for which all pairs of "
            "candidates are compared, and keeps the same tokens",
            *(
                f"{one['depth']} layers: the d2pruner graph has {one['info']['edge_density']:.2%} edges, "
                f"its independent set gave {one['info']['mis_size']} tokens, {one['info']['filled']} were filled in"
                for one in measured
            ),
        ],
    )


def measure(vlm: VLM, size: int, keep: float, layer: int, repeats: int, clock: str) -> dict[str, Any]:
    """Everything about one model."""
    text = min(256, size // 4)
    visual = size - text
    kept = budget(keep, visual)
    long, short = inputs.prompt(vlm, visual, text), inputs.prompt(vlm, kept, text)
    bias = inputs.profile(long.layouts[0], layer - 1, vlm)
    methods: dict[str, Method] = {
        "random": Random(keep=keep),
        "fastv": FastV(keep=keep),
        "d2pruner": D2Pruner(keep=keep, profile=bias),
        "d2pruner, diagnosed": D2Pruner(keep=keep, profile=bias, diagnose=True),
    }
    clocks: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    info: dict[str, Any] = {}

    def pruned(name: str) -> Any:
        with prune(vlm, methods[name], layer, timed=True) as run:
            out = _plain(vlm, long)
        clocks[name].append(run.times)
        info[name] = run.selections[0].info
        return out

    tasks = {"unpruned": lambda: _plain(vlm, long), "short": lambda: _plain(vlm, short)}
    tasks |= {name: lambda name=name: pruned(name) for name in methods}
    times = side_by_side(tasks, repeats)
    limit, causal = limits(vlm.decoder.config, visual, text, kept, layer)
    full, depth = times["unpruned"].median(clock) * 1e3, vlm.n_layers
    floor = layer / depth * full + (1 - layer / depth) * times["short"].median(clock) * 1e3
    rows: list[dict[str, Any]] = []
    for name, timing in times.items():
        row = {
            "layers": depth,
            "name": name,
            "ms": timing.median(clock) * 1e3,
            "ms_min": timing.min(clock) * 1e3,
            "wall_ms": timing.median("wall") * 1e3,
            "speedup": times["unpruned"].ratio_to(timing, clock),
            "times_s": timing.summary(),
        }
        if name in methods:
            spent = {
                key: statistics.median(c.get(key, 0.0) for c in clocks[name]) for key in ("attention_ms", "select_ms")
            }
            own = statistics.median(c["select_ms"] for c in clocks["random"])
            hooks = times["random"].median(clock) * 1e3 - own - floor
            row |= {
                "limit": limit,
                "share": row["speedup"] / limit,
                "causal_limit": causal,
                "causal_share": row["speedup"] / causal,
                "limit_ms": full / limit,
                "causal_ms": full / causal - full / limit,
                "rate_ms": floor - full / causal,
                "hooks_ms": hooks,
                **spent,
                "other_ms": row["ms"] - floor - hooks - sum(spent.values()),
            }
        rows.append(row)
    return {
        "depth": depth,
        "visual": visual,
        "kept": kept,
        "methods": rows,
        "info": info["d2pruner, diagnosed"],
    }


def limits(text_config: Any, visual: int, text: int, kept: int, layer: int) -> tuple[float, float]:
    """Speed-up by the decoder's FLOPs: attention over the full square, and over its causal half."""
    c = text_config
    width = c.num_attention_heads * (getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads)

    def both(keep_n: int | None) -> tuple[int, int]:
        square = decoder_flops(c, visual, text, keep_n=keep_n, layer=layer)[0]
        lengths = layer_lengths(c.num_hidden_layers, visual, text, keep_n=keep_n, layer=layer)
        # two products of n x n by the heads' width, of which (n^2 - n) / 2 entries are never looked at
        return square, square - sum(2 * (n * n - n) * width for n in lengths)

    (full, full_causal), (cut, cut_causal) = both(None), both(kept)
    return full / cut, full_causal / cut_causal


def _plain(vlm: VLM, encoded: Encoded) -> Any:
    return vlm.forward(encoded, logits_to_keep=1, use_cache=True)


if __name__ == "__main__":
    main()
