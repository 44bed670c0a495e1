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
    """AUROC and kept shares sample by sample, from :func:`biaslab.diagnostics.ranking.ranking_values`.

    Attributes
    ----------
    values : ndarray
        (n, layers, debias, heads, measures) float64, one row per sample in the order of the data set. NaN: no such
        value, because the target covers no token (AUROC: or all of them) or the sample failed.
    layers : list of int
        Labels of the second axis.
    debias : list of str
        Labels of the third axis: "raw" and names of debias operations.
    heads : list of list
        For every layer, the labels of the head axis: "mean" or numbers.
    measures : list of str
        Labels of the last axis: "auroc" and "kept@<keep>" for every keep.
    ids, images : ndarray
        (n,) sample and image ids.
    centres : ndarray
        (n, 2) centre of the target's box, x and y as shares of the image's width and height.
    failed : ndarray
        (n,) bool, samples whose image or forward failed.
    """

    values: np.ndarray
    layers: list[int]
    debias: list[str]
    heads: list[list[int | str]]
    measures: list[str]
    ids: np.ndarray
    images: np.ndarray
    centres: np.ndarray
    failed: np.ndarray

    def frame(self) -> pd.DataFrame:
        """Give one row per sample, layer, debias and head.

        Returns
        -------
        DataFrame
            sample, image, x, y (of ``centres``), layer, debias, head, then the measures.
        """
        n = len(self.ids)
        cells = list(self.cells())
        labels = pd.DataFrame([cell for _, cell in cells] * n)
        samples = pd.DataFrame({"sample": self.ids, "image": self.images, "x": self.centres[:, 0],
                                "y": self.centres[:, 1]})  # fmt: skip
        samples = samples.loc[samples.index.repeat(len(cells))].reset_index(drop=True)
        measures = pd.DataFrame(self.values.reshape(n * len(cells), -1), columns=self.measures)
        return pd.concat([samples, labels, measures], axis=1)

    def cells(self) -> Iterator[tuple[tuple[int, ...], dict[str, int | str]]]:
        """Yield ((layer index, debias index, head index), {"layer", "debias", "head"}) in the order of the axes."""
        for at in np.ndindex(self.values.shape[1:4]):
            yield at, {"layer": self.layers[at[0]], "debias": self.debias[at[1]], "head": self.heads[at[0]][at[2]]}


def measure_prefix(measure: str) -> str:
    """Give what stands before "gain", "p" or "gap" in a column: nothing for AUROC, the measure for the others."""
    return "" if measure == "auroc" else f"{measure}_"


