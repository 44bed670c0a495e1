"""A smooth trend over the tiles of an image in reading order, for the factorised profile."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import linalg

from biaslab.core.frames import FramesLayout
from biaslab.core.layout import TokenLayout
from biaslab.profiles.parts import Part

__all__ = ["ORDERS", "Trend", "choose_trend"]

#: what a tile's place in the reading order is counted by
ORDERS = ("start", "end", "relative")

_STRENGTHS = tuple(np.logspace(-3, 3, 7))
_RELATIVE_KNOTS = 9
_FRAME_KNOTS = 17
_LIGHT = 0.1
_TINY = 1e-8


@dataclass(frozen=True)
class Trend:
    """Piecewise linear values at knots, whose second differences are penalised.

    Attributes
    ----------
    order : str
        One of :data:`ORDERS`.
    knots : (K,) array
        Tiles before ("start") or after ("end") the tile, or (t + 1/2) / T ("relative").
    strength : float
        Penalty in units of the average knot's weight of data.
    weights : (K,) array
        Share of each knot in the tiles of the images fitted; empty in a loaded profile.
    """

    order: str
    knots: np.ndarray
    strength: float
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def over(cls, layouts: list[TokenLayout], order: str, strength: float, counts: list[int] | None = None) -> Trend:
        """Place the knots for some layouts.

        Parameters
        ----------
        layouts : list of TokenLayout
            Layouts fitted.
        order : str
            One of :data:`ORDERS`.
        strength : float
            Penalty.
        counts : list of int, optional
            Images of each layout; default one each.
        """
        most = max(len(_tiles(x)) for x in layouts)
        knots = np.linspace(0, 1, _RELATIVE_KNOTS) if order == "relative" else np.arange(max(most, 2), dtype=float)
        bare = cls(order, knots, strength)
        counts = counts or [1] * len(layouts)
        total = sum(n * bare.at(_tiles(x), len(_tiles(x))).sum(axis=0) for n, x in zip(counts, layouts, strict=True))
        return cls(order, knots, strength, total / total.sum())

    def at(self, tile: np.ndarray, count: int) -> np.ndarray:
        """(len(tile), K) interpolation weights for tiles of an image of ``count`` tiles; linear beyond the knots."""
        location = {"start": tile, "end": count - 1 - tile, "relative": (tile + 0.5) / count}[self.order]
        lower = np.clip(np.searchsorted(self.knots, location, side="right") - 1, 0, len(self.knots) - 2)
        share = (location - self.knots[lower]) / (self.knots[lower + 1] - self.knots[lower])
        out = np.zeros((len(tile), len(self.knots)))
        rows = np.arange(len(tile))
        out[rows, lower], out[rows, lower + 1] = 1 - share, share
        return out

    def basis(self, layout: TokenLayout) -> np.ndarray:
        """(N, K) interpolation weights of every token; zeros in the thumbnail."""
        if isinstance(layout, FramesLayout):
            return np.concatenate([self.basis(part) for part in layout.parts])
        out = np.zeros((layout.n, len(self.knots)))
        tiles = ~layout.thumbnail
        order = np.unique(layout.tile[tiles], return_inverse=True)[1]
        out[tiles] = self.at(order, len(_tiles(layout)))
        return out

    @classmethod
    def over_frames(cls, layouts: list[TokenLayout], counts: list[int]) -> Trend:
        """Place the knots of a trend over the frames of a video: a frame's place is the share of the video passed.

        Parameters
        ----------
        layouts : list of TokenLayout
            Layouts fitted; a single image is a video of one frame.
        counts : list of int
            Images of each layout.
        """
        bare = cls("relative", np.linspace(0, 1, _FRAME_KNOTS), _LIGHT)
        total = sum(n * bare.frames_basis(x).mean(axis=0) for n, x in zip(counts, layouts, strict=True))
        return cls("relative", bare.knots, _LIGHT, total / total.sum())

    def frames_basis(self, layout: TokenLayout) -> np.ndarray:
        """(N, K) interpolation weights of every token by its frame; of a single image those of the middle."""
        if isinstance(layout, FramesLayout):
            return self.at(layout.frame, layout.n_frames)
        return self.at(np.zeros(layout.n, dtype=np.int64), 1)

    def penalty(self, scale: float) -> np.ndarray:
        """(K, K) quadratic penalty, ``scale`` being the average diagonal of the data's normal equations."""
        second = np.diff(np.eye(len(self.knots)), 2, axis=0)
        return self.strength * scale * second.T @ second


