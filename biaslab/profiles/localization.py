"""Which heads localise, by votes of calibration images: image mass, elbow, spatial entropy, frequency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from biaslab.maps.protocol import ReadableMaps
from biaslab.maps.spatial_entropy import foreground
from biaslab.stats.elbow import elbow
from biaslab.stats.hit_rate import hit_rate

__all__ = ["ELBOWS", "Ballot", "votes"]

ELBOWS = ("value", "index")
_TAIL = 4  # of the heads above the elbow at most one in so many is voted for by an image


@dataclass(frozen=True)
class Ballot:
    """What every image votes on.

    Attributes
    ----------
    layers : list of int
        Decoder layers.
    images : list of str
        Image ids.
    mass : (n, L, H) array
        Attention that each head gives the image.
    entropy : (n, L, H) array
        Spatial entropy; inf where nothing stands out, or where the whole bottom row does.
    """

    layers: list[int]
    images: list[str]
    mass: np.ndarray
    entropy: np.ndarray

    @classmethod
    def of(cls, maps: ReadableMaps, layers: Sequence[int], *, n: int | None, least: float, bottom_row: bool) -> Ballot:
        """Measure the maps of every image.

        Parameters
        ----------
        maps : StoredMaps, or a view of them
            Of every head.
        layers : sequence of int
        n : int, optional
            Images at most.
        least : float
            As of :func:`biaslab.maps.spatial_entropy.foreground`.
        bottom_row : bool
            Whether a head may be voted for by an image in which its whole bottom row stands out.
        """
        count = maps.n if n is None else min(n, maps.n)
        shape = (count, len(layers), int(maps.heads))
        mass, entropy = np.zeros(shape), np.zeros(shape)
        for i in range(count):
            layout = maps.record(i).layout
            for at, layer in enumerate(layers):
                attention = maps.image(i, layer)
                found = foreground(attention, layout, least=least)
                mass[i, at] = attention.sum(1)
                entropy[i, at] = found.entropy if bottom_row else np.where(found.fills_bottom, np.inf, found.entropy)
        return cls(list(layers), [maps.record(i).id for i in range(count)], mass, entropy)

    def above(self, rule: str = "value") -> np.ndarray:
        """(L, H) bool: heads above the elbow of the mean image mass; ``rule`` is one of `ELBOWS`."""
        mean = self.mass.mean(0)
        rank = elbow(mean.ravel())
        if rule == "index":
            return (np.arange(mean.size) <= rank).reshape(mean.shape)
        return mean >= np.sort(mean.ravel())[::-1][rank]

    def chosen(self, per_sample: int, rule: str = "value") -> np.ndarray:
        """(n, L, H) bool: the heads of lowest entropy that each image votes for, among those above the elbow.

        Of equal entropies, as all maps of one component have, that of more mass comes first.
        """
        above = self.above(rule)
        k = min(per_sample, max(1, int(above.sum()) // _TAIL))
        entropy = np.where(above, self.entropy, np.inf).reshape(len(self.entropy), -1)
        order = np.lexsort((-self.mass.reshape(entropy.shape), entropy))[:, :k]
        ballots = np.zeros(entropy.shape, dtype=bool)
        np.put_along_axis(ballots, order, np.take_along_axis(np.isfinite(entropy), order, 1), 1)
        return ballots.reshape(self.entropy.shape)


def votes(ballot: Ballot, *, per_sample: int, rule: str = "value") -> pd.DataFrame:
    """Count the votes.

    Parameters
    ----------
    ballot : Ballot
    per_sample : int
        Heads that an image votes for, at most; never more than a quarter of those above the elbow.
    rule : str
        One of `ELBOWS`.

    Returns
    -------
    DataFrame
        A row per layer and head: ``layer``, ``head``, ``frequency`` (share of the images that vote for it), ``lo``,
        ``hi`` (over images, the elbow being given), ``mass``, ``entropy`` (mean of the images where something
        stands out; NaN where nothing does), ``above`` (the elbow: 1 or 0).
    """
    chosen = ballot.chosen(per_sample, rule)
    flat = chosen.reshape(len(chosen), -1).astype(float)
    interval = hit_rate(flat, ballot.images)
    finite = np.isfinite(ballot.entropy)
    counts = finite.sum(0)
    total = np.where(finite, ballot.entropy, 0).sum(0)
    entropy = np.where(counts > 0, total / np.maximum(counts, 1), np.nan)
    layer, head = np.indices(chosen.shape[1:])
    return pd.DataFrame({
        "layer": np.asarray(ballot.layers)[layer.ravel()], "head": head.ravel(), "frequency": flat.mean(0),
        "lo": interval[1], "hi": interval[2], "mass": ballot.mass.mean(0).ravel(), "entropy": entropy.ravel(),
        "above": ballot.above(rule).ravel().astype(int),
    })  # fmt: skip
