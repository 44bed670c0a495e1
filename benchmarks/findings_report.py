"""The tables of `benchmarks.findings`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.findings_rows import (
    TwoTasks,
    border_rows,
    category_rows,
    depth_rows,
    gap_rows,
    pair_rows,
    part_rows,
    place_rows,
    with_own_words,
)
from benchmarks.gallery_pool import TASKS
from benchmarks.report import Report, Table, percent
from biaslab.scenes.gallery import grid_of

__all__ = ["MIDDLE", "MILD", "of_test", "of_unfamiliar"]

#: cost of the tables that show one
MIDDLE = "FLOPs of 10% before K = 2"
#: cost of the tables that show some methods
MILD = "FLOPs of 50% before K = 2"
_GAPS: dict[str, tuple[str, str]] = {
    "method": ("method", ""), "place": ("best K", ""), "boxes": ("boxes kept", ""), "questions": ("questions kept", ""),
    "gap": ("questions minus boxes", ""), "seen_boxes": ("boxes above the floor", ""),
    "seen_questions": ("questions above the floor", ""), "seen_gap": ("questions minus boxes above the floor", ""),
    "significant": ("significant", ""), "minus_boxes": ("boxes minus DivPrune", ""), "p_boxes": ("p", ".4f"),
    "minus_questions": ("questions minus DivPrune", ""), "p_questions": ("p", ".4f"),
}  # fmt: skip
_PAIRS: dict[str, tuple[str, str]] = {
    "what": ("", ""), "boxes": ("boxes", ""), "p_boxes": ("p", ".4f"), "questions": ("questions", ""),
    "p_questions": ("p", ".4f"),
}  # fmt: skip
_CUT: dict[str, tuple[str, str]] = {
    "what": ("", ""), "cut": ("cut by a border", ""), "whole": ("not cut", ""), "gap": ("difference", ""),
}  # fmt: skip
DEPTH: dict[str, tuple[str, str]] = {
    "k": ("K", "d"), "explained": ("explained by position", ".2f"), "auroc": ("AUROC of the target, %", ""),
    **{f"{m}_{task}": (f"{m}, {task}", "") for task in TASKS for m in ("fastv", "relative", "divprune")},
    "boxes": ("debiasing, boxes", ""), "p_boxes": ("p", ".4f"), "questions": ("debiasing, questions", ""),
    "p_questions": ("p", ".4f"),
}  # fmt: skip


def of_test(
    kept: pd.DataFrame,
    by_task: Mapping[str, Mapping[str, pd.DataFrame]],
    data: Mapping[str, Any],
    taken: Mapping[str, tuple[str, str]],
    more: Mapping[str, Mapping[str, Mapping[str, pd.DataFrame]]],
    explained: Mapping[int, float],
    options: argparse.Namespace,
) -> Report:
    """Lay out what was measured on test.

    ``kept`` are the chosen rows; ``taken`` are pairs of words (`benchmarks.findings_methods.taken_apart`); ``more``
    holds lines of other runs: with positions renumbered, and with parts of the image (labels in the place of words).
    """
    both = TwoTasks.from_lines(by_task, data)
    best = kept[kept["best"]]
    apart = [both_tasks for both_tasks in (with_own_words(best), _each_its_own(kept)) if len(both_tasks)]
    rows = gap_rows(pd.concat(apart, ignore_index=True), both)
    middle = best[best["cost"] == MIDDLE]
    kinds = {task: np.array([sample.expression_type for sample in data[task]]) for task in TASKS}
    tiled = {task: np.array([grid_of((s.width, s.height)) != (1, 1) for s in data[task]]) for task in TASKS}
    renumbered, parts = (TwoTasks.from_lines(more[name], data) for name in ("renumbered", "parts"))
    pairs = {name: _pair(both, with_, both, without) for name, (with_, without) in taken.items()}
    pairs |= {
        f"positions kept, not renumbered (`{word}`)": _pair(both, word, renumbered, word)
        for word in renumbered.hits["boxes"] if word != "none"
    }  # fmt: skip
    boxes = list(data["boxes"])
    tables = [
        Table(str(cost), _GAPS, [row for row in rows if row["cost"] == cost]) for cost in dict.fromkeys(best["cost"])
    ]
    tables += [
        Table(f"by type and category, {MIDDLE}", *_rows(category_rows(middle, both, kinds), "method")),
        Table(f"what is worth how much, in points of accuracy, at {MIDDLE}", _PAIRS, pair_rows(pairs, both)),
        Table("10% kept before layer K: kept of the accuracy, and what debiasing is worth in points", DEPTH,
              depth_rows(both, explained)),
        Table("one part of the image alone from layer K on, images of several tiles: kept of the accuracy",
              *_rows(part_rows(both, parts, tiled), "what")),
        Table(f"boxes by the target's place, {MIDDLE}: kept of the accuracy",
              *_rows(place_rows(middle, both, boxes), "method")),
        Table(f"targets that the border of two tiles cuts, {MIDDLE}: kept of the accuracy", _CUT,
              border_rows(middle, both, boxes)),
    ]  # fmt: skip
    unpruned = {task: percent(both.bootstrap().mean(both.column(task, "none"))) for task in TASKS}
    return Report(
        name="findings", title="Boxes and questions under pruning",
        settings={
            "model": options.model, "split": "test", "images": len(set(both.images)),
            **{task: f"{len(data[task])}, unpruned {unpruned[task]}" for task in TASKS}, "device": options.device,
            **options.stamp,
        },
        tables=tables,
        notes=[
            "percent of the unpruned accuracy unless points are said, with 95 % intervals (bootstrap over images, "
            "which both tasks share); no sample failed",
            "above the floor: of the accuracy above that with one visual token, which is guessing; significant: this "
            "gap's interval at a confidence of 1 - .05 / number of rows of all tables of costs does not hold 0",
            "best K: of all places that the cost allows, where most of both tasks is kept on validation; own: the "
            "method's own schedule; a line 'each task' has a place for each, chosen on that task",
            "p: family-wise over the lines of all costs, or of the table, each task by itself (max-T)",
            "costs are FLOPs of the decoder's prefill, matched on the mean over images; those of the tower and of the "
            "choice of tokens are not in them",
            "cut by a border: at least a tenth of the target's side lies beyond it; images of more tiles have more of "
            "these, and no p is given",
        ],
    )  # fmt: skip


def _each_its_own(kept: pd.DataFrame) -> pd.DataFrame:
    """Give the methods of the middle cost whose best places differ between the tasks a place for each."""
    rows = []
    for method, own in kept[kept["cost"] == MIDDLE].groupby("method", sort=False):
        chosen = {task: own[own[f"best_{task}"]].iloc[0] for task in TASKS}
        if len({line["word"] for line in chosen.values()}) > 1:
            place = ", ".join(str(line["place"]) for line in chosen.values())
            rows.append({
                "cost": MIDDLE, "method": f"{method}, each task", "place": place,
                **{task: line["word"] for task, line in chosen.items()},
            })  # fmt: skip
    return pd.DataFrame(rows)


def _pair(one: TwoTasks, with_: str, other: TwoTasks, without: str) -> tuple[np.ndarray, ...]:
    return tuple(side for task in TASKS for side in (one.column(task, with_), other.column(task, without)))


def _rows(rows: list[dict[str, Any]], first: str) -> tuple[dict[str, tuple[str, str]], list[dict[str, Any]]]:
    return {key: ("" if key == first else key, "") for row in rows for key in row}, rows


def of_unfamiliar(
    kept: pd.DataFrame, found: Mapping[str, tuple[Mapping, Mapping[str, Any]]], options: argparse.Namespace
) -> Report:
    """Lay out what is kept on unfamiliar images: all of them together, in points against DivPrune, and by domain.

    The first line is the unpruned accuracy.
    """
    pooled = TwoTasks.from_lines(*_pooled(list(found.values())))
    words = dict(zip(kept["method"], kept["word"], strict=True))
    rows: list[dict[str, Any]] = [{"method": "none (accuracy)"}, *({"method": method} for method in words)]
    for name, both in {"all": pooled, **{domain: TwoTasks.from_lines(*run) for domain, run in found.items()}}.items():
        bootstrap = both.bootstrap()
        for task in TASKS:
            rows[0][f"{task}, {name}"] = percent(bootstrap.mean(both.column(task, "none")))
            for row, word in zip(rows[1:], words.values(), strict=True):
                row[f"{task}, {name}"] = percent(bootstrap.ratio(*both.parts(task, word)))
    pairs = {
        method: _pair(pooled, word, pooled, words["divprune"]) for method, word in words.items() if method != "divprune"
    }
    against = {pair["what"]: pair for pair in pair_rows(pairs, pooled)}
    for row in rows:
        pair = against.get(row["method"], {})
        for task in TASKS if pair else ():
            row |= {f"{task} minus DivPrune": pair[task], f"p, {task}": f"{pair[f'p_{task}']:.4f}"}
    return Report(
        name="findings-unfamiliar", module="findings", title="Unfamiliar images: what is kept of boxes and questions",
        settings={
            "model": options.model, "split": "test", "images": len(options.images), "device": options.device,
            **{domain: ", ".join(f"{len(data[t])} {t}" for t in TASKS) for domain, (_, data) in found.items()},
            **options.stamp,
        },
        tables=[Table(MIDDLE, *_rows(rows, "method"))],
        notes=[
            "places chosen on familiar validation images; intervals as in findings.md; all: the three domains together",
            "minus DivPrune: points of accuracy, all domains; p: family-wise over the lines of a task (max-T)",
        ],
    )  # fmt: skip


def _pooled(runs: Sequence[tuple[Mapping, Mapping[str, Any]]]) -> tuple[dict[str, dict], dict[str, list]]:
    """Put the lines and samples of several domains behind each other."""
    lines = {
        task: {word: pd.concat([by_task[task][word] for by_task, _ in runs]) for word in runs[0][0][task]}
        for task in TASKS
    }
    return lines, {task: [sample for _, data in runs for sample in data[task]] for task in TASKS}
