"""What a probe measured: effects of place per pair, their maps and errors, and accuracy by place."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from biaslab._util.jsonl import read_lines
from biaslab.attention.heads import heads_from_disk
from biaslab.core.boxes import Box
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, RunFolderError
from biaslab.evaluation.metrics import HIT_IOU

__all__ = ["LOG", "RUN", "ProbeResult", "assemble", "group_means"]

RUN, LOG = "probe.json", "stimuli.jsonl"


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """Log attention on the object, of P pairs at R x C places.

    Attributes
    ----------
    log : (P, R, C, parts, layers, heads) float64, mean over repetitions.
    iou : (P, R, C, repetitions) of the answers with the box, or None where nothing was located.
    boxes : (P, R, C, repetitions, 4) pixels.
    groups : object of each pair; pairs of one object are one group of the intervals.
    layers, heads, parts : labels; heads are "mean" or 0, 1 ...; parts "tiles" and "thumbnail".
    layout : TokenLayout of the pictures.
    settings : JSON-ready provenance.
    """

    log: np.ndarray
    iou: np.ndarray | None
    boxes: np.ndarray
    groups: list[str]
    layers: list[int]
    heads: list[str | int]
    parts: list[str]
    layout: TokenLayout
    settings: dict[str, Any]

    @classmethod
    def load(cls, folder: str | Path) -> ProbeResult:
        """The probe that ``measure(..., out=folder)`` has finished.

        Raises
        ------
        RunFolderError
            No probe there, or not all of its pictures are done.
        """
        folder = Path(folder)
        try:
            settings = json.loads((folder / RUN).read_text(encoding="utf-8"))
            names = {r["pair"]: r["name"] for r in read_lines(folder / LOG)}
            groups = [names.get(pair, "") for pair in range(settings["design"]["pairs"])]
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise RunFolderError(f"no probe in {folder} ({err}): make one with `biaslab probe`") from None
        return assemble(heads_from_disk(settings), groups, read_lines(folder / LOG))

    @property
    def grid(self) -> tuple[int, int]:
        return self.log.shape[1:3]

    @cached_property
    def effects(self) -> np.ndarray:
        """(G, R, C, parts, layers, heads): log attention centred over places per pair, mean over a group's pairs.

        Natural logarithms: 0.69 is twice the attention the same object draws on average over all places.
        """
        return group_means(self.log - self.log.mean((1, 2), keepdims=True), self.groups)

    @property
    def n_groups(self) -> int:
        return len(set(self.groups))

    def at(self, layer: int, head: str | int | None = None, part: str = "tiles") -> tuple[int, int, int]:
        """Indices (part, layer, head) into the last axes; ``head`` may be left out where there is one.

        Raises
        ------
        InputError
            What was not measured.
        """
        head = self.heads[0] if head is None and len(self.heads) == 1 else head
        asked = {"part": (part, self.parts), "layer": (layer, self.layers), "head": (head, self.heads)}
        for name, (value, known) in asked.items():
            if value not in known:
                raise InputError(f"the probe holds {name}s {known}, not {value!r}: choose one, or measure again")
        return self.parts.index(part), self.layers.index(layer), self.heads.index(head)

    def map(self, layer: int, head: str | int | None = None, part: str = "tiles") -> np.ndarray:
        """(R, C) causal effect of the place on log attention, mean over groups, centred."""
        return self.effects[(..., *self.at(layer, head, part))].mean(0)

    def standard_error(self, layer: int, head: str | int | None = None, part: str = "tiles") -> np.ndarray:
        """(R, C) standard error of `map`, from the spread between groups; NaN with a single one."""
        values = self.effects[(..., *self.at(layer, head, part))]
        if len(values) < 2:
            return np.full(self.grid, np.nan)
        return values.std(0, ddof=1) / np.sqrt(len(values))

    def table(self) -> pd.DataFrame:
        """A line per layer, head, part and place: effect, se, groups, pictures."""
        pictures, tables = len(self.groups) * self.boxes.shape[3], []
        row, col = (a.ravel() for a in np.indices(self.grid))
        for layer in self.layers:
            for head in self.heads:
                for part in self.parts:
                    tables.append(pd.DataFrame({
                        "layer": layer, "head": head, "part": part, "row": row, "col": col,
                        "effect": self.map(layer, head, part).ravel(),
                        "se": self.standard_error(layer, head, part).ravel(),
                        "groups": self.n_groups, "pictures": pictures,
                    }))  # fmt: skip
        return pd.concat(tables, ignore_index=True)

    def accuracy(self) -> pd.DataFrame:
        """Share of answers with IoU >= 0.5 at each place, with Wilson's 95 % interval: row, col, n, acc50, lo, hi."""
        hits = self._hits()
        n, k = hits.shape[0] * hits.shape[3], hits.sum((0, 3))
        ends = [stats.binomtest(int(v), n).proportion_ci(method="wilson") for v in k.ravel()]
        row, col = (a.ravel() for a in np.indices(self.grid))
        return pd.DataFrame({
            "row": row, "col": col, "n": n, "acc50": k.ravel() / n,
            "lo": [e.low for e in ends], "hi": [e.high for e in ends],
        })  # fmt: skip

    def accuracy_by_zone(self) -> pd.DataFrame:
        """Accuracy of the border ring, the rest, and each third of rows and columns.

        Intervals: mean over groups (objects), Student's t. Objects differ in difficulty far more than places, so
        zones are compared by ``minus_rest``: accuracy here minus at all other places, object by object.

        Returns
        -------
        DataFrame : zone, places, n (pictures), acc50, lo, hi, minus_rest, minus_rest_lo, minus_rest_hi.
        """
        hits, (rows, cols) = group_means(self._hits().mean(3), self.groups), self.grid
        row, col = np.indices(self.grid)
        border = (row == 0) | (col == 0) | (row == rows - 1) | (col == cols - 1)
        zones = {"everywhere": np.ones(self.grid, dtype=bool), "border": border, "inside": ~border}
        for axis, index, count, names in (("rows", row, rows, ("top", "middle", "bottom")),
                                          ("columns", col, cols, ("left", "middle", "right"))):  # fmt: skip
            zones |= {f"{name} {axis}": index * 3 // count == i for i, name in enumerate(names)}
        out = []
        for zone, chosen in zones.items():
            if chosen.any():
                n = int(chosen.sum()) * len(self.groups) * self.boxes.shape[3]
                mean, half = _interval(hits[:, chosen].mean(1))
                rest, wide = (np.nan, np.nan)
                if not chosen.all():
                    rest, wide = _interval(hits[:, chosen].mean(1) - hits[:, ~chosen].mean(1))
                out.append({"zone": zone, "places": int(chosen.sum()), "n": n, "acc50": mean,
                            "lo": np.clip(mean - half, 0, 1), "hi": np.clip(mean + half, 0, 1), "minus_rest": rest,
                            "minus_rest_lo": rest - wide, "minus_rest_hi": rest + wide})  # fmt: skip
        return pd.DataFrame(out)

    def _hits(self) -> np.ndarray:
        if self.iou is None:
            raise InputError("nothing was located: measure with locate=True (`biaslab probe --locate`)")
        return (self.iou >= HIT_IOU).astype(np.float64)

    def box(self, pair: int, row: int, col: int, repetition: int = 0) -> Box:
        """Where the object of a pair stood at a place."""
        return Box(*self.boxes[pair, row, col, repetition])


def _interval(values: np.ndarray) -> tuple[float, float]:
    """Mean of independent values and the half width of its 95 % interval; NaN for a single one."""
    n = len(values)
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return float(values.mean()), float(half)


def group_means(values: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Means over the entries of axis 0 that share a group, in order of first appearance."""
    names = list(dict.fromkeys(groups))
    if len(names) == len(groups):
        return values
    index = np.array([names.index(g) for g in groups])
    return np.stack([values[index == k].mean(0) for k in range(len(names))])


def assemble(settings: dict[str, Any], groups: list[str], records: Iterable[dict]) -> ProbeResult:
    """The result of a complete set of records, read one at a time.

    Raises
    ------
    RunFolderError
        Pictures are missing, or were cut into tokens in different ways.
    """
    design = settings["design"]
    shape = (design["pairs"], *design["grid"], design["repetitions"])
    seen, boxes, iou = np.zeros(shape, dtype=bool), np.empty((*shape, 4)), np.full(shape, np.nan)
    log, layout = None, None
    for r in records:
        if log is None:
            log, layout = np.empty((*shape, *np.shape(r["log"]))), r["layout"]
        if r["layout"] != layout:
            raise RunFolderError("pictures of one probe have different layouts: the model cuts them by content")
        at = r["pair"], r["row"], r["col"], r["repetition"]
        log[at], boxes[at], iou[at], seen[at] = r["log"], r["box"], r.get("iou", np.nan), True
    if not seen.all():
        raise RunFolderError(f"{seen.sum()} of {seen.size} pictures are done: run the same probe again to go on")
    heads = ["mean"] if settings["heads"] == "mean" else list(range(log.shape[-1]))
    parts = ["tiles", "thumbnail"][: log.shape[-3]]
    located = iou if settings["locate"] else None
    layout = TokenLayout.from_dict(layout)
    return ProbeResult(log.mean(3), located, boxes, groups, list(settings["layers"]), heads, parts, layout, settings)
