"""What pruning costs on two tasks: every method at equal cost on the observer, boxes and questions on the same images.

Each step goes on where it was interrupted:

    python -m benchmarks.findings fit
    python -m benchmarks.findings choose
    python -m benchmarks.findings test
    python -m benchmarks.findings unfamiliar

``fit`` fits the profiles on images of the calibration split, half of them asked for objects, half asked questions
(``--profiles data/observer`` has those of the embedded weights). Costs, places and what is chosen on validation are as
in `benchmarks.fair`, FLOPs alone, with a mild budget more; the best place of a method is that where it keeps most of
both tasks' accuracy on average, and of a task alone. ``test`` runs what was chosen once, on test images that no card
has been measured on; under the mild budget, the dearest, some methods only. ``unfamiliar`` runs these, at their places
of ``test``, on images whose drawings and backgrounds training never shows. What was chosen for other weights or other
profiles is refused.
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
from benchmarks.fair import candidates, hits
from benchmarks.findings_fit import PROFILES, check_tilings, explained, fit_profiles, folder_of_profiles, loaded
from benchmarks.findings_methods import ALL_METHODS, DEPTHS, FLOOR, KEPT_PARTS, SHOWN, at_depths, taken_apart
from benchmarks.findings_report import MIDDLE, MILD
from benchmarks.gallery_pool import TASKS, tasks
from benchmarks.lookahead import costs
from biaslab.errors import BiaslabError, InputError

__all__ = ["measured", "with_best"]

LAYERS = (1, 2, 3, 4, 6)
BEFORE_2 = (0.1, 0.2, 0.5)
#: test images before this one were looked at while the model was trained
FIRST = {"choose": 0, "test": 200, "unfamiliar": 200}
#: an answer has at most 14 tokens
_TOKENS = 32


def measured(
    vlm: bl.VLM, data: Mapping, words: Iterable[str], options: argparse.Namespace, folder: str, **more: Any
) -> dict[str, dict[str, pd.DataFrame]]:
    """Run words on every task of the data: task -> word -> hit, overlap, AUROC and error of every sample.

    Raises
    ------
    BiaslabError
        A sample failed: as a miss it would be held against the method. The same call tries it again.
    """
    words = list(dict.fromkeys(["none", *words]))
    found = {
        task: hits(vlm, samples, words, options, options.runs / f"{folder}-{task}", max_new_tokens=_TOKENS, **more)
        for task, samples in data.items()
    }
    for by_word in found.values():
        for word, lines in by_word.items():
            _refuse_failures(lines, word)
    return found


def _refuse_failures(lines: pd.DataFrame, word: str) -> None:
    if (failed := lines["error"].dropna()).size:
        raise BiaslabError(f"{len(failed)} samples failed under {word}, the first: {failed.iloc[0]}")


def with_best(table: pd.DataFrame, by_task: Mapping[str, Mapping[str, pd.DataFrame]]) -> pd.DataFrame:
    """Add to rows cost, method, place, word what is kept of each task, and which place of a method is its best.

    ``best`` is that of both tasks on average, ``best_boxes`` and ``best_questions`` that of a task.
    """
    table = table.copy()
    for task, by_word in by_task.items():
        full = by_word["none"]["hit"].mean()
        table[task] = [by_word[word]["hit"].mean() / full for word in table["word"]]
    table["kept"] = table[list(by_task)].mean(axis=1)
    table["iou"] = [by_task["boxes"][word]["iou"].mean() for word in table["word"]]
    for name, by in {"best": "kept", **{f"best_{task}": task for task in by_task}}.items():
        order = table.sort_values([by, "kept", "iou"], ascending=False, kind="stable")
        table[name] = table.index.isin(order.drop_duplicates(["cost", "method"]).index)
    return table


def fit(vlm: bl.VLM, options: argparse.Namespace) -> None:
    """Fit the profiles that are missing."""
    sizes = dict.fromkeys(PROFILES, options.calibration) | {"look-ahead": options.look_ahead}
    fit_profiles(vlm, folder_of_profiles(options), sizes)


def choose(vlm: bl.VLM, options: argparse.Namespace) -> None:
    """Run all candidates on validation and write down the best place of every method under every cost."""
    data = _data("validation", options)
    found = candidates(
        vlm, data["boxes"], options.loaded, methods=ALL_METHODS, shares=(), before=BEFORE_2, layers=LAYERS
    )
    by_task = measured(vlm, data, (c.word for c in found), options, "choose")
    table = with_best(pd.DataFrame([asdict(c) for c in found]), by_task)
    keeps = costs(vlm, data["boxes"], LAYERS, shares=(), before=BEFORE_2)
    settings = {
        "split": "validation", "images": len(options.images), **options.stamp,
        **{task: {"n": len(data[task]), "none": float(by_task[task]["none"]["hit"].mean())} for task in TASKS},
    }  # fmt: skip
    choice = {"settings": settings, "keeps": keeps, "candidates": table.to_dict("records")}
    (options.runs / "choice.json").write_text(json.dumps(choice, indent=1), encoding="utf-8")


def test(vlm: bl.VLM, options: argparse.Namespace) -> None:
    """Run on test what was chosen, and what takes the comparison apart; write the tables."""
    table, keeps = chosen(options.runs, options.stamp)
    middle = table["cost"] == MIDDLE
    best = table["best"] & ((table["cost"] != MILD) | table["method"].isin(SHOWN))
    kept = table[best | (middle & (table["best_boxes"] | table["best_questions"]))].reset_index(drop=True)
    data = _data("test", options)
    taken = taken_apart(keeps)
    depths = [word for method in ("fastv", "relative", "divprune") for word in at_depths(method).values()]
    words = [FLOOR, *kept["word"], *(word for pair in taken.values() for word in pair), *depths]
    by_task = measured(vlm, data, words, options, "test")
    more = {
        "renumbered": measured(vlm, data, renumbered(keeps), options, "renumbered", positions="renumber"),
        "parts": parts(vlm, data, options),
    }
    biased = explained(options.loaded)
    findings_report.of_test(kept, by_task, data, taken, more, biased, options).publish(options.out)


def renumbered(keeps: Mapping[int, float]) -> list[str]:
    """List the words that are run with the kept tokens' positions renumbered."""
    return [f"{method}@{json.dumps(keeps[0])}@0" for method in ("divprune", "lookahead")]


