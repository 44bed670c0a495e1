"""After removal, on held-out images: are the target's tokens found better, and where in the picture?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from biaslab.diagnostics.ranking import centre_of, ranking_values
from biaslab.diagnostics.ranking_table import (
    RAW,
    RankingValues,
    interval_columns,
    masked,
    measure_prefix,
    ranking_table,
)
from biaslab.errors import InputError
from biaslab.stats.resampling import ImageBootstrap

if TYPE_CHECKING:
    from biaslab.datasets.sample import Sample
    from biaslab.models.vlm import VLM
    from biaslab.profiles import Profile

__all__ = ["PLACES", "place_gaps", "place_of", "place_table", "removal_report"]

#: place name -> (axis of the box's centre, tercile)
PLACES = {"top": (1, 0), "middle": (1, 1), "bottom": (1, 2), "left": (0, 0), "centre": (0, 1), "right": (0, 2)}
_GAPS = (("right", "left"), ("bottom", "top"))


def removal_report(
    vlm: VLM,
    dataset: Any,
    profile: Profile,
    ops: Sequence[str] = ("raw", "ratio"),
    layers: int | Sequence[int] | None = None,
    keep: Sequence[float | int] = (0.1,),
    places: Sequence[str] = tuple(PLACES),
    n: int | None = None,
    *,
    strength: float | Mapping[int, float] = 1.0,
    score: str | Callable = "attention",
    n_resamples: int = 2000,
    n_sign_flips: int = 10_000,
    **options: Any,
) -> pd.DataFrame:
    """AUROC and kept share of the target's tokens, raw and debiased, overall and by where the target lies.

    The model runs once over the data set, which must hold other images than the profile was fitted on. For more than
    this table, such as :func:`place_gaps`, keep what was measured: ``values = ranking_values(vlm, dataset, ...)``,
    then ``place_table(values)`` (what this function returns) and ``place_gaps(values)``.

    How much variance position still explains is not reported: it falls whatever is divided out.

    Parameters
    ----------
    ops : "raw" and names of debias operations.
    places : keys of :data:`PLACES`, thirds of the picture's height (top, middle, bottom) and of its width (left,
        centre, right), by the centre of the target's box.
    strength, score : as in :func:`biaslab.diagnostics.ranking.ranking_values`.
    n_resamples, n_sign_flips : resamples of images for the intervals, sign flips for the p-values.
    **options : of ``ranking_values``: batch_size, heads, progress.

    Returns
    -------
    DataFrame
        The columns of `ranking_table`, after ``place`` ("all" or one of ``places``). A place
        without samples has no rows.

    Raises
    ------
    InputError
        An unknown place, or a data set that is empty.

    Notes
    -----
    ``auroc_lo`` to ``auroc_hi`` says how well one operation ranks targets of this place, over other images; those of
    two operations overlap easily, because images differ more than operations. Whether an operation is better than raw
    attention is said by ``gain``, the difference on the same samples, and its interval. Both hold row by row; among
    many rows some miss. ``p_adjusted`` speaks of the whole table: rejecting every row in which it is at most 0.05
    errs anywhere, in any layer, head, operation or place, with probability 0.05. Rows of two places are of different
    samples: their difference and its interval are in :func:`place_gaps`.
    """
    _check_places(places)
    measured = ranking_values(
        vlm, dataset, layers, profile, ops, n=n, keep=keep, strength=strength, score=score, **options
    )
    return place_table(measured, places, n_resamples, n_sign_flips)


def place_table(
    measured: RankingValues, places: Sequence[str] = tuple(PLACES), n_resamples: int = 2000, n_sign_flips: int = 10_000
) -> pd.DataFrame:
    """The table of :func:`removal_report` from what was measured.

    Raises
    ------
    InputError
        An unknown place.
    """
    _check_places(places)
    masks = {"all": np.ones(len(measured.ids), bool)} | {name: _inside(measured, name) for name in places}
    masks = {name: mask for name, mask in masks.items() if name == "all" or mask.any()}
    return ranking_table(measured, masks, n_resamples, n_sign_flips).rename(columns={"part": "place"})


def place_gaps(measured: RankingValues, n_resamples: int = 2000) -> pd.DataFrame:
    """How much better targets on the right are ranked than those on the left, and at the bottom than at the top.

    Parameters
    ----------
    measured
        What :func:`biaslab.diagnostics.ranking.ranking_values` measured.
    n_resamples
        Resamples of images.

    Returns
    -------
    DataFrame
        A row per pair of places, layer, op and head: place, against ("right" against "left", "bottom" against "top"),
        layer, op, head, n and n_against (samples with an AUROC); gap, gap_lo, gap_hi: AUROC in ``place`` minus AUROC
        in ``against``; where "raw" is among the operations, change, change_lo, change_hi: this gap minus raw
        attention's; and the same for every keep, ``kept@<keep>_gap`` and so on.

    Notes
    -----
    The two places hold different samples, so the gap is unpaired; images are resampled for both at once, because one
    picture may have targets in both. A gap may come from what lies there (smaller targets, other words) as well as
    from the model. The change is paired: the same samples enter both gaps. With the sign of raw attention's gap it
    widens the gap, against it it narrows or turns it. Intervals hold row by row and are NaN where a place has targets
    in fewer than two images.
    """
    bootstrap = ImageBootstrap(measured.images, n_resamples=n_resamples)
    raw = measured.ops.index(RAW) if RAW in measured.ops and len(measured.ops) > 1 else None
    masks = [tuple(_inside(measured, place) for place in pair) for pair in _GAPS]
    columns: dict[str, np.ndarray] = {}
    for m, measure in enumerate(measured.measures):
        values, prefix = measured.values[..., m], measure_prefix(measure)
        columns |= _contrasts(bootstrap, f"{prefix}gap", values, masks)
        if raw is not None:
            change = values - values[:, :, [raw]]
            change[:, :, raw] = np.nan
            columns |= _contrasts(bootstrap, f"{prefix}change", change, masks)
    rows = []
    for pair, (place, against) in enumerate(_GAPS):
        n, n_against = (np.isfinite(measured.values[mask, ..., 0]).sum(0) for mask in masks[pair])
        for at, cell in measured.cells():
            about = {"place": place, "against": against, **cell, "n": int(n[at]), "n_against": int(n_against[at])}
            rows.append(about | {name: float(v[(pair, *at)]) for name, v in columns.items()})
    return pd.DataFrame(rows)


def place_of(sample: Sample) -> tuple[int, int]:
    """Third of the width and of the height, 0 to 2, in which the centre of the target's box lies."""
    return tuple(int(third) for third in _thirds(np.array(centre_of(sample))))


def _thirds(centres: np.ndarray) -> np.ndarray:
    """Thirds 0 to 2 of shares of the picture; what lies outside of it belongs to the nearest."""
    return np.clip(np.floor(3 * centres), 0, 2).astype(int)


def _inside(measured: RankingValues, place: str) -> np.ndarray:
    axis, third = PLACES[place]
    return _thirds(measured.centres)[:, axis] == third


def _contrasts(
    bootstrap: ImageBootstrap, name: str, values: np.ndarray, masks: Sequence[tuple[np.ndarray, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Columns of the difference of two places, for every pair of them."""
    found = [bootstrap.contrast(masked(values, one), masked(values, other)) for one, other in masks]
    return interval_columns(name, found, values.shape[1:])


def _check_places(places: Sequence[str]) -> None:
    if unknown := [p for p in places if p not in PLACES]:
        raise InputError(f"unknown place {unknown[0]!r}: choose among {', '.join(PLACES)}")
