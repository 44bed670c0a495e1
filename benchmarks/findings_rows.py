"""Rows of the tables of `benchmarks.findings`: two tasks on the same images, gaps, parts, places, depths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.findings_methods import DEPTHS, FLOOR, SHOWN, at_depths
from benchmarks.gallery_pool import TASKS, through_tile_border
from benchmarks.paired import paired_differences
from benchmarks.report import percent
from biaslab.scenes.gallery import grid_of
from biaslab.stats.resampling import ImageBootstrap

__all__ = [
    "TwoTasks", "border_rows", "category_rows", "depth_rows", "gap_rows", "pair_rows", "part_rows", "place_rows",
    "with_own_words",
]  # fmt: skip

_RESAMPLES = 20_000
_FEWEST = 10  # targets of a class on either side of a comparison
_CUT_SHARE = 0.1  # of a target's side that must lie beyond a border for the target to be cut by it


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
    auroc : mapping of str to mapping
        The same of how well attention ranks the target's tokens; NaN where no attention is read.
    """

    images: np.ndarray
    of: Mapping[str, slice]
    hits: Mapping[str, Mapping[str, np.ndarray]]
    auroc: Mapping[str, Mapping[str, np.ndarray]]

    @classmethod
    def from_lines(cls, by_task: Mapping[str, Mapping[str, pd.DataFrame]], data: Mapping[str, Any]) -> TwoTasks:
        """Put the lines of `benchmarks.findings.measured` behind each other."""
        images, of, start = [], {}, 0
        for task in TASKS:
            images += [str(sample.image_id) for sample in data[task]]
            of[task] = slice(start, len(images))
            start = len(images)
        hits, auroc = (
            {t: {word: lines[name].to_numpy(float) for word, lines in by_task[t].items()} for t in TASKS}
            for name in ("hit", "target_auroc")
        )
        return cls(np.array(images), of, hits, auroc)

    def column(self, task: str, word: str) -> np.ndarray:
        """Hits of a task, NaN elsewhere."""
        values = np.full(len(self.images), np.nan)
        values[self.of[task]] = self.hits[task][word]
        return values

    def parts(self, task: str, word: str) -> tuple[np.ndarray, np.ndarray]:
        """Hits with a word and without pruning, whose ratio is what is kept."""
        return self.column(task, word), self.column(task, "none")

    def seen(self, task: str, word: str) -> tuple[np.ndarray, np.ndarray]:
        """Subtract what is right with one visual token from both: the ratio is of what is seen, not guessed."""
        floor = self.column(task, FLOOR)
        values, full = self.parts(task, word)
        return values - floor, full - floor

    def bootstrap(self, confidence: float = 0.95) -> ImageBootstrap:
        """Resample the images of both tasks together."""
        return ImageBootstrap(self.images, n_resamples=_RESAMPLES, confidence=confidence)


def with_own_words(kept: pd.DataFrame) -> pd.DataFrame:
    """Give rows a word per task, and add D2Pruner as the paper has it: alpha = 1 for questions, 0.5 for boxes."""
    kept = kept.assign(**dict.fromkeys(TASKS, kept["word"]))
    added = []
    for _, own in kept.groupby("cost", sort=False):
        by_method = own.set_index("method", drop=False)
        if {"d2pruner", "d2pruner:alpha=1"} <= set(by_method.index):
            boxes, questions = by_method.loc["d2pruner"], by_method.loc["d2pruner:alpha=1"]
            place = ", ".join(dict.fromkeys([str(boxes["place"]), str(questions["place"])]))
            named = {"method": "d2pruner, alpha = 1 for questions", "place": place, "questions": questions["questions"]}
            added.append({**boxes.to_dict(), **named})
    return pd.concat([kept, pd.DataFrame(added)], ignore_index=True) if added else kept


