"""Several expressions of each image in a sweep: the tokens up to the end of the image once, against whole rows.

    python -m benchmarks.expressions --expressions 6

Both ways share everything else that the configurations of `benchmarks.sweep` have in common, and run in turn in one
process on the same expressions of the scenes; one run for each configuration is the reference for their lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import count
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

import biaslab as bl
from biaslab.datasets.sample import Sample
from biaslab.datasets.scenes import cached_scene
from biaslab.evaluation.configurations import Config, configurations
from biaslab.evaluation.sweep import prefix
from biaslab.models.vlm import VLM
from biaslab.scenes import expressions

from . import sweep
from .common import arguments, measured_clock, numbers
from .parts import BELOW, SELECT, UNPRUNED
from .report import Report, Table, Target

WAYS = ("rows", "images")


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write the report."""
    parser = arguments("benchmarks.expressions", __doc__, repeats=3)
    parser.add_argument("--layer", type=int, default=4, help="K (default 4)")
    parser.add_argument("--batch-sizes", type=numbers(int), default=[12])
    parser.add_argument("--expressions", type=numbers(int), default=[3, 6], help="of each image")
    parser.add_argument("--methods", type=numbers(str), default=list(sweep.METHODS))
    parser.add_argument("--keep", type=numbers(float), default=list(sweep.KEEPS))
    parser.add_argument("--n", type=int, default=24, help="expressions, at least; a batch at the least (default 24)")
    parser.add_argument("--calibration", type=int, default=32, help="scenes that the profile is fitted on (default 32)")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    report(options).publish(options.out)


def report(options: Any) -> Report:
    """Both ways at every batch size and number of expressions."""
    vlm, clock = bl.load("grounder"), measured_clock(options.threads)
    profile = sweep.profile(vlm, options.layer, options.calibration)
    configs = configurations(options.methods, options.keep, options.layer, profile)
    rows, targets = [], []
    for each in options.expressions:
        for size in options.batch_sizes:
            row = measured(vlm, configs, each, size, max(options.n, size), options.layer, clock, options.repeats)
            rows.append(row)
            targets.append(
                Target(f"{each} of an image, batch {size}: answers as of one run for each configuration",
                       row["answers"] / row["lines"], 1.0, least=True)
            )  # fmt: skip
    columns = {"each": ("of an image", "d"), "batch": ("batch", "d"), "lines": ("lines", "d")}
    for part, name in ((BELOW, "layers < K"), (UNPRUNED, "unpruned, layers >= K"), (SELECT, "selection")):
        columns |= {
            f"rows {part}": (f"{name}, {clock} s", ".3f"), f"images {part}": ("images once", ".3f"),
            f"x {part}": ("x faster", ".2f"),
        }  # fmt: skip
    columns |= {
        "rows": (f"whole sweep, {clock} s", ".2f"), "images": ("images once", ".2f"), "x": ("x faster", ".3f"),
        "answers": ("answers equal", "d"), "kept": ("kept equal", "d"),
    }  # fmt: skip
    return Report(
        name="expressions",
        title="Several expressions of each image in a sweep: images once against whole rows",
        settings={"model": "grounder, 10 layers x 4 heads", "methods": options.methods, "keep": options.keep,
                  "layer": options.layer, "configurations": len(configs), "repeats": options.repeats,
                  "threads": options.threads},
        tables=[Table("In turn, medians", columns, rows)],
        targets=targets,
        notes=[
            "equal: with one run for each configuration, on the same batches",
            "unpruned, layers >= K: the prefill of the unpruned model that configurations share, beyond their layers",
        ],
    )  # fmt: skip


def measured(
    vlm: VLM, configs: Sequence[Config], each: int, size: int, n: int, layer: int, clock: str, repeats: int
) -> dict[str, Any]:
    """One row of the table."""
    samples = list(expressions_of_scenes(each, n))

    def run(way: str) -> dict[str, Any]:
        whole = patch.object(prefix, "image_plan", lambda *args: None) if way == "rows" else nullcontext()
        with whole:
            return sweep.evaluate(vlm, configs, n, size, layer, clock, plain=way == "plain", samples=samples)

    sweep.evaluate(vlm, configs, size, size, layer, clock, plain=False, samples=samples)  # warms up
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for turn in range(repeats):
        for way in WAYS[:: 1 if turn % 2 == 0 else -1]:
            runs[way].append(run(way))
    plain = run("plain")["lines"]
    row: dict[str, Any] = {"each": each, "batch": size, "lines": len(plain)}
    for name, key in (("", "s"), *((part, part) for part in (BELOW, UNPRUNED, SELECT))):
        for way in WAYS:
            row[f"{way} {name}".strip()] = float(np.median([value(found, key) for found in runs[way]]))
        pairs = zip(runs["rows"], runs["images"], strict=True)
        row[f"x {name}".strip()] = float(np.median([value(a, key) / max(value(b, key), 1e-9) for a, b in pairs]))
    lines = runs["images"][0]["lines"]
    return row | {"answers": sweep.equal(plain, lines, ("answer", "box")), "kept": sweep.equal(plain, lines, ("kept",))}


def value(found: dict[str, Any], key: str) -> float:
    """Seconds of a part, or of all."""
    return found["s"] if key == "s" else found["parts"].get(key, 0.0)


def expressions_of_scenes(each: int, n: int) -> Iterator[Sample]:
    """Make ``n`` referring expressions of the test scenes, up to ``each`` of an image."""
    made = 0
    for index in count():
        shown = cached_scene("test", index)
        width, height = shown.image.size
        for k, one in enumerate(expressions.sample(np.random.default_rng([index, each]), shown.objects, each)):
            if made == n:
                return
            made += 1
            target = shown.objects[one.target]
            yield Sample(
                id=f"{shown.id}-{k}", image_id=shown.id, expression=one.text, box=target.box, width=width,
                height=height, expression_type=one.expression_type, object_size=target.object_size,
                loader=partial(_image, index),
            )  # fmt: skip


def _image(index: int) -> Any:
    return cached_scene("test", index).image


if __name__ == "__main__":
    main()
