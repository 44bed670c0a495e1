"""Heads rated by what they attend to: by quality, by votes for localization, by how they rank a target's tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from biaslab.core.boxes import Box
from biaslab.diagnostics.heads.ratings import HeadRatings, ratings_of
from biaslab.evaluation.metrics import auroc, target_tokens
from biaslab.maps.protocol import ReadableMaps
from biaslab.profiles.localization import Ballot
from biaslab.profiles.quality import quality_of, quality_sums

__all__ = ["by_auroc", "by_localization", "by_quality"]


def by_quality(maps: ReadableMaps, layers: Sequence[int], groups: np.ndarray) -> HeadRatings:
    """Rate heads by :func:`biaslab.profiles.head_quality`: not explained by position, blobs, a few tokens stick out.

    Parameters
    ----------
    maps : StoredMaps, or a view of them
        Of every head.
    layers : sequence of int
    groups : (n,) int array
        Of :func:`~biaslab.diagnostics.heads.ratings.groups_of`.

    Returns
    -------
    HeadRatings
    """
    sums = np.stack([quality_sums(maps, layer, maps.n) for layer in layers])  # layers, images, 5, heads

    def statistic(mask: np.ndarray) -> np.ndarray:
        return np.stack([quality_of(own[mask].sum(0), int(mask.sum()))[0] for own in sums])

    return ratings_of("quality", layers, groups, statistic, bounds=(0.0, np.inf))


def by_localization(
    maps: ReadableMaps,
    layers: Sequence[int],
    groups: np.ndarray,
    *,
    per_sample: int = 10,
    least: float = 1e-3,
    bottom_row: bool = False,
    elbow: str = "value",
) -> HeadRatings:
    """Rate heads by the share of images that vote for them (:class:`biaslab.profiles.LocalizationHeadsProfile`).

    Parameters
    ----------
    maps : StoredMaps, or a view of them
        Of every head.
    layers : sequence of int
    groups : (n,) int array
        Of :func:`~biaslab.diagnostics.heads.ratings.groups_of`.
    per_sample, least, bottom_row, elbow
        Of that profile. Intervals are those of the votes, the elbow being given.

    Returns
    -------
    HeadRatings
    """
    ballot = Ballot.of(maps, layers, n=None, least=least, bottom_row=bottom_row)

    voted = ballot.chosen(per_sample, elbow)
    return ratings_of("localization", layers, groups, lambda mask: voted[mask].mean(0), bounds=(0.0, 1.0))


def by_auroc(maps: ReadableMaps, layers: Sequence[int], groups: np.ndarray, targets: Sequence[Box]) -> HeadRatings:
    """Rate heads by the mean AUROC of their attention for the tokens of the target.

    Parameters
    ----------
    maps : StoredMaps, or a view of them
        Of every head, each image asked for its target.
    layers : sequence of int
    groups : (n,) int array
        Of :func:`~biaslab.diagnostics.heads.ratings.groups_of`.
    targets : sequence of Box
        Of each image, in its pixels.

    Returns
    -------
    HeadRatings
        NaN of heads without an image in which there is something to rank.
    """
    each = np.full((maps.n, len(layers), int(maps.heads)), np.nan)
    for i, box in enumerate(targets):
        positive = target_tokens(maps.record(i).layout, box)
        for at, layer in enumerate(layers):
            each[i, at] = auroc(maps.image(i, layer), positive)

    def statistic(mask: np.ndarray) -> np.ndarray:
        own = each[mask]
        counts = np.isfinite(own).sum(0)
        total: np.ndarray = np.nansum(own, axis=0)
        return np.where(counts > 0, total / np.maximum(counts, 1), np.nan)

    return ratings_of("auroc", layers, groups, statistic, bounds=(0.0, 1.0))