def gap_rows(kept: pd.DataFrame, both: TwoTasks) -> list[dict[str, Any]]:
    """List of methods under costs what they keep of each task, by how much that differs, and what beats DivPrune.

    Two gaps: of the accuracy that is kept, as papers report it, and of what is above the accuracy with one visual
    token, as a question with two answers cannot fall below half. The second is significant where its interval of
    confidence 1 - .05 / rows does not hold 0. p: family-wise over all rows, each task by itself (max-T).

    Parameters
    ----------
    kept : DataFrame
        Rows cost, method, place and a word per task (`with_own_words`).
    both : TwoTasks
    """
    bootstrap, strict = both.bootstrap(), both.bootstrap(1 - 0.05 / len(kept))
    rows: list[dict[str, Any]] = []
    against: dict[str, tuple[np.ndarray, ...]] = {}  # number of a row -> it and DivPrune
    for cost, own in kept.groupby("cost", sort=False):
        reference = own[own["method"] == "divprune"].iloc[0]
        for line in own.to_dict("records"):
            row = {"cost": cost, "method": line["method"], "place": line["place"]}
            for name, of in (("", both.parts), ("seen_", both.seen)):
                sides = {task: of(task, line[task]) for task in TASKS}
                row |= {f"{name}{task}": percent(bootstrap.ratio(*sides[task])) for task in TASKS}
                row[f"{name}gap"] = percent(bootstrap.ratio_contrast(*sides["questions"], *sides["boxes"]), "+")
                row[f"{name}value"] = sum(bootstrap.ratio(*sides[task])[0] for task in TASKS)
            _, low, high = strict.ratio_contrast(*sides["questions"], *sides["boxes"])
            row["significant"] = "yes" if low > 0 or high < 0 else "no"
            if line["method"] != "divprune":
                words = [(task, side[task]) for task in TASKS for side in (line, reference)]
                against[str(len(rows))] = tuple(both.column(*word) for word in words)
            rows.append(row)
    for found in pair_rows(against, both):
        named = {task: f"minus_{task}" for task in TASKS} | {f"p_{task}": f"p_{task}" for task in TASKS}
        rows[int(found["what"])] |= {name: found[key] for key, name in named.items()}
    return sorted(rows, key=lambda row: -row["value"])


def pair_rows(pairs: Mapping[str, tuple[np.ndarray, ...]], both: TwoTasks) -> list[dict[str, Any]]:
    """List differences of accuracy on both tasks: what -> (boxes with, without, questions with, without)."""
    bootstrap, rows = both.bootstrap(), [{"what": what} for what in pairs]
    for k, task in enumerate(TASKS):
        differences = [parts[2 * k] - parts[2 * k + 1] for parts in pairs.values()]
        for row, found in zip(rows, paired_differences(differences, both.images, bootstrap), strict=True):
            row |= {task: found.text, f"p_{task}": found.p, f"{task}_value": found.value}
    return rows


def _shown(kept: pd.DataFrame, among: Sequence[str] = SHOWN) -> dict[str, str]:
    return {line.method: line.word for line in kept.itertuples() if line.method in among}