def parts(vlm: bl.VLM, data: Mapping, options: argparse.Namespace) -> dict[str, dict[str, pd.DataFrame]]:
    """Run with the tiles alone and with the thumbnail alone, from several layers on: task -> "part@K" -> hits."""
    found: dict[str, dict[str, pd.DataFrame]] = {}
    for task in TASKS:
        results = bl.evaluate(
            vlm, data[task], methods=list(KEPT_PARTS), keep=1.0, layer=[0, *DEPTHS], reference=None, progress=True,
            out=options.runs / f"parts-{task}", batch_size=options.batch_size, processes=options.processes,
            retry_errors=True, max_new_tokens=_TOKENS,
        )  # fmt: skip
        lines = results.verdicts.astype({"id": str, "method": str})
        _refuse_failures(lines, "parts of the image")
        lines["hit"] = lines["hit"].astype(float)
        order = [sample.id for sample in data[task]]
        found[task] = {
            f"{method}@{int(layer)}": own.set_index("id").loc[order]
            for (method, layer), own in lines.groupby(["method", "layer"])
        }
    return found


def unfamiliar(vlm: bl.VLM, options: argparse.Namespace) -> None:
    """Run some methods on unfamiliar images, at the places that were chosen on familiar ones."""
    table, _ = chosen(options.runs, options.stamp)
    kept = table[table["best"] & table["method"].isin(SHOWN) & (table["cost"] == MIDDLE)].reset_index(drop=True)
    found = {}
    for domain in ("style", "background", "both"):
        data = _data("test", options, domain=domain)
        found[domain] = (measured(vlm, data, kept["word"], options, f"unfamiliar-{domain}"), data)
    findings_report.of_unfamiliar(kept, found, options).publish(options.out)


def _data(split: str, options: argparse.Namespace, **more: Any) -> dict[str, Any]:
    data = tasks(split, options.images, **more)
    check_tilings(data, options.loaded)
    return data


def chosen(runs: Path, stamp: Mapping[str, Any]) -> tuple[pd.DataFrame, dict[int, float]]:
    """Read what `choose` wrote: the candidates, and the keep of every layer at the middle cost.

    Raises
    ------
    InputError
        It was chosen for other weights or profiles.
    """
    path = runs / "choice.json"
    if not path.exists():
        raise InputError(f"{path} is not there: run the step choose first")
    choice = json.loads(path.read_text(encoding="utf-8"))
    if other := {name: choice["settings"].get(name) for name in stamp if choice["settings"].get(name) != stamp[name]}:
        raise InputError(f"{path} was chosen for other {', '.join(other)}: move it away and run choose again")
    return pd.DataFrame(choice["candidates"]), {int(k): v for k, v in choice["keeps"][MIDDLE].items()}


def stamp_of(vlm: bl.VLM, profiles: list[Any]) -> dict[str, Any]:
    """Say which weights and which profiles were at work."""
    return {"weights": vlm.fingerprint, "profiles": {name: p.hash for name, p in zip(PROFILES, profiles, strict=True)}}


def main(argv: list[str] | None = None) -> None:
    """Run one step."""
    steps = {"fit": (fit, 0), "choose": (choose, 72), "test": (test, 420), "unfamiliar": (unfamiliar, 150)}
    parser = arguments("benchmarks.findings", __doc__ or "", repeats=1)
    parser.add_argument("step", choices=tuple(steps))
    parser.add_argument("--images", type=int, help="images of the split; default 72, of test 420, unfamiliar 150")
    parser.add_argument("--first", type=int, help="the first of them; default 0, of test and unfamiliar 200")
    parser.add_argument("--calibration", type=int, default=1200, help="images of a profile")
    parser.add_argument("--look-ahead", type=int, default=10_000, help="images of the look-ahead profile")
    parser.add_argument("--profiles", type=Path, help="folder of the profiles; default profiles in --runs")
    parser.add_argument("--model", default="observer", help="or the folder of another one that was trained as it")
    evaluation_arguments(parser, batch_size=16, runs=Path("runs/findings"))
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    step, n = steps[options.step]
    first = FIRST.get(options.step, 0) if options.first is None else options.first
    options.images = range(first, first + (n if options.images is None else options.images))
    options.runs.mkdir(parents=True, exist_ok=True)
    vlm = bl.load(options.model, device=options.device, dtype="float32")
    if options.step != "fit":
        options.loaded = loaded(vlm, folder_of_profiles(options))
        options.stamp = stamp_of(vlm, options.loaded)
    step(vlm, options)


if __name__ == "__main__":
    main()
