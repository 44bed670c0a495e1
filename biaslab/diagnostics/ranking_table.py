"""From per-sample ranking values to tables: intervals, paired gains over raw attention, family-wise p-values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from biaslab.errors import InputError
from biaslab.stats.resampling import Family, ImageBootstrap, Interval, max_t, sum_by_image

__all__ = ["RAW", "RankingValues", "interval_columns", "masked", "measure_prefix", "ranking_table"]

RAW = "raw"


@dataclass(frozen=True, eq=False)
class RankingValues:
    """What :func:`biaslab.diagnostics.ranking.ranking_values` measured, sample by sample.

    Attributes
    ----------
    values : (n, layers, ops, heads, measures) float64
        One row per sample in the order of the data set. NaN: no such value, because the target covers no token
        (AUROC: or all of them) or the sample failed.
    layers, ops, measures : labels of those axes; measures are "auroc" and "kept@<keep>" for every keep.
    heads : for every layer, the labels of the head axis: "mean" or numbers.
    ids, images : (n,) sample and image ids.
    centres : (n, 2) centre of the target's box, x and y as shares of the picture's width and height.
    failed : (n,) bool, samples whose picture or forward failed.
    """

    values: np.ndarray
    layers: list[int]
    ops: list[str]
    heads: list[list[int | str]]
    measures: list[str]
    ids: np.ndarray
    images: np.ndarray
    centres: np.ndarray
    failed: np.ndarray

    def frame(self) -> pd.DataFrame:
        """One row per sample, layer, op and head: sample, image, x, y (of ``centres``), the labels, the measures."""
        n = len(self.ids)
        cells = list(self.cells())
        labels = pd.DataFrame([cell for _, cell in cells] * n)
        about = pd.DataFrame({"sample": self.ids, "image": self.images, "x": self.centres[:, 0],
                              "y": self.centres[:, 1]})  # fmt: skip
        about = about.loc[about.index.repeat(len(cells))].reset_index(drop=True)
        measured = pd.DataFrame(self.values.reshape(n * len(cells), -1), columns=self.measures)
        return pd.concat([about, labels, measured], axis=1)

    def cells(self) -> Iterator[tuple[tuple[int, ...], dict[str, int | str]]]:
        """((layer index, op index, head index), {"layer", "op", "head"}) in the order of the axes."""
        for at in np.ndindex(self.values.shape[1:4]):
            yield at, {"layer": self.layers[at[0]], "op": self.ops[at[1]], "head": self.heads[at[0]][at[2]]}


def measure_prefix(measure: str) -> str:
    """What stands before "gain", "p" or "gap" in a column's name: nothing for AUROC, the measure for the others."""
    return "" if measure == "auroc" else f"{measure}_"


