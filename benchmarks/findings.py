"""What pruning costs on two tasks: every method at equal cost on the observer, boxes and questions on the same images.

Each step goes on where it was interrupted:

    python -m benchmarks.findings choose --profiles positional.safetensors heads.safetensors ahead.safetensors
    python -m benchmarks.findings test --profiles ...
    python -m benchmarks.findings unfamiliar --profiles ...

Costs, places and what is chosen on validation are as in `benchmarks.fair`; the best place of a method is that where it
keeps most of both tasks' accuracy on average. ``unfamiliar`` runs some methods, at their places of ``test``, on images
whose drawings and backgrounds training never shows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import biaslab as bl
from benchmarks import findings_report
from benchmarks.common import arguments, evaluation_arguments
from benchmarks.fair import LAYERS, candidates, hits, published_layer
from benchmarks.fair_methods import METHODS
from benchmarks.findings_methods import DEPTHS, KEPT_PARTS, LEFT_OUT, UNFAMILIAR, at_depths, taken_apart
from benchmarks.gallery_pool import TASKS, tasks
from benchmarks.lookahead import costs

__all__ = ["measured", "with_best"]

SHARES = (0.156,)
BEFORE_2 = (0.1, 0.2)


def measured(
    vlm: bl.VLM, data: Mapping, words: Iterable[str], options: argparse.Namespace, folder: str, **more: Any
) -> dict[str, dict[str, pd.DataFrame]]:
    """Run words on every task: task -> word -> hit, overlap and error of every sample."""
    words = list(dict.fromkeys(["none", *words]))
    return {task: hits(vlm, data[task], words, options, options.runs / f"{folder}-{task}", **more) for task in TASKS}


def with_best(table: pd.DataFrame, by_task: Mapping[str, Mapping[str, pd.DataFrame]]) -> pd.DataFrame:
    """Add to rows cost, method, place, word what is kept of each task, and which place of a method is its best."""
    table = table.copy()
    for task, by_word in by_task.items():
        full = by_word["none"]["hit"].mean()
        table[task] = [by_word[word]["hit"].mean() / full for word in table["word"]]
    table["kept"] = table[list(by_task)].mean(axis=1)
    table["iou"] = [by_task["boxes"][word]["iou"].mean() for word in table["word"]]
    order = table.sort_values(["kept", "iou"], ascending=False, kind="stable")
    table["best"] = table.index.isin(order.drop_duplicates(["cost", "method"]).index)
    return table


def choose(vlm: bl.VLM, options: argparse.Namespace) -> None:
    """Run all candidates on validation and write down the best place of every method under every cost."""
    data = tasks("validation", options.images)
    methods = [method for method in METHODS if method not in LEFT_OUT]
    found = candidates(vlm, data["boxes"], options.loaded, methods=methods, shares=SHARES, before=BEFORE_2)
    by_task = measured(vlm, data, (c.word for c in found), options, "choose")
    table = with_best(pd.DataFrame([asdict(c) for c in found]), by_task)
    table["published"] = [_is_published(row.method, row.place, vlm.n_layers) for row in table.itertuples()]
    settings = {
        "split": "validation", "images": len(options.images),
        **{task: {"n": len(data[task]), "none": float(by_task[task]["none"]["hit"].mean())} for task in TASKS},
    }  # fmt: skip
    text = json.dumps({"settings": settings, "candidates": table.to_dict("records")}, indent=1)
    (options.runs / "choice.json").write_text(text, encoding="utf-8")


def _is_published(method: str, place: str, n_layers: int) -> bool:
    at = METHODS.get(method)
    if at is None:
        return False
    return place.startswith("own") if at == "own" else place == str(published_layer(int(at), n_layers))


def test(vlm: bl.VLM, options: argparse.Namespace) -> None:
    """Run on test what was chosen and what is published, and what takes the comparison apart; write the tables."""
    table = _choice(options)
    kept = table[table["best"] | table["published"]].reset_index(drop=True)
    data = tasks("test", options.images)
    keeps = next(iter(costs(vlm, data["boxes"], LAYERS, shares=(), before=BEFORE_2[:1]).values()))
    taken = taken_apart(keeps)
    depths = [word for method in ("fastv", "relative", "divprune") for word in at_depths(method).values()]
    words = [*kept["word"], *(word for pair in taken.values() for word in pair), *depths]
    by_task = measured(vlm, data, words, options, "test")
    again = [f"{method}@{json.dumps(keeps[0])}@0" for method in ("divprune", "lookahead")]
    more = {
        "renumbered": measured(vlm, data, again, options, "renumbered", positions="renumber"),
        "parts": parts(vlm, data, options),
    }
    findings_report.of_test(kept, by_task, data, taken, more, options).publish(options.out)


def parts(vlm: bl.VLM, data: Mapping, options: argparse.Namespace) -> dict[str, dict[str, pd.DataFrame]]:
    """Run with the tiles alone and with the thumbnail alone, from several layers on: task -> "part@K" -> hits."""
    found: dict[str, dict[str, pd.DataFrame]] = {}
    for task in TASKS:
        results = bl.evaluate(
            vlm, data[task], methods=list(KEPT_PARTS), keep=1.0, layer=[0, *DEPTHS], reference=None, progress=True,
            out=options.runs / f"parts-{task}", batch_size=options.batch_size, processes=options.processes,
        )  # fmt: skip
        lines = results.samples
        lines["hit"] = lines["hit"].fillna(False).astype(float)
        order = [sample.id for sample in data[task]]
        found[task] = {
            f"{method}@{int(layer)}": own.set_index("id").loc[order]
            for (method, layer), own in lines.groupby([lines["method"].astype(str), "layer"])
        }
    return found


def unfamiliar(vlm: bl.VLM, options: argparse.Namespace) -> None:
    """Run some methods on unfamiliar images, at the places that were chosen on familiar ones."""
    table = _choice(options)
    kept = table[table["best"] & table["method"].isin(UNFAMILIAR)].reset_index(drop=True)
    found = {}
    for domain in ("style", "background", "both"):
        data = tasks("test", options.images, domain=domain)
        found[domain] = (measured(vlm, data, kept["word"], options, f"unfamiliar-{domain}"), data)
    findings_report.of_unfamiliar(kept, found, options).publish(options.out)


def _choice(options: argparse.Namespace) -> pd.DataFrame:
    return pd.DataFrame(json.loads((options.runs / "choice.json").read_text(encoding="utf-8"))["candidates"])


def main(argv: list[str] | None = None) -> None:
    """Run one step."""
    steps = {"choose": (choose, 50), "test": (test, 420), "unfamiliar": (unfamiliar, 150)}
    parser = arguments("benchmarks.findings", __doc__ or "", repeats=1)
    parser.add_argument("step", choices=tuple(steps))
    about = "positional, per head with their quality, conditional"
    parser.add_argument("--profiles", type=Path, nargs="+", default=[], help=about)
    parser.add_argument("--images", type=int, help="images of the split; default 50, of test 420, unfamiliar 150")
    parser.add_argument("--model", default="observer", help="or the folder of another one that was trained as it")
    evaluation_arguments(parser, batch_size=16, runs=Path("runs/findings"))
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    step, n = steps[options.step]
    options.images = range(n if options.images is None else options.images)
    options.runs.mkdir(parents=True, exist_ok=True)
    vlm = bl.load(options.model, device=options.device, dtype="float32")
    options.loaded = [bl.load_profile(path) for path in options.profiles]
    step(vlm, options)


if __name__ == "__main__":
    main()
