"""The result of a probe: effects of location per pair, their maps and errors, and accuracy by location."""

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
from biaslab._util.one_line import OneLine
from biaslab.attention.heads import heads_from_disk
from biaslab.core.boxes import Box
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, RunFolderError
from biaslab.evaluation.metrics import HIT_IOU

__all__ = ["LOG", "RUN", "ProbeResult", "assemble", "group_means"]

RUN, LOG = "probe.json", "stimuli.jsonl"


@dataclass(frozen=True, eq=False, repr=False)
class ProbeResult(OneLine):
    """Log attention on the object, of P pairs at R x C locations.

    Attributes
    ----------
    log : ndarray
        (P, R, C, regions, layers, heads) float64, natural logarithms, mean over repetitions.
    iou : ndarray or None
        (P, R, C, repetitions) of the answers with the box, or None where nothing was located.
    boxes : ndarray
        (P, R, C, repetitions, 4) left, top, right, bottom in pixels.
    groups : list of str
        Object of each pair; pairs of one object are one group of the intervals.
    layers : list of int
        Labels of the layer axis.
    heads : list
        Labels of the head axis: "mean" or 0, 1 ...
    regions : list of str
        Labels of the region axis: "tiles" and "thumbnail".
    layout : TokenLayout
        Of the images.
    settings : dict
        JSON-ready provenance.

    Examples
    --------
    Two objects at 1 x 3 locations, one layer:

    >>> import biaslab as bl
    >>> import numpy as np
    >>> log = np.log([[[1.0, 1.0, 4.0]], [[2.0, 2.0, 8.0]]])[..., None, None, None]
    >>> layout = bl.TokenLayout.raster(1, 3, size=(90, 30), family="llava")
    >>> boxes = np.zeros((2, 1, 3, 1, 4))
    >>> result = bl.ProbeResult(log, None, boxes, ["cat", "dog"], [3], ["mean"], ["tiles"], layout, {})
    >>> result.grid, result.n_groups
    ((1, 3), 2)
    >>> np.exp(result.map(3)).round(2)  # relative to the mean over locations, on which the objects agree
    array([[0.63, 0.63, 2.52]])
    >>> result.table()[["layer", "region", "row", "col", "effect", "se"]].round(2)
       layer region  row  col  effect   se
    0      3  tiles    0    0   -0.46  0.0
    1      3  tiles    0    1   -0.46  0.0
    2      3  tiles    0    2    0.92  0.0
    """

    log: np.ndarray
    iou: np.ndarray | None
    boxes: np.ndarray
    groups: list[str]
    layers: list[int]
    heads: list[str | int]
    regions: list[str]
    layout: TokenLayout
    settings: dict[str, Any]

    @classmethod
    def load(cls, folder: str | Path) -> ProbeResult:
        """Read the probe that ``measure(..., out=folder)`` has finished.

        Parameters
        ----------
        folder : str or Path
            Holds ``probe.json`` and ``stimuli.jsonl``.

        Returns
        -------
        ProbeResult
            As `measure` returned it.

        Raises
        ------
        RunFolderError
            No probe there, or not all of its images are done.
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
        """Rows and columns of the locations."""
        return self.log.shape[1], self.log.shape[2]

    @cached_property
    def effects(self) -> np.ndarray:
        """(G, R, C, regions, layers, heads) log attention, centred over locations per pair, mean over a group's pairs.

        Natural logarithms: 0.69 is twice the attention the same object draws on average over all locations.
        """
        return group_means(self.log - self.log.mean((1, 2), keepdims=True), self.groups)

    @property
    def n_groups(self) -> int:
        """Number of different objects."""
        return len(set(self.groups))

    def at(self, layer: int, head: str | int | None = None, region: str = "tiles") -> tuple[int, int, int]:
        """Give the indices (region, layer, head) into the last axes; ``head`` may be left out where there is one.

        Raises
        ------
        InputError
            A region, layer or head that was not measured.
        """
        head = self.heads[0] if head is None and len(self.heads) == 1 else head
        asked: dict[str, tuple[Any, list]] = {
            "region": (region, self.regions), "layer": (layer, self.layers), "head": (head, self.heads),
        }  # fmt: skip
        for name, (value, labels) in asked.items():
            if value not in labels:
                raise InputError(f"the probe holds {name}s {labels}, not {value!r}: choose one, or measure again")
        region_at, layer_at, head_at = (labels.index(value) for value, labels in asked.values())
        return region_at, layer_at, head_at

    def map(self, layer: int, head: str | int | None = None, region: str = "tiles") -> np.ndarray:
        """Compute the (R, C) causal effect of the location on log attention, mean over groups, centred."""
        return self.effects[(..., *self.at(layer, head, region))].mean(0)

    def standard_error(self, layer: int, head: str | int | None = None, region: str = "tiles") -> np.ndarray:
        """Compute the (R, C) standard error of `map`, from the spread between groups; NaN with a single one."""
        values = self.effects[(..., *self.at(layer, head, region))]
        if len(values) < 2:
            return np.full(self.grid, np.nan)
        return values.std(0, ddof=1) / np.sqrt(len(values))

    def table(self) -> pd.DataFrame:
        """Give a line per layer, head, region and location (row, col): effect, se, groups, images."""
        n_images, tables = len(self.groups) * self.boxes.shape[3], []
        row, col = (a.ravel() for a in np.indices(self.grid))
        for layer in self.layers:
            for head in self.heads:
                for region in self.regions:
                    tables.append(pd.DataFrame({
                        "layer": layer, "head": head, "region": region, "row": row, "col": col,
                        "effect": self.map(layer, head, region).ravel(),
                        "se": self.standard_error(layer, head, region).ravel(),
                        "groups": self.n_groups, "images": n_images,
                    }))  # fmt: skip
        return pd.concat(tables, ignore_index=True)

    def accuracy(self) -> pd.DataFrame:
        """Compute the share of answers with IoU >= 0.5 at each location, with Wilson's 95 % interval.

        Returns
        -------
        DataFrame
            row, col, n, acc50, acc50_lo, acc50_hi.

        Raises
        ------
        InputError
            Nothing was located.
        """
        hits = self._hits()
        n, k = hits.shape[0] * hits.shape[3], hits.sum((0, 3))
        ends = [stats.binomtest(int(v), n).proportion_ci(method="wilson") for v in k.ravel()]
        row, col = (a.ravel() for a in np.indices(self.grid))
        return pd.DataFrame({
            "row": row, "col": col, "n": n, "acc50": k.ravel() / n,
            "acc50_lo": [e.low for e in ends], "acc50_hi": [e.high for e in ends],
        })  # fmt: skip

    def accuracy_by_zone(self) -> pd.DataFrame:
        """Compute accuracy in the border ring, the rest, and each third of rows and columns.

        Intervals: mean over groups (objects), Student's t. Objects differ in difficulty far more than locations, so
        zones are compared by ``minus_rest``: accuracy here minus at all other locations, object by object.

        Returns
        -------
        DataFrame
            zone, locations, n (images), acc50, acc50_lo, acc50_hi, minus_rest, minus_rest_lo, minus_rest_hi.

        Raises
        ------
        InputError
            Nothing was located.
        """
        hits, (rows, cols) = group_means(self._hits().mean(3), self.groups), self.grid
        row, col = np.indices(self.grid)
        border = (row == 0) | (col == 0) | (row == rows - 1) | (col == cols - 1)
        zones = {"everywhere": np.ones(self.grid, dtype=bool), "border": border, "inside": ~border}
        for axis, index, count, names in (("rows", row, rows, ("top", "middle", "bottom")),
                                          ("columns", col, cols, ("left", "middle", "right"))):  # fmt: skip
            zones |= {f"{name} {axis}": index * 3 // count == i for i, name in enumerate(names)}
        out = []
        for zone, inside in zones.items():
            if inside.any():
                n = int(inside.sum()) * len(self.groups) * self.boxes.shape[3]
                mean, half = _interval(hits[:, inside].mean(1))
                rest, wide = (np.nan, np.nan)
                if not inside.all():
                    rest, wide = _interval(hits[:, inside].mean(1) - hits[:, ~inside].mean(1))
                out.append({"zone": zone, "locations": int(inside.sum()), "n": n, "acc50": mean,
                            "acc50_lo": np.clip(mean - half, 0, 1), "acc50_hi": np.clip(mean + half, 0, 1),
                            "minus_rest": rest, "minus_rest_lo": rest - wide,
                            "minus_rest_hi": rest + wide})  # fmt: skip
        return pd.DataFrame(out)

    def _hits(self) -> np.ndarray:
        if self.iou is None:
            raise InputError("nothing was located: measure with locate=True (`biaslab probe --locate`)")
        return (self.iou >= HIT_IOU).astype(np.float64)

    def box(self, pair: int, row: int, col: int, repetition: int = 0) -> Box:
        """Give the box, in pixels, of a pair's object at a location."""
        return Box(*self.boxes[pair, row, col, repetition])


