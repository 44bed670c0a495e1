"""Decode steps of fixed shapes against transformers' own loop, pruned and not, one prompt and many.

    python -m benchmarks.decode

Answers of the embedded grounder to the scenes, all of one length, from the same prefill; both ways take turns. A second
table: a sweep, whose answers are decoded together, by either way. CUDA graphs are measured by ``benchmarks.gpu``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

import biaslab as bl
from biaslab.datasets.base import take
from biaslab.evaluation.configurations import Config, configurations
from biaslab.evaluation.run_once import GenerationOptions, run_once
from biaslab.evaluation.stopwatch import interleaved
from biaslab.evaluation.worker import Worker, WorkItem
from biaslab.models.encoded import Encoded
from biaslab.models.vlm import VLM

from .common import arguments, measured_clock, numbers
from .report import Report, Table, Target

WAYS = ("dynamic", "static")
SWEEP = ("none", "random", "fastv", "divprune", "relative:debias=none")
KEEP = 0.1


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write the report."""
    parser = arguments("benchmarks.decode", __doc__, repeats=5)
    parser.add_argument("--layer", type=int, default=4, help="K (default 4)")
    parser.add_argument("--batch-sizes", type=numbers(int), default=[1, 8, 32])
    parser.add_argument("--new-tokens", type=int, default=26, help="length of an answer (default 26)")
    parser.add_argument("--n", type=int, default=16, help="expressions of the sweep (default 16)")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    report(options.layer, options.batch_sizes, options.new_tokens, options.n, options.repeats, options.threads).publish(
        options.out
    )


def report(layer: int, batch_sizes: Sequence[int], tokens: int, n: int, repeats: int, threads: int) -> Report:
    """Measure single runs at every batch size, and a sweep."""
    vlm, clock = bl.load("grounder"), measured_clock(threads)
    now = time.process_time if clock == "cpu" else time.perf_counter
    rows = [row for size in batch_sizes for row in steps(vlm, size, layer, tokens, repeats, now)]
    swept = sweep(vlm, n, layer, repeats, now)
    columns = {
        "batch": ("B", "d"), "method": ("method", ""), "dynamic": ("dynamic, ms a step", ".2f"),
        "static": ("static", ".2f"), "ratio": ("static / dynamic", ".2f"), "equal": ("answers equal", "d"),
    }  # fmt: skip
    both = {
        "batch": ("batch", "d"), "lines": ("lines", "d"), "dynamic": (f"dynamic, {clock} s", ".1f"),
        "static": ("static", ".1f"), "ratio": ("static / dynamic", ".2f"), "equal": ("answers equal", "d"),
    }  # fmt: skip
    targets = [
        Target(f"B = {row['batch']}, {row['method']}: time of a static step over a dynamic one", row["ratio"], 1.0)
        for row in rows
    ]
    answers = [(row["equal"], row["batch"]) for row in rows] + [(row["equal"], row["lines"]) for row in swept]
    equal = sum(same for same, _ in answers) / sum(of for _, of in answers)
    targets.append(Target("share of the answers that are identical", equal, 1.0, least=True))
    return Report(
        name="decode",
        title="Decoding by a static step against transformers' own loop",
        settings={"model": "grounder, 10 layers x 4 heads", "layer": layer, "keep": KEEP, "new_tokens": tokens,
                  "repeats": repeats, "threads": threads, "sweep": SWEEP},
        tables=[
            Table(f"A decode step of the whole batch, median of {repeats} rounds, {clock} time", columns, rows),
            Table("A sweep, decoded in either way", both, swept),
        ],
        targets=targets,
        notes=[
            "a step: everything from the prefill's logits to the end of generate, over the tokens after the first; of "
            "the static way the taking over of the cache and the look at the model are in it",
            "ratio: the median over rounds of neighbours in time",
        ],
    )  # fmt: skip


def steps(
    vlm: VLM, batch: int, layer: int, tokens: int, repeats: int, now: Callable[[], float]
) -> list[dict[str, Any]]:
    """One row for the unpruned model and one for a pruned one."""
    samples = list(take(bl.load_dataset("scenes"), batch))
    encoded = vlm.encode_grounding([s.image() for s in samples], [s.expression for s in samples])
    ready = vlm.vision(encoded)
    configs = {"none": Config(None, None), "random": configurations("random", KEEP, layer)[0]}
    spent: dict[tuple[str, str], list[float]] = {(name, way): [] for name in configs for way in WAYS}
    said: dict[tuple[str, str], list[str]] = {}
    for turn, (name, way) in interleaved(list(spent), repeats):
        seconds, answers = decoding(vlm, ready, configs[name], way, tokens, now)
        said[name, way] = answers
        if turn >= 0:
            spent[name, way].append(1e3 * seconds / (tokens - 1))
    return [
        {
            "batch": batch, "method": name, **{way: statistics.median(spent[name, way]) for way in WAYS},
            "ratio": ratio(spent[name, "static"], spent[name, "dynamic"]),
            "equal": sum(a == b for a, b in zip(said[name, "static"], said[name, "dynamic"], strict=True)),
            "rounds": {way: spent[name, way] for way in WAYS},
        }
        for name in configs
    ]  # fmt: skip


def decoding(
    vlm: VLM, ready: Encoded, config: Config, way: str, tokens: int, now: Callable[[], float]
) -> tuple[float, list[str]]:
    """Seconds from the decoder's second call to the end, and the answers."""
    marks: list[float] = []
    handle = vlm.decoder.register_forward_pre_hook(lambda *_: marks.append(now()) if len(marks) < 2 else None)
    try:
        options = GenerationOptions(max_new_tokens=tokens, decode=way)
        answers = run_once(vlm, ready, config, options, full_length=True).answers
        return now() - marks[1], answers
    finally:
        handle.remove()


def sweep(vlm: VLM, n: int, layer: int, repeats: int, now: Callable[[], float]) -> list[dict[str, Any]]:
    """One row: the lines of a sweep, and what it takes in either way."""
    configs = configurations(SWEEP, [0.5, KEEP], layer)
    samples = list(take(bl.load_dataset("scenes"), n))
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    said: dict[str, list[str]] = {}
    for turn, way in interleaved(WAYS, max(1, repeats // 2)):
        lines: list[dict[str, Any]] = []
        tasks = [WorkItem(i, s, tuple(range(len(configs)))) for i, s in enumerate(samples[: n if turn >= 0 else 2])]
        start = now()
        Worker(vlm, configs, GenerationOptions(decode=way), lines.append).run(tasks, 8)
        if turn >= 0:
            spent[way].append(now() - start)
            said[way] = [line["answer"] for line in lines]
    pairs = zip(said["static"], said["dynamic"], strict=True)
    return [
        {
            "batch": 8, "lines": len(said["static"]), **{way: statistics.median(spent[way]) for way in WAYS},
            "ratio": ratio(spent["static"], spent["dynamic"]), "equal": sum(a == b for a, b in pairs),
        }
    ]  # fmt: skip


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median over the rounds of one time over the other."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    main()
