"""Ranking of the target's tokens after removal, on held-out images, by location in the image."""

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

__all__ = ["LOCATIONS", "location_gaps", "location_of", "location_table", "removal_report"]

#: location -> (axis of the box's centre, tercile)
LOCATIONS = {"top": (1, 0), "middle": (1, 1), "bottom": (1, 2), "left": (0, 0), "centre": (0, 1), "right": (0, 2)}
_GAPS = (("right", "left"), ("bottom", "top"))


def removal_report(
    vlm: VLM,
    dataset: Any,
    profile: Profile,
    *,
    layers: int | Sequence[int] | None = None,
    score: str | Callable = "attention",
    debias: Sequence[str] = ("raw", "ratio"),
    keep: Sequence[float | int] = (0.1,),
    n: int | None = None,
    locations: Sequence[str] = tuple(LOCATIONS),
    strength: float | Mapping[int, float] = 1.0,
    n_resamples: int = 2000,
    n_sign_flips: int = 10_000,
    **options: Any,
) -> pd.DataFrame:
    """Report AUROC and kept share of the target's tokens, raw and debiased, overall and by where the target lies.

    The model runs once over the data set, which must hold other images than the profile was fitted on. For more than
    this table, such as :func:`location_gaps`, keep the values: ``values = ranking_values(vlm, dataset, ...)``, then
    ``location_table(values)`` (which this function returns) and ``location_gaps(values)``.

    How much variance position still explains is not reported: it falls whatever is divided out.

    Parameters
    ----------
    vlm : VLM
        The model.
    dataset : Dataset
        Expressions with the boxes of their targets.
    profile : Profile
        Fitted on other images, with the same score.
    layers, score, keep, n, strength
        As in :func:`biaslab.diagnostics.ranking.ranking_values`.
    debias : sequence of str
        "raw" and names of debias operations.
    locations : sequence of str
        Keys of :data:`LOCATIONS`, thirds of the image's height (top, middle, bottom) and of its width (left, centre,
        right), by the centre of the target's box.
    n_resamples : int
        Resamples of images for the intervals.
    n_sign_flips : int
        Sign flips of images for the p-values.
    **options
        Of ``ranking_values``: heads, batch_size, progress.

    Returns
    -------
    DataFrame
        The columns of `ranking_table`, after ``location`` ("all" or one of ``locations``). A location without samples
        has no rows.

    Raises
    ------
    InputError
        An unknown location, or a data set that is empty.

    Notes
    -----
    ``auroc_lo`` to ``auroc_hi`` says how well one operation ranks targets at this location, over other images; those of
    two operations overlap easily, because images differ more than operations. Whether an operation is better than raw
    attention is said by ``gain``, the difference on the same samples, and its interval. Both hold row by row; among
    many rows some miss. ``p_adjusted`` speaks of the whole table: rejecting every row in which it is at most 0.05
    errs anywhere, in any layer, head, operation or location, with probability 0.05. Rows of two locations are of
    different samples: their difference and its interval are in :func:`location_gaps`.

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.diagnostics import removal_report
    >>> vlm = bl.load("grounder")
    >>> calibration = list(bl.load_dataset("scenes", split="validation", n=2))
    >>> profile = bl.MeanProfile().fit(bl.collect(vlm, calibration, layers=[1], progress=False))
    >>> scenes = bl.load_dataset("scenes", split="test", n=2)
    >>> report = removal_report(vlm, scenes, profile, layers=[1], locations=[], n_resamples=50, progress=False)
    >>> report[["location", "layer", "debias", "head", "n"]]
      location  layer debias  head  n
    0      all      1    raw  mean  2
    1      all      1  ratio  mean  2
    """
    _check_locations(locations)
    values = ranking_values(
        vlm, dataset, layers=layers, score=score, profile=profile, debias=debias, keep=keep, n=n,
        strength=strength, **options,
    )  # fmt: skip
    return location_table(values, locations=locations, n_resamples=n_resamples, n_sign_flips=n_sign_flips)


def location_table(
    values: RankingValues,
    *,
    locations: Sequence[str] = tuple(LOCATIONS),
    n_resamples: int = 2000,
    n_sign_flips: int = 10_000,
) -> pd.DataFrame:
    """Make the table of :func:`removal_report` from per-sample values.

    Parameters
    ----------
    values : RankingValues
        Of :func:`biaslab.diagnostics.ranking.ranking_values`.
    locations : sequence of str
        Keys of :data:`LOCATIONS`.
    n_resamples, n_sign_flips : int
        Resamples of images for the intervals, sign flips for the p-values.

    Returns
    -------
    DataFrame
        The columns of `ranking_table`, after ``location``.

    Raises
    ------
    InputError
        An unknown location.

    Examples
    --------
    Four targets at the left and four at the right, two in each of four images:

    >>> import numpy as np
    >>> from biaslab.diagnostics import location_table
    >>> from biaslab.diagnostics.ranking_table import RankingValues
    >>> auroc = np.repeat([[0.5, 0.6], [0.7, 0.75]], 4, axis=0).reshape(8, 1, 2, 1, 1)
    >>> centres = np.stack([np.repeat([0.1, 0.9], 4), np.full(8, 0.5)], axis=1)
    >>> samples = {"ids": np.arange(8), "images": np.tile(list("abcd"), 2), "centres": centres}
    >>> values = RankingValues(auroc, [3], ["raw", "ratio"], [["mean"]], ["auroc"], failed=np.zeros(8, bool), **samples)
    >>> table = location_table(values, locations=["left", "right"], n_resamples=100)
    >>> table[["location", "debias", "n", "auroc", "gain"]].round(2)
      location debias  n  auroc  gain
    0      all    raw  8   0.60   NaN
    1      all  ratio  8   0.68  0.08
    2     left    raw  4   0.50   NaN
    3     left  ratio  4   0.60  0.10
    4    right    raw  4   0.70   NaN
    5    right  ratio  4   0.75  0.05
    """
    _check_locations(locations)
    masks = {"all": np.ones(len(values.ids), bool)} | {name: _inside(values, name) for name in locations}
    masks = {name: mask for name, mask in masks.items() if name == "all" or mask.any()}
    table = ranking_table(values, subsets=masks, n_resamples=n_resamples, n_sign_flips=n_sign_flips)
    return table.rename(columns={"subset": "location"})


