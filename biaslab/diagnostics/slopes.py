"""Slopes of log attention over an order of parts of an image or prompt: tiles, frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from biaslab.core.layers import resolve_layers
from biaslab.diagnostics.log_maps import fold_means, head_names
from biaslab.errors import InputError
from biaslab.maps.protocol import Maps, expect_maps
from biaslab.stats.jackknife import jackknife_interval

__all__ = ["Sums", "slope_table", "sums_over"]

#: per head the products of place and part means, the squares of place, the squares of part means; and images
Sums = tuple[np.ndarray, np.ndarray, np.ndarray, int]


def sums_over(place: np.ndarray, level: np.ndarray, n: int) -> Sums:
    """Sum up parts of one layout: ``place`` (P,), mean log attention ``level`` (H, P) of ``n`` images."""
    x, y = place - place.mean(), level - level.mean(1, keepdims=True)
    return n * (y @ x), np.full(len(level), n * float(x @ x)), n * (y**2).sum(1), n


def slope_table(
    maps: Maps, sums_of: Callable[[Any, int, np.ndarray], Sums | None], *, unit: str, refused: str,
    layers: int | Iterable[int] | None, confidence: float,
) -> pd.DataFrame:  # fmt: skip
    """Fit a least-squares slope of each layer and head, with delete-one-fold jackknife intervals.

    Parameters
    ----------
    maps : Maps
    sums_of : callable
        Layout, images and (H, N) mean log attention of a fold -> what `sums_over` gives; None where there is nothing.
    unit : str
        What a step of the place is, in the column "per_UNIT".
    refused : str
        What is said where no layout has several parts.
    layers, confidence
        As of the measures.

    Raises
    ------
    InputError
        No layout has several parts.
    """
    expect_maps(maps)
    rows = []
    for layer in resolve_layers(layers, maps.layers, "the maps", "collect"):
        folds = [_added([sums_of(*each) for each in layouts]) for layouts in fold_means(maps, layer, log=True)]
        sums = [totals for totals in folds if totals is not None]
        if not sums:
            raise InputError(refused)
        cross, power, around = (np.stack([s[k] for s in sums]) for k in range(3))  # (folds, H)
        slope = cross.sum(0) / power.sum(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            without = (cross.sum(0) - cross) / (power.sum(0) - power)
            share = slope**2 * power.sum(0) / around.sum(0)
        lo, hi = jackknife_interval(slope, without, confidence=confidence)
        for h, head in enumerate(head_names(maps)):
            rows.append(
                {"layer": layer, "head": head, "slope": slope[h], "slope_lo": lo[h], "slope_hi": hi[h],
                 f"per_{unit}": np.exp(slope[h]), "share": share[h], "n": sum(s[3] for s in sums), "folds": len(sums)}
            )  # fmt: skip
    return pd.DataFrame(rows)


def _added(columns: Sequence[Sums | None]) -> Sums | None:
    known = [column for column in columns if column is not None]
    return tuple(sum(column) for column in zip(*known, strict=True)) if known else None  # type: ignore[return-value]
