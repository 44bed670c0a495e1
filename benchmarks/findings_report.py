"""The tables of `benchmarks.findings`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.findings_methods import DEPTHS, UNFAMILIAR, at_depths
from benchmarks.gallery_pool import TASKS, through_tile_border
from benchmarks.report import Report, Table, percent
from biaslab.scenes.gallery import grid_of
from biaslab.stats.resampling import ImageBootstrap, max_t

__all__ = ["TwoTasks", "of_test", "of_unfamiliar"]

_RESAMPLES = 20_000
_FEWEST = 10  # targets of a class on either side of a comparison
_GAPS: dict[str, tuple[str, str]] = {
    "method": ("method", ""), "place": ("best K", ""), "boxes": ("boxes kept", ""), "questions": ("questions kept", ""),
    "gap": ("questions minus boxes", ""), "beyond": ("beyond chance", ""), "minus_boxes": ("boxes minus DivPrune", ""),
    "minus_questions": ("questions minus DivPrune", ""), "failed": ("failed", "d"),
}  # fmt: skip
_PAIRS: dict[str, tuple[str, str]] = {
    "what": ("", ""), "boxes": ("boxes", ""), "p_boxes": ("p", ".4f"), "questions": ("questions", ""),
    "p_questions": ("p", ".4f"),
}  # fmt: skip
_CUT: dict[str, tuple[str, str]] = {
    "what": ("", ""), "cut": ("cut by a border", ""), "whole": ("not cut", ""), "gap": ("difference", ""),
}  # fmt: skip


@dataclass(frozen=True)
class TwoTasks:
    """Hits of two tasks on the same images, one behind the other; of a task the other's samples are NaN.

    Attributes
    ----------
    images : (n,) array
    of : mapping of str to slice
        Task -> its rows.
    hits : mapping of str to mapping
        Task -> word -> hits of its samples.
    """

    images: np.ndarray
    of: Mapping[str, slice]
    hits: Mapping[str, Mapping[str, np.ndarray]]

    @classmethod
    def from_lines(cls, by_task: Mapping[str, Mapping[str, pd.DataFrame]], data: Mapping[str, Any]) -> TwoTasks:
        """Put the lines of `benchmarks.findings.measured` behind each other."""
        images, of, hits, start = [], {}, {}, 0
        for task in TASKS:
            images += [str(sample.image_id) for sample in data[task]]
            of[task] = slice(start, len(images))
            start = len(images)
            hits[task] = {word: lines["hit"].to_numpy(float) for word, lines in by_task[task].items()}
        return cls(np.array(images), of, hits)

    def column(self, task: str, word: str) -> np.ndarray:
        """Hits of a task, NaN elsewhere."""
        values = np.full(len(self.images), np.nan)
        values[self.of[task]] = self.hits[task][word]
        return values

    def bootstrap(self, confidence: float = 0.95) -> ImageBootstrap:
        """Resample the images of both tasks together."""
        return ImageBootstrap(self.images, n_resamples=_RESAMPLES, confidence=confidence)


def gap_rows(kept: pd.DataFrame, both: TwoTasks, *, lines: int) -> list[dict[str, Any]]:
    """List of the methods of one cost what they keep of each task, and by how much that differs.

    ``lines`` is the number of gaps in all tables: a gap is beyond chance where its interval of confidence
    1 - .05 / lines does not hold 0.
    """
    bootstrap, strict = both.bootstrap(), both.bootstrap(1 - 0.05 / lines)
    reference = kept.loc[kept["method"] == "divprune", "word"].iloc[0]
    rows = []
    for line in kept.itertuples():
        parts = [both.column(task, word) for task in ("questions", "boxes") for word in (line.word, "none")]
        row: dict[str, Any] = {"method": line.method, "place": line.place, "failed": line.failed}
        _, low, high = strict.ratio_contrast(*parts)
        row |= {"gap": percent(bootstrap.ratio_contrast(*parts), "+"), "beyond": "yes" if low > 0 or high < 0 else "no"}
        for task in TASKS:
            values, full = both.column(task, line.word), both.column(task, "none")
            ratio = bootstrap.ratio(values, full)
            row |= {task: percent(ratio), f"{task}_value": ratio[0]}
            if line.method != "divprune":
                row[f"minus_{task}"] = percent(bootstrap.difference(values, both.column(task, reference)), "+")
        rows.append(row)
    return sorted(rows, key=lambda row: -(row["boxes_value"] + row["questions_value"]))


def pair_rows(pairs: Mapping[str, tuple[np.ndarray, ...]], both: TwoTasks) -> list[dict[str, Any]]:
    """List differences of accuracy on both tasks: what -> (boxes with, without, questions with, without)."""
    bootstrap, rows = both.bootstrap(), [{"what": what} for what in pairs]
    for k, task in enumerate(TASKS):
        span = both.of[task]
        differences = [parts[2 * k] - parts[2 * k + 1] for parts in pairs.values()]
        p = max_t(np.stack([d[span] for d in differences], 1), both.images[span]).p_adjusted
        for row, difference, value in zip(rows, differences, p, strict=True):
            row |= {task: percent(bootstrap.mean(difference), "+"), f"p_{task}": float(value)}
    return rows


def category_rows(kept: pd.DataFrame, both: TwoTasks, kinds: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """List what some methods keep of each type of expression and category of question; the first line is accuracy."""
    bootstrap, rows = both.bootstrap(), [{"method": "none (accuracy)"}]
    words = {line.method: line.word for line in kept.itertuples() if line.method in UNFAMILIAR}
    rows += [{"method": method} for method in words]
    for task, of_kind in kinds.items():
        for kind in dict.fromkeys(of_kind):
            only = np.full(len(both.images), np.nan)
            only[both.of[task]] = np.where(of_kind == kind, 1.0, np.nan)
            full = both.column(task, "none") * only
            rows[0][f"{task}: {kind}"] = percent(bootstrap.mean(full))
            for row, word in zip(rows[1:], words.values(), strict=True):
                row[f"{task}: {kind}"] = percent(bootstrap.ratio(both.column(task, word) * only, full))
    return rows


def border_rows(kept: pd.DataFrame, both: TwoTasks, boxes: Sequence[Any]) -> list[dict[str, Any]]:
    """Compare targets that the border of two tiles cuts with others of the same size class, in images of tiles."""
    grids = [grid_of((sample.width, sample.height)) for sample in boxes]
    tiled = np.array([grid != (1, 1) for grid in grids])
    cut = np.array([through_tile_border(s, grid) for s, grid in zip(boxes, grids, strict=True)])
    size = np.array([sample.object_size for sample in boxes])
    bootstrap = ImageBootstrap(both.images[both.of["boxes"]], n_resamples=_RESAMPLES)
    rows = []
    words = {
        line.method: line.word for line in kept.itertuples() if line.method in ("divprune", "lookahead", "d2pruner")
    }
    for method, word in {"none": "none", **words}.items():
        for name, of_class in {"all": tiled, **{s: tiled & (size == s) for s in ("small", "medium", "large")}}.items():
            values = both.hits["boxes"][word]
            sides = [np.where(of_class & side, values, np.nan) for side in (cut, ~cut)]
            counts = [int((of_class & side).sum()) for side in (cut, ~cut)]
            if min(counts) < _FEWEST:
                continue
            means = [f"{percent(bootstrap.mean(side))} (n = {n})" for side, n in zip(sides, counts, strict=True)]
            gap = percent(bootstrap.contrast(*sides), "+")
            rows.append({"what": f"`{method}`, {name}", "cut": means[0], "whole": means[1], "gap": gap})
    return rows


def _columns(rows: Sequence[Mapping[str, Any]], first: str) -> dict[str, tuple[str, str]]:
    return {key: ("" if key == first else key, "") for row in rows for key in row}


def of_test(
    kept: pd.DataFrame,
    by_task: Mapping[str, Mapping[str, pd.DataFrame]],
    data: Mapping[str, Any],
    taken: Mapping[str, tuple[str, str]],
    more: Mapping[str, Mapping[str, Mapping[str, pd.DataFrame]]],
    options: argparse.Namespace,
) -> Report:
    """Lay out what was measured on test.

    ``taken`` are pairs of words (`benchmarks.findings_methods.taken_apart`); ``more`` holds lines of other runs: with
    positions renumbered, and with parts of the image (labels in the place of words).
    """
    both = TwoTasks.from_lines(by_task, data)
    kept = kept.assign(failed=[sum(int(by_task[t][w]["error"].notna().sum()) for t in TASKS) for w in kept["word"]])
    best = kept[kept["best"]]
    tables = [
        Table(str(cost), _GAPS, gap_rows(own, both, lines=len(best))) for cost, own in best.groupby("cost", sort=False)
    ]
    middle = best[best["cost"] == "FLOPs of 10% before K = 2"]
    kinds = {task: np.array([sample.expression_type for sample in data[task]]) for task in TASKS}
    by_kind = category_rows(middle, both, kinds)
    renumbered, parts = (TwoTasks.from_lines(more[name], data) for name in ("renumbered", "parts"))
    apart = pair_rows(
        {
            **{name: _pair(both, with_, both, without) for name, (with_, without) in taken.items()},
            **{
                f"positions kept, not renumbered (`{word}`)": _pair(both, word, renumbered, word)
                for word in renumbered.hits["boxes"] if word != "none"
            },
        },
        both,
    )  # fmt: skip
    borders = border_rows(middle, both, list(data["boxes"]))
    tables += [
        Table("by type and category, FLOPs of 10% before K = 2", *_rows(by_kind, "method")),
        Table("what is worth how much, in points of accuracy, at FLOPs of 10% before K = 2", _PAIRS, apart),
        Table("10% kept before layer K: kept of the accuracy", *_rows(_depth_rows(both), "what")),
        Table(
            "one part of the image alone from layer K on: kept of the accuracy", *_rows(_part_rows(both, parts), "what")
        ),
        Table("targets that the border of two tiles cuts, FLOPs of 10% before K = 2", _CUT, borders),
    ]
    unpruned = {task: percent(both.bootstrap().mean(both.column(task, "none"))) for task in TASKS}
    return Report(
        name="findings", title="Boxes and questions under pruning",
        settings={
            "model": options.model, "split": "test", "images": len(set(both.images)),
            **{task: f"{len(data[task])}, unpruned {unpruned[task]}" for task in TASKS}, "device": options.device,
        },
        tables=tables,
        notes=[
            "percent of the unpruned accuracy unless points are said, with 95 % intervals (bootstrap over images, "
            "which both tasks share); a failed sample is a miss",
            "best K: of all places that the cost allows, where most of both tasks is kept on validation; own: the "
            "method's own schedule",
            "beyond chance: the interval of the gap at a confidence of 1 - .05 / number of gaps in all tables does not "
            "hold 0",
            "p: family-wise over the lines of the table, each task by itself (max-T)",
        ],
    )  # fmt: skip


def _pair(one: TwoTasks, with_: str, other: TwoTasks, without: str) -> tuple[np.ndarray, ...]:
    return tuple(side for task in TASKS for side in (one.column(task, with_), other.column(task, without)))


def _rows(rows: list[dict[str, Any]], first: str) -> tuple[dict[str, tuple[str, str]], list[dict[str, Any]]]:
    return _columns(rows, first), rows


def _depth_rows(both: TwoTasks) -> list[dict[str, Any]]:
    words = {method: at_depths(method) for method in ("fastv", "relative", "divprune")}
    return _kept_rows(both, both, {m: {f"K = {k}": of[k] for k in DEPTHS} for m, of in words.items()})


def _part_rows(both: TwoTasks, parts: TwoTasks) -> list[dict[str, Any]]:
    labels: dict[str, dict[str, str]] = {}
    for label in parts.hits["boxes"]:
        if label != "none":
            part, layer = label.rsplit("@", 1)
            labels.setdefault(part, {})[f"K = {layer}"] = label
    return _kept_rows(both, parts, labels)


def _kept_rows(full: TwoTasks, own: TwoTasks, words: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    bootstrap: ImageBootstrap = full.bootstrap()
    return [
        {"what": f"{name}, {task}", **{
            column: percent(bootstrap.ratio(own.column(task, word), full.column(task, "none")))
            for column, word in of.items()
        }}
        for name, of in words.items() for task in TASKS
    ]  # fmt: skip


def of_unfamiliar(
    kept: pd.DataFrame, found: Mapping[str, tuple[Mapping, Mapping[str, Any]]], options: argparse.Namespace
) -> Report:
    """Lay out what is kept on unfamiliar images; the first line of a table is the unpruned accuracy."""
    tables = []
    named: Callable[[str, str], str] = "{}, {}".format
    both_of = {domain: TwoTasks.from_lines(*run) for domain, run in found.items()}
    for cost, own in kept.groupby("cost", sort=False):
        rows: list[dict[str, Any]] = [{"method": "none (accuracy)"}, *({"method": m} for m in own["method"])]
        for domain, both in both_of.items():
            bootstrap = both.bootstrap()
            for task in TASKS:
                full = both.column(task, "none")
                rows[0][named(task, domain)] = percent(bootstrap.mean(full))
                for row, word in zip(rows[1:], own["word"], strict=True):
                    row[named(task, domain)] = percent(bootstrap.ratio(both.column(task, word), full))
        tables.append(Table(str(cost), *_rows(rows, "method")))
    return Report(
        name="findings-unfamiliar", module="findings", title="Unfamiliar images: what is kept of boxes and questions",
        settings={
            "model": options.model, "split": "test", "images": len(options.images), "device": options.device,
            **{domain: ", ".join(f"{len(data[t])} {t}" for t in TASKS) for domain, (_, data) in found.items()},
        },
        tables=tables,
        notes=["places chosen on familiar validation images; intervals as in findings.md"],
    )  # fmt: skip