def category_rows(kept: pd.DataFrame, both: TwoTasks, kinds: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """List what some methods keep of each type of expression and category of question.

    The first two lines are accuracies: without pruning, and with one visual token.
    """
    words = _shown(kept)
    rows: list[dict[str, Any]] = [{"method": "none (accuracy)"}, {"method": "one token (accuracy)"}]
    rows += [{"method": method} for method in words]
    bootstrap = both.bootstrap()
    for task, of_kind in kinds.items():
        for kind in dict.fromkeys(of_kind):
            only = _only(both, task, of_kind == kind)
            for row, word in zip(rows, ("none", FLOOR), strict=False):
                row[f"{task}: {kind}"] = percent(bootstrap.mean(both.column(task, word) * only))
            for row, word in zip(rows[2:], words.values(), strict=True):
                row[f"{task}: {kind}"] = percent(bootstrap.ratio(*(part * only for part in both.parts(task, word))))
    return rows


def _only(both: TwoTasks, task: str, chosen: np.ndarray) -> np.ndarray:
    """1 at some samples of a task, NaN elsewhere."""
    only = np.full(len(both.images), np.nan)
    only[both.of[task]] = np.where(chosen, 1.0, np.nan)
    return only


def place_rows(kept: pd.DataFrame, both: TwoTasks, boxes: Sequence[Any]) -> list[dict[str, Any]]:
    """List what is kept of boxes by the target's place in the image, and by its tile's in the sequence."""
    where = pd.DataFrame([_place(sample) for sample in boxes])
    words, bootstrap = _shown(kept), both.bootstrap()
    rows: list[dict[str, Any]] = [{"method": "none (accuracy)"}, *({"method": method} for method in words)]
    for column in where:
        for place in where[column].dropna().unique():
            chosen = (where[column] == place).to_numpy()
            only, head = _only(both, "boxes", chosen), f"{place} (n = {chosen.sum()})"
            rows[0][head] = percent(bootstrap.mean(both.column("boxes", "none") * only))
            for row, word in zip(rows[1:], words.values(), strict=True):
                row[head] = percent(bootstrap.ratio(*(part * only for part in both.parts("boxes", word))))
    return rows


def _place(sample: Any) -> dict[str, Any]:
    """Tell the thirds of the image that a target's centre lies in, and whether its tile is the first or the last."""
    box, (columns, rows) = sample.box, grid_of((sample.width, sample.height))
    x, y = (box.x0 + box.x1) / 2 / sample.width, (box.y0 + box.y1) / 2 / sample.height
    tile = min(int(y * rows), rows - 1) * columns + min(int(x * columns), columns - 1)
    number = {0: "first tile", columns * rows - 1: "last tile"}.get(tile, "tile between")
    return {
        "x": ("left", "centre", "right")[min(int(3 * x), 2)], "y": ("top", "middle", "bottom")[min(int(3 * y), 2)],
        "tile": number if columns * rows > 1 else None,
    }  # fmt: skip


def border_rows(kept: pd.DataFrame, both: TwoTasks, boxes: Sequence[Any]) -> list[dict[str, Any]]:
    """Compare targets that the border of two tiles cuts with others of the same size class, in images of tiles.

    Of the unpruned model accuracies are compared, of methods what they keep of them.
    """
    grids = [grid_of((sample.width, sample.height)) for sample in boxes]
    tiled = np.array([grid != (1, 1) for grid in grids])
    cut = np.array([through_tile_border(s, grid, share=_CUT_SHARE) for s, grid in zip(boxes, grids, strict=True)])
    size = np.array([sample.object_size for sample in boxes])
    bootstrap, rows = both.bootstrap(), []
    words = {"none": "none", **_shown(kept, ("divprune", "lookahead", "d2pruner"))}
    for method, word in words.items():
        for name, of_class in {"all": tiled, **{s: tiled & (size == s) for s in ("small", "medium", "large")}}.items():
            counts = [int((of_class & side).sum()) for side in (cut, ~cut)]
            if min(counts) < _FEWEST:
                continue
            sides = [
                [part * _only(both, "boxes", of_class & side) for part in both.parts("boxes", word)]
                for side in (cut, ~cut)
            ]
            if word == "none":
                means, gap = [bootstrap.mean(side[0]) for side in sides], bootstrap.contrast(sides[0][0], sides[1][0])
            else:
                means, gap = [bootstrap.ratio(*side) for side in sides], bootstrap.ratio_contrast(*sides[0], *sides[1])
            cells = [f"{percent(mean)} (n = {n})" for mean, n in zip(means, counts, strict=True)]
            what = f"`{method}`, {name}" if word != "none" else f"none (accuracy), {name}"
            rows.append({"what": what, "cut": cells[0], "whole": cells[1], "gap": percent(gap, "+")})
    return rows


def depth_rows(both: TwoTasks, explained: Mapping[int, float]) -> list[dict[str, Any]]:
    """List by layer K, 10 % kept before it, how biased attention is, what it knows, and what debiasing is worth.

    Parameters
    ----------
    both : TwoTasks
        With the words of `at_depths` of ``fastv``, ``relative`` and ``divprune``.
    explained : mapping of int to float
        Layer -> share of the variance of log attention that position explains. A cut before K reads layer K - 1.
    """
    words = {method: at_depths(method) for method in ("fastv", "relative", "divprune")}
    bootstrap = both.bootstrap()
    pairs = {
        str(k): tuple(both.column(task, words[method][k]) for task in TASKS for method in ("relative", "fastv"))
        for k in DEPTHS
    }
    rows = []
    for k, pair in zip(DEPTHS, pair_rows(pairs, both), strict=True):
        auroc = np.full(len(both.images), np.nan)
        auroc[both.of["boxes"]] = both.auroc["boxes"][words["fastv"][k]]
        row = {"k": k, "explained": float(explained[k - 1]), "auroc": percent(bootstrap.mean(auroc))}
        for method, of in words.items():
            row |= {f"{method}_{task}": percent(bootstrap.ratio(*both.parts(task, of[k]))) for task in TASKS}
        rows.append(row | {name: value for name, value in pair.items() if name != "what"})
    return rows


def part_rows(full: TwoTasks, parts: TwoTasks, tiled: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """List what is kept with one part of the image from a layer on, of images that have both.

    Parameters
    ----------
    full, parts : TwoTasks
        With "none", and with labels ``part@K``.
    tiled : mapping of str to (samples,) array
        Task -> whether a sample's image is cut into tiles.
    """
    bootstrap: ImageBootstrap = full.bootstrap()
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for label in parts.hits["boxes"]:
        if label == "none":
            continue
        part, layer = label.rsplit("@", 1)
        for task in TASKS:
            only = _only(full, task, tiled[task])
            kept = bootstrap.ratio(parts.column(task, label) * only, full.column(task, "none") * only)
            rows.setdefault((part, task), {"what": f"{part}, {task}"})[f"K = {layer}"] = percent(kept)
    return [rows[key] for key in sorted(rows, key=lambda key: (list(TASKS).index(key[1]), key[0]))]