def location_gaps(values: RankingValues, *, n_resamples: int = 2000) -> pd.DataFrame:
    """Measure how much better targets on the right are ranked than on the left, and at the bottom than at the top.

    Parameters
    ----------
    values : RankingValues
        Of :func:`biaslab.diagnostics.ranking.ranking_values`.
    n_resamples : int
        Resamples of images.

    Returns
    -------
    DataFrame
        A row per pair of locations, layer, debias and head: location, against ("right" against "left", "bottom"
        against "top"), layer, debias, head, n and n_against (samples with an AUROC); gap, gap_lo, gap_hi: AUROC in
        ``location`` minus AUROC in ``against``; where "raw" is among the operations, change, change_lo, change_hi: this
        gap minus raw attention's; and the same for every keep, ``kept@<keep>_gap`` and so on.

    Notes
    -----
    The two locations hold different samples, so the gap is unpaired; images are resampled for both at once, because one
    image may have targets in both. A gap may come from what lies there (smaller targets, other words) as well as
    from the model. The change is paired: the same samples enter both gaps. With the sign of raw attention's gap it
    widens the gap, against it it narrows or turns it. Intervals hold row by row and are NaN where a location has
    targets in fewer than two images.

    Examples
    --------
    >>> import numpy as np
    >>> from biaslab.diagnostics import location_gaps
    >>> from biaslab.diagnostics.ranking_table import RankingValues
    >>> auroc = np.repeat([[0.5, 0.6], [0.7, 0.75]], 4, axis=0).reshape(8, 1, 2, 1, 1)
    >>> centres = np.stack([np.repeat([0.1, 0.9], 4), np.full(8, 0.5)], axis=1)
    >>> samples = {"ids": np.arange(8), "images": np.tile(list("abcd"), 2), "centres": centres}
    >>> values = RankingValues(auroc, [3], ["raw", "ratio"], [["mean"]], ["auroc"], failed=np.zeros(8, bool), **samples)
    >>> table = location_gaps(values, n_resamples=100)
    >>> table.loc[table["location"] == "right", ["location", "against", "debias", "gap", "change"]].round(2)
      location against debias   gap  change
    0    right    left    raw  0.20     NaN
    1    right    left  ratio  0.15   -0.05
    """
    bootstrap = ImageBootstrap(values.images, n_resamples=n_resamples)
    raw = values.debias.index(RAW) if RAW in values.debias and len(values.debias) > 1 else None
    masks = [(_inside(values, location), _inside(values, against)) for location, against in _GAPS]
    columns: dict[str, np.ndarray] = {}
    for m, measure in enumerate(values.measures):
        measures, prefix = values.values[..., m], measure_prefix(measure)
        columns |= _contrasts(bootstrap, f"{prefix}gap", measures, masks)
        if raw is not None:
            change = measures - measures[:, :, [raw]]
            change[:, :, raw] = np.nan
            columns |= _contrasts(bootstrap, f"{prefix}change", change, masks)
    rows = []
    for pair, (location, against) in enumerate(_GAPS):
        n, n_against = (np.isfinite(values.values[mask, ..., 0]).sum(0) for mask in masks[pair])
        for at, cell in values.cells():
            count = {"n": int(n[at]), "n_against": int(n_against[at])}
            gaps = {name: float(v[(pair, *at)]) for name, v in columns.items()}
            rows.append({"location": location, "against": against, **cell, **count, **gaps})
    return pd.DataFrame(rows)


def location_of(sample: Sample) -> tuple[int, int]:
    """Give the third of the width and of the height, 0 to 2, in which the centre of the target's box lies."""
    column, row = _thirds(np.array(centre_of(sample)))
    return int(column), int(row)


def _thirds(centres: np.ndarray) -> np.ndarray:
    """Thirds 0 to 2 of shares of the image; what lies outside of it belongs to the nearest."""
    return np.clip(np.floor(3 * centres), 0, 2).astype(int)


def _inside(values: RankingValues, location: str) -> np.ndarray:
    axis, third = LOCATIONS[location]
    return _thirds(values.centres)[:, axis] == third


def _contrasts(
    bootstrap: ImageBootstrap, name: str, values: np.ndarray, masks: Sequence[tuple[np.ndarray, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Columns of the difference of two locations, for every pair of them."""
    contrasts = [bootstrap.contrast(masked(values, here), masked(values, there)) for here, there in masks]
    return interval_columns(name, contrasts, values.shape[1:])


def _check_locations(locations: Sequence[str]) -> None:
    if unknown := [name for name in locations if name not in LOCATIONS]:
        raise InputError(f"unknown location {unknown[0]!r}: choose among {', '.join(LOCATIONS)}")