def _interval(values: np.ndarray) -> tuple[float, float]:
    """Mean of independent values and the half width of its 95 % interval; NaN for a single one."""
    n = len(values)
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return float(values.mean()), float(half)


def group_means(values: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Average the entries of axis 0 that share a group, in order of first appearance."""
    names = list(dict.fromkeys(groups))
    if len(names) == len(groups):
        return values
    index = np.array([names.index(g) for g in groups])
    return np.stack([values[index == k].mean(0) for k in range(len(names))])


def assemble(settings: dict[str, Any], groups: list[str], records: Iterable[dict]) -> ProbeResult:
    """Make the result of a complete set of records, read one at a time.

    Raises
    ------
    RunFolderError
        Images are missing, or were cut into tokens in different ways.
    """
    design = settings["design"]
    shape = (design["pairs"], *design["grid"], design["repetitions"])
    seen, boxes, iou = np.zeros(shape, dtype=bool), np.empty((*shape, 4)), np.full(shape, np.nan)
    log: np.ndarray = np.empty(0)
    layout: dict[str, Any] | None = None
    for r in records:
        if layout is None:
            log, layout = np.empty((*shape, *np.shape(r["log"]))), r["layout"]
        if r["layout"] != layout:
            raise RunFolderError("images of one probe have different layouts: the model cuts them by content")
        at = r["pair"], r["row"], r["col"], r["repetition"]
        log[at], boxes[at], iou[at], seen[at] = r["log"], r["box"], r.get("iou", np.nan), True
    if layout is None or not seen.all():
        raise RunFolderError(f"{seen.sum()} of {seen.size} images are done: run the same probe again to go on")
    heads: list[str | int] = ["mean"] if settings["heads"] == "mean" else list(range(log.shape[-1]))
    regions = ["tiles", "thumbnail"][: log.shape[-3]]
    located = iou if settings["locate"] else None
    layers, of_images = list(settings["layers"]), TokenLayout.from_dict(layout)
    return ProbeResult(log.mean(3), located, boxes, groups, layers, heads, regions, of_images, settings)