def choose_trend(parts: list[Part], order: str, strength: float | str) -> Trend:
    """Choose order and strength by leave-one-layout-out over the levels of tiles and thumbnail.

    Parameters
    ----------
    parts : list of Part
        Log maps from which the maps within tiles are taken off.
    order : str
        "auto" or one of :data:`ORDERS`.
    strength : float or "cv"
        Penalty.

    Returns
    -------
    Trend
        With the knots of the longest layout.
    """
    layouts, counts = [p.layout for p in parts], [p.n for p in parts]
    orders = list(ORDERS) if order == "auto" else [order]
    strengths = _STRENGTHS if strength == "cv" else (float(strength),)
    units = [u for u in map(_units, parts) if len(u[0]) > 1]
    if len(orders) * len(strengths) > 1 and len(units) >= 3:
        trials = [
            (_left_out(units, Trend.over(layouts, o, s)), i, o, s)
            for i, (o, s) in enumerate((o, s) for o in orders for s in strengths)
        ]
        _, _, best, penalty = min(trials)
    else:
        best = order if order != "auto" else "relative"
        penalty = _LIGHT if strength == "cv" else strengths[0]
    return Trend.over(layouts, best, penalty, counts)


def _tiles(layout: TokenLayout) -> np.ndarray:
    return np.arange(len(np.unique(layout.tile[~layout.thumbnail])))


def _units(part: Part) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, bool]:
    """Levels (U, H) of the tiles in order and, last, of the thumbnail; weights (U,); tiles; thumbnail or not."""
    layout = part.layout
    inside = np.unique(layout.tile[~layout.thumbnail])
    groups = [layout.tile == t for t in inside]
    groups += [layout.thumbnail] * bool(layout.thumbnail.any())
    levels = np.stack([part.mean[:, g].mean(axis=1) for g in groups])
    weights = part.n * np.array([g.sum() for g in groups], dtype=float)
    return levels, weights, inside, len(inside), bool(layout.thumbnail.any())


def _left_out(units: list, trend: Trend) -> float:
    """Weighted squared error of each layout's levels, predicted from the other layouts."""
    systems = [_centred(u, trend) for u in units]
    error = 0.0
    for i, (x, y, w) in enumerate(systems):
        rest = systems[:i] + systems[i + 1 :]
        gram = sum(a.T @ (v[:, None] * a) for a, _, v in rest)
        product = sum(a.T @ (v[:, None] * b) for a, b, v in rest)
        k = len(trend.knots)
        gram[:k, :k] += trend.penalty(np.trace(gram[:k, :k]) / k)
        gram[np.diag_indices_from(gram)] += _TINY * np.trace(gram) / len(gram)
        residual = y - x @ linalg.solve(gram, product, assume_a="pos")
        error += float((w[:, None] * residual**2).sum())
    return error


def _centred(unit: tuple, trend: Trend) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Design (U, K + 1) with the thumbnail's offset last, levels and weights, the layout's own level taken off."""
    levels, weights, inside, count, thumbnail = unit
    x = np.zeros((len(levels), len(trend.knots) + 1))
    x[:count, :-1] = trend.at(np.arange(len(inside)), count)
    x[count:, -1] = 1.0 if thumbnail else 0.0
    share = weights / weights.sum()
    return x - share @ x, levels - share @ levels, weights