def ranking_table(
    measured: RankingValues,
    parts: Mapping[str, np.ndarray] | None = None,
    n_resamples: int = 2000,
    n_sign_flips: int = 10_000,
) -> pd.DataFrame:
    """Means with intervals and, where "raw" is among the operations, the paired gains of the others over it.

    Parameters
    ----------
    measured
        Per-sample values.
    parts
        Name -> (n,) bool, parts of the data set that get rows of their own, with the name in the column ``part``.
        Default: all samples, without that column. Parts may share samples.
    n_resamples, n_sign_flips
        Resamples of images for the intervals, sign flips for the p-values.

    Returns
    -------
    DataFrame
        A row per part, layer, op and head: layer, op, head, n, errors; auroc, auroc_lo, auroc_hi; where there is a
        gain, gain, gain_lo, gain_hi, p, p_adjusted; and for every keep ``kept@<keep>`` with _lo, _hi, _gain,
        _gain_lo, _gain_hi, _p, _p_adjusted. ``n`` counts the samples with an AUROC, ``errors`` those that failed; the
        kept share is also of targets that cover every token. Gains and p-values are NaN in the rows of "raw".

        Intervals are bootstraps over images, each of its own cell. A gain is the mean difference to "raw" on the same
        samples, so it can be sure although the two intervals overlap. ``p`` is :func:`paired_p_value`'s of one cell;
        ``p_adjusted`` (:func:`max_t`) is family-wise over all parts, layers, heads and operations of this table, each
        measure being a family.

    Raises
    ------
    InputError
        No parts, a part whose mask does not fit the samples, or n_resamples < 1.
    """
    n = len(measured.ids)
    masks = {"": np.ones(n, bool)} if parts is None else {k: np.asarray(v, bool) for k, v in parts.items()}
    if not masks:
        raise InputError("no parts are given: leave parts out for one table of all samples")
    if wrong := [name for name, mask in masks.items() if mask.shape != (n,)]:
        raise InputError(f"part {wrong[0]!r} is no mask of the samples: pass a bool for each of the {n} samples")
    bootstrap = ImageBootstrap(measured.images, n_resamples=n_resamples)
    cells = list(measured.cells())
    raw = measured.ops.index(RAW) if RAW in measured.ops else None
    others = [i for i, op in enumerate(measured.ops) if op != RAW] if raw is not None else []
    columns = {}  # name -> (parts, layers, ops, heads)
    for m, measure in enumerate(measured.measures):
        values, prefix = measured.values[..., m], measure_prefix(measure)
        found = [bootstrap.mean(masked(values, mask)) for mask in masks.values()]
        columns |= interval_columns(measure, found, values.shape[1:])
        if others:
            gains = values[:, :, others] - values[:, :, [raw]]
            found = [bootstrap.mean(masked(gains, mask)) for mask in masks.values()]
            compared = interval_columns(f"{prefix}gain", found, gains.shape[1:])
            tested = _tested(gains, list(masks.values()), measured.images, n_sign_flips)
            compared |= {f"{prefix}p": tested.p, f"{prefix}p_adjusted": tested.p_adjusted}
            columns |= _spread(compared, others, len(measured.ops))
    rows = []
    for part, (name, mask) in enumerate(masks.items()):
        counts = np.isfinite(measured.values[mask, ..., 0]).sum(0)
        label = {} if parts is None else {"part": name}
        for at, cell in cells:
            about = {"n": int(counts[at]), "errors": int(measured.failed[mask].sum())}
            rows.append({**label, **cell, **about, **{key: float(v[(part, *at)]) for key, v in columns.items()}})
    return pd.DataFrame(rows)


def masked(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(n, cells) of (n, ...) values, NaN for the samples outside the mask."""
    return np.where(mask[:, None], values.reshape(len(values), math.prod(values.shape[1:])), np.nan)


def interval_columns(name: str, found: Sequence[Interval], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Columns name, name_lo and name_hi (parts, *shape) from one interval of flat cells per part."""
    ends = zip(("", "_lo", "_hi"), zip(*found, strict=True), strict=True)
    return {name + end: np.reshape(values, (len(found), *shape)) for end, values in ends}


def _spread(columns: dict[str, np.ndarray], at: Sequence[int], n_ops: int) -> dict[str, np.ndarray]:
    """Columns of some operations as columns of all, NaN elsewhere."""
    wide = {}
    for name, values in columns.items():
        wide[name] = np.full((*values.shape[:2], n_ops, values.shape[3]), np.nan)
        wide[name][:, :, at] = values
    return wide


def _tested(gains: np.ndarray, masks: Sequence[np.ndarray], images: np.ndarray, n_sign_flips: int) -> Family:
    """p-values (parts, layers, ops, heads) of one family over all parts; only sums over images are held for them."""
    sums, names = zip(*(sum_by_image(masked(gains, mask), images) for mask in masks), strict=True)
    family = max_t(np.concatenate(sums, axis=1), names[0], n_resamples=n_sign_flips)
    return Family(*(np.reshape(p, (len(masks), *gains.shape[1:])) for p in family))
