"""Where the time of an answer goes, with and without pruning, beside what was computed for it."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks import inputs
from biaslab.evaluation.configurations import Config
from biaslab.evaluation.decoding.step_graph import GraphedStates
from biaslab.evaluation.run_once import GenerationOptions, run_once
from biaslab.models.encoded import Encoded
from biaslab.models.vlm import VLM
from biaslab.pruning import budget, make

from .models import LAYER, large, prompts
from .plan import Columns, Findings, Plan
from .roofline import H100, Parts, computed
from .timing import Clock, Timed, free, in_turn

__all__ = ["run"]

KEEP = 0.1
METHODS = ("none", "fastv", "divprune", "d2pruner", "lookahead")
ALSO = ("none", "d2pruner", "lookahead")  # decoded in a second way as well
COMPUTED = ("none", "d2pruner")
TIMES: Columns = {
    "batch": ("B", "d"), "n": ("N", "d"), "method": ("method", ""), "decoded": ("decode by", ""),
    "vision": ("vision", ".1f"), "below": ("below K", ".2f"), "rows": ("of it rows", ".2f"),
    "select": ("selection", ".2f"), "above": ("from K on", ".2f"),
    "decode": ("decode", ".1f"), "answer": ("answer", ".1f"),
    "speedup": ("x faster", ".2f"), "prefill_speedup": ("x faster, prefill", ".2f"), "peak_mb": ("peak MiB", ".0f"),
    "mallocs": ("cudaMalloc", ".0f"),
    "why": ("remark", ""),
}  # fmt: skip
BESIDE: Columns = {
    "batch": ("B", "d"), "method": ("method", ""), "decoded": ("decode by", ""), "part": ("part", ""),
    "computed": ("computed ms", ".2f"),
    "measured": ("measured ms", ".2f"), "ratio": ("measured / computed", ".2f"),
    "share": ("share of the answer", ".0%"),
}  # fmt: skip
_PARTS = {"vision": "vision", "below": "below K", "select": "selection", "above": "from K on", "decode": "decode",
          "answer": "answer"}  # fmt: skip
FASTER: Columns = {
    "batch": ("B", "d"), "decoded": ("decode by", ""), "computed": ("computed, selection for nothing", ".2f"),
    "measured": ("measured", ".2f"),
    "prefill": ("of it prefill alone", ".2f"),
}  # fmt: skip


def run(plan: Plan, findings: Findings) -> None:
    """Measure every batch size and method."""
    vlm = large(plan)
    for batch in plan.batch_sizes:
        encoded = prompts(vlm, batch)
        tower = in_turn({"vision": lambda encoded=encoded: vlm.vision(encoded)}, plan)["vision"]
        if tower.median is None:
            findings.add("An answer by its parts", TIMES, {"batch": batch, "method": "vision", "why": tower.why})
            if tower.failed:
                findings.fail(f"phases, B = {batch}, vision: {tower.why}")
            continue
        answers(plan, findings, vlm, vlm.vision(encoded), tower)
        del encoded
        free(plan.device)
    findings.note(
        f"per answer, ms; answers of {plan.new_tokens} tokens, no padding; keep {KEEP:.0%}, K = {LAYER}, of look-ahead "
        "K = 0, with a student of random weights: then every layer sees as few tokens. Random weights make D2Pruner "
        "another graph than trained ones"
    )
    findings.note(
        "decode by: dynamic is the eager loop of transformers with its DynamicCache; graph repeats a step of fixed "
        "shapes by a CUDA graph, captured in the round that warms up; static is that step, eager (in place of graph on "
        "a CPU). The KV cache of a captured step stays between rounds: it is no part of the peak"
    )
    findings.note(
        "cudaMalloc: how often an answer had to ask for memory because the caching allocator had no block of a size; "
        "rounds_ms in gpu.json has it by round, beside the times"
    )
    findings.note(
        f"computed for an {H100}; another card has other figures. With graphs a step has no host time. Selection is "
        "not computed"
    )
    findings.note(
        "selection and rows: the engine's own clock, which waits for the device before and after; decode: the clock of "
        "`bench`, which waits at its beginning and end; everything else: CUDA events"
    )


def answers(plan: Plan, findings: Findings, vlm: VLM, ready: Encoded, tower: Timed) -> None:
    """Measure every method on one batch whose image features are there."""
    batch, layout = len(ready), ready.layouts[0]
    profiles = {"d2pruner": inputs.profile(layout, LAYER - 1, vlm), "lookahead": inputs.RandomStudent()}
    second = "graph" if plan.device.type == "cuda" else "static"
    pairs = [(name, "dynamic") for name in METHODS] + [(name, second) for name in ALSO]
    spent: dict[tuple[str, str], list[dict[str, float]]] = {pair: [] for pair in pairs}
    graphs = GraphedStates(len(ALSO))

    def answer(name: str, way: str) -> Any:
        own = {"profile": profiles[name]} if name in profiles else {}
        method = None if name == "none" else make(name, keep=KEEP, **own)
        layer = _layer(name)
        with moments(vlm, layer, Clock(plan.device)) as parts, warnings.catch_warnings():
            warnings.filterwarnings("error", "decode=")  # another way than asked for is a failure here
            options = GenerationOptions(max_new_tokens=plan.new_tokens, decode=way)
            config = Config(method, None if method is None else layer)
            before = segments(plan.device)
            done = run_once(vlm, ready, config, options, full_length=True, timed=True, graphs=graphs)
        made = segments(plan.device) - before
        spent[name, way].append(
            {**parts(), "decode": done.timer.decode_ms or 0.0, **done.selection_times, "mallocs": made}
        )
        return done

    rounds = plan.rounds + 2 * (batch > 1)  # there the first ones took other times than those that follow
    times = in_turn({f"{name}, {way}": partial(answer, name, way) for name, way in pairs}, plan, rounds)
    graphs.clear()
    full: dict[str, Any] = {}
    wanted: dict[str, Parts] = {}
    for name, way in pairs:
        found = times[f"{name}, {way}"]
        row: dict[str, Any] = {"batch": batch, "n": ready.last + 1, "method": name, "decoded": way, "why": found.why}
        if found.ms:
            mine = spent[name, way][-len(found.ms) :]
            row |= _row(mine, tower, batch, _layer(name)) | {"peak_mb": found.peak_mb}
            row["mallocs"] = statistics.median(one["mallocs"] for one in mine)
            row["rounds_ms"] = {"vision": tower.ms, "batch": mine}
            full = row if name == "none" else full  # of the same way to decode
            if full.get("decoded") == way:
                row["speedup"] = full["answer"] / row["answer"]
                row["prefill_speedup"] = full["prefill"] / row["prefill"]
        findings.add("An answer by its parts", TIMES, row)
        if found.failed:
            findings.fail(f"phases, B = {batch}, {name}, {way}: {found.why}")
        if found.ms and name in COMPUTED:
            kept = None if name == "none" else budget(KEEP, layout.n)
            card = H100 if way != "graph" else replace(H100, step=0.0)
            n_text = ready.last + 1 - layout.n
            want = computed(vlm.model.config, layout, n_text, kept, LAYER, plan.new_tokens, batch, card)
            _beside(findings, row, want)
            if name == "none":
                wanted[way] = want
            elif way in wanted and "speedup" in row:
                faster = {"computed": wanted[way].answer / want.answer, "measured": row["speedup"]}
                findings.add(
                    "D2Pruner: times faster than unpruned", FASTER,
                    {"batch": batch, "decoded": way, **faster, "prefill": row["prefill_speedup"]},
                )  # fmt: skip


def _layer(name: str) -> int:
    return 0 if name == "lookahead" else LAYER


def _row(rounds: list[dict[str, float]], tower: Timed, batch: int, layer: int) -> dict[str, float]:
    """Medians over the rounds, per answer."""
    middle = {key: statistics.median(one.get(key, 0.0) for one in rounds) / batch
              for key in ("below", "above", "decode", "attention_ms", "select_ms")}  # fmt: skip
    # selected and cut in front of layer K: behind the mark there, before the decoder ahead of it
    below, above = middle["below"], middle["above"]
    below, above = (below, above - middle["select_ms"]) if layer else (below - middle["select_ms"], above)
    vision = (tower.median or 0.0) / batch
    prefill = middle["below"] + middle["above"]
    return {"vision": vision, "below": below, "rows": middle["attention_ms"], "select": middle["select_ms"],
            "above": above, "decode": middle["decode"], "prefill": prefill,
            "answer": vision + prefill + middle["decode"]}  # fmt: skip


def _beside(findings: Findings, row: dict[str, Any], want: Parts) -> None:
    """Rows of one method: its parts and their sum, computed and measured."""
    for part, title in _PARTS.items():
        if part == "select" and not row[part]:
            continue
        expected = getattr(want, part, None)
        findings.add("Computed and measured", BESIDE, {
            **{key: row[key] for key in ("batch", "method", "decoded")}, "part": title, "computed": expected,
            "measured": row[part], "ratio": expected and row[part] / expected, "share": row[part] / row["answer"],
        })  # fmt: skip


def segments(device: torch.device) -> int:
    """Count the pieces of memory that torch has asked a device for so far; 0 where that is no CUDA device."""
    return torch.cuda.memory_stats(device).get("segment.all.allocated", 0) if device.type == "cuda" else 0


@contextmanager
def moments(vlm: VLM, layer: int, clock: Clock) -> Iterator[Any]:
    """Mark where the decoder begins, reaches layer K, and begins again; yields what tells the time in between.

    Entered before a pruning block, whose hooks then run behind these: the selection lies behind the mark at layer K.
    """
    starts: list[Any] = []
    at_layer: list[Any] = []

    def start(module: torch.nn.Module, args: tuple) -> None:
        if len(starts) < 2:
            starts.append(clock.mark())

    def reach(module: torch.nn.Module, args: tuple) -> None:
        if not at_layer:
            at_layer.append(clock.mark())

    handles = [
        vlm.decoder.register_forward_pre_hook(start),
        vlm.decoder.layers[layer].register_forward_pre_hook(reach),
    ]

    def parts() -> dict[str, float]:
        return {"below": clock.ms(starts[0], at_layer[0]), "above": clock.ms(at_layer[0], starts[1])}

    try:
        yield parts
    finally:
        for handle in handles:
            handle.remove()