def ranking_table(
    values: RankingValues,
    *,
    subsets: Mapping[str, np.ndarray] | None = None,
    n_resamples: int = 2000,
    n_sign_flips: int = 10_000,
) -> pd.DataFrame:
    """Compute means with intervals and, where "raw" is among the operations, paired gains of the others over it.

    Parameters
    ----------
    values : RankingValues
        Per-sample values.
    subsets : mapping of str to ndarray, optional
        Name -> (n,) bool, subsets of the data set that get rows of their own, with the name in the column ``subset``.
        Default: all samples, without that column. Subsets may share samples.
    n_resamples : int
        Resamples of images for the intervals.
    n_sign_flips : int
        Sign flips of images for the p-values.

    Returns
    -------
    DataFrame
        A row per subset, layer, debias and head: layer, debias, head, n, errors; auroc, auroc_lo, auroc_hi; where there
        is a gain, gain, gain_lo, gain_hi, p, p_adjusted; and for every keep ``kept@<keep>`` with _lo, _hi, _gain,
        _gain_lo, _gain_hi, _p, _p_adjusted. ``n`` counts the samples with an AUROC, ``errors`` those that failed; the
        kept share is also of targets that cover every token. Gains and p-values are NaN in the rows of "raw".

        Intervals are bootstraps over images, each of its own cell. A gain is the mean difference to "raw" on the same
        samples, so it can be sure although the two intervals overlap. ``p`` is :func:`paired_p_value`'s of one cell;
        ``p_adjusted`` (:func:`max_t`) is family-wise over all subsets, layers, heads and operations of this table, each
        measure being a family.

    Raises
    ------
    InputError
        No subsets, a subset whose mask does not fit the samples, or n_resamples < 1.

    Examples
    --------
    Four samples of two images, one layer, raw and debiased, mean over heads, AUROC:

    >>> import numpy as np
    >>> from biaslab.diagnostics.ranking_table import RankingValues, ranking_table
    >>> auroc = np.array([[0.5, 0.7], [0.6, 0.8], [0.4, 0.6], [0.7, 0.9]]).reshape(4, 1, 2, 1, 1)
    >>> samples = {"ids": np.arange(4), "images": np.array(["a", "a", "b", "b"]), "centres": np.full((4, 2), 0.5)}
    >>> values = RankingValues(auroc, [3], ["raw", "ratio"], [["mean"]], ["auroc"], failed=np.zeros(4, bool), **samples)
    >>> ranking_table(values, n_resamples=100)[["layer", "debias", "n", "auroc", "gain"]].round(2)
       layer debias  n  auroc  gain
    0      3    raw  4   0.55   NaN
    1      3  ratio  4   0.75   0.2
    """
    n = len(values.ids)
    masks = {"": np.ones(n, bool)} if subsets is None else {k: np.asarray(v, bool) for k, v in subsets.items()}
    if not masks:
        raise InputError("no subsets are given: leave subsets out for one table of all samples")
    if wrong := [name for name, mask in masks.items() if mask.shape != (n,)]:
        raise InputError(f"subset {wrong[0]!r} is no mask of the samples: pass a bool for each of the {n} samples")
    bootstrap = ImageBootstrap(values.images, n_resamples=n_resamples)
    cells = list(values.cells())
    compared = RAW in values.debias
    raw = [values.debias.index(RAW)] if compared else []
    others = [i for i, operation in enumerate(values.debias) if operation != RAW] if compared else []
    columns: dict[str, np.ndarray] = {}  # name -> (subsets, layers, debias, heads)
    for m, measure in enumerate(values.measures):
        measures, prefix = values.values[..., m], measure_prefix(measure)
        means = [bootstrap.mean(masked(measures, mask)) for mask in masks.values()]
        columns |= interval_columns(measure, means, measures.shape[1:])
        if others:
            gains = measures[:, :, others] - measures[:, :, raw]
            means = [bootstrap.mean(masked(gains, mask)) for mask in masks.values()]
            gain_columns = interval_columns(f"{prefix}gain", means, gains.shape[1:])
            family = _sign_flip_family(gains, list(masks.values()), values.images, n_sign_flips)
            gain_columns |= {f"{prefix}p": family.p, f"{prefix}p_adjusted": family.p_adjusted}
            columns |= _spread(gain_columns, others, len(values.debias))
    rows = []
    for k, (name, mask) in enumerate(masks.items()):
        counts = np.isfinite(values.values[mask, ..., 0]).sum(0)
        label = {} if subsets is None else {"subset": name}
        for at, cell in cells:
            count = {"n": int(counts[at]), "errors": int(values.failed[mask].sum())}
            rows.append({**label, **cell, **count, **{key: float(v[(k, *at)]) for key, v in columns.items()}})
    return pd.DataFrame(rows)


def masked(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Flatten (n, ...) values to (n, cells), NaN for the samples outside the mask."""
    return np.where(mask[:, None], values.reshape(len(values), math.prod(values.shape[1:])), np.nan)


def interval_columns(name: str, intervals: Sequence[Interval], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Make columns name, name_lo and name_hi (subsets, *shape) from one interval of flat cells per subset."""
    ends = zip(("", "_lo", "_hi"), zip(*intervals, strict=True), strict=True)
    return {name + end: np.reshape(values, (len(intervals), *shape)) for end, values in ends}


def _spread(columns: dict[str, np.ndarray], at: Sequence[int], n_operations: int) -> dict[str, np.ndarray]:
    """Columns of some operations as columns of all, NaN elsewhere."""
    wide = {}
    for name, values in columns.items():
        wide[name] = np.full((*values.shape[:2], n_operations, values.shape[3]), np.nan)
        wide[name][:, :, at] = values
    return wide


def _sign_flip_family(gains: np.ndarray, masks: Sequence[np.ndarray], images: np.ndarray, n_sign_flips: int) -> Family:
    """p-values (subsets, layers, debias, heads) of one family over all; only sums over images are held for them."""
    sums, names = zip(*(sum_by_image(masked(gains, mask), images) for mask in masks), strict=True)
    family = max_t(np.concatenate(sums, axis=1), names[0], n_resamples=n_sign_flips)
    return Family(*(np.reshape(p, (len(masks), *gains.shape[1:])) for p in family))
