"""One map shared by all tiles, which transports to other tilings and grids."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn.functional import interpolate

from biaslab.errors import InputError
from biaslab.layout import TokenLayout

from .base import Arrays, Part, Profile, register

__all__ = ["TileProfile"]


@register
class TileProfile(Profile):
    """One map of rows x columns for every tile, the thumbnail included.

    This is the prior D2Pruner's reproduction uses (one 256-vector for all tiles): bias that depends on the
    order of the tiles, or that separates the thumbnail from them, stays in the debiased score.

    Fitting averages the maps of all tiles of all layouts, each token's attention taken relative to its
    layout's mean (attention over ``mass / N``, mass being the attention all N visual tokens draw together),
    so that a picture of 13 tiles and a picture of one weigh alike per tile. ``expected`` turns it back into
    attention: the map, bilinearly interpolated (anti-aliased when it shrinks) to the grid of the asked
    layout, scaled so that it sums to that layout's mass; a layout that was not fitted gets the mean mass of
    those that were. The ranking of tokens under the ratio and log operations does not depend on that scale.

    ``spread`` holds the variance between images *and* between tiles. On a single layout of one tile both maps
    equal :class:`~biaslab.profiles.mean.MeanProfile`'s.

    Parameters
    ----------
    grid : (rows, cols) of the stored map; default the tile grid that most images have.
    """

    name = "tile"
    transports = frozenset({"layout"})

    def __init__(self, grid: tuple[int, int] | None = None) -> None:
        self.grid = grid

    def _pool(self, parts: list[Part]) -> Arrays:
        grid = self._grid(parts)
        mass = {p.layout.key: p.mean.sum(axis=1) for p in parts}  # (H,) each
        if any((m <= 0).any() for m in mass.values()):
            raise InputError(
                "a head pays no attention to the image at all: leave that layer out, or use heads='mean'"
            )
        level = {p.layout.key: (mass[p.layout.key] / p.layout.n)[:, None] for p in parts}
        relative = [
            p._replace(mean=p.mean / level[p.layout.key], var=p.var / level[p.layout.key] ** 2) for p in parts
        ]
        mean, var = _average(relative, grid)
        total = sum(p.n for p in parts)
        pooled = sum(p.n * mass[p.layout.key] for p in parts) / total
        out = {"tile": {"expected": mean, "spread": np.sqrt(var), "mass": pooled}}
        out |= {key: {"mass": m} for key, m in mass.items()}
        return {part: {k: v.astype(np.float32) for k, v in named.items()} for part, named in out.items()}

    def _expand(self, arrays: Arrays, layout: TokenLayout) -> tuple[np.ndarray, np.ndarray]:
        shared = arrays["tile"]
        mass = arrays.get(layout.key, shared)["mass"].astype(np.float64)
        mean, spread = (_gather(shared[k].astype(np.float64), layout) for k in ("expected", "spread"))
        scale = (mass / mean.sum(axis=1))[:, None]
        return mean * scale, spread * scale

    def log_map(self, parts: list[Part], layout: TokenLayout) -> np.ndarray | None:
        if not parts:
            return None
        mean, _ = _average(parts, self._grid(parts))
        tokens = _gather(mean, layout)
        return tokens - tokens.mean(axis=1, keepdims=True)

    def _grid(self, parts: list[Part]) -> tuple[int, int]:
        if self.grid is not None:
            rows, cols = (int(v) for v in self.grid)
            if rows < 1 or cols < 1:
                raise InputError(f"grid must be two positive counts, got {self.grid}: for example (16, 16)")
            return rows, cols
        votes: dict[tuple[int, int], int] = {}
        for p in parts:
            votes[tuple(p.layout.grid)] = votes.get(tuple(p.layout.grid), 0) + p.n
        return max(votes, key=lambda g: (votes[g], g))


def _average(parts: list[Part], grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and total variance (within tiles + between tiles) over all tiles of all images: (H, rows, cols)
    each.
    """
    n_heads = parts[0].mean.shape[0]
    weight, first, second = np.zeros(grid), *(np.zeros((n_heads, *grid)) for _ in range(2))
    for part in parts:
        for mean, var, known in _tiles(part):
            w = part.n * _resize(known, grid)
            # values are interpolated over the cells that exist; a cell that no tile has keeps weight 0
            with np.errstate(invalid="ignore", divide="ignore"):
                m, v = (np.nan_to_num(_resize(x * known, grid) / _resize(known, grid)) for x in (mean, var))
            weight += w
            first += w * m
            second += w * (v + m**2)
    seen = weight > 0
    safe = np.where(seen, weight, 1.0)
    mean = first / safe
    var = np.maximum(second / safe - mean**2, 0.0)
    if not seen.all():  # nothing is known there: the average cell is the neutral guess
        mean[:, ~seen] = mean[:, seen].mean(axis=1, keepdims=True)
        var[:, ~seen] = var[:, seen].mean(axis=1, keepdims=True)
    return mean, var


def _tiles(part: Part) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per tile: mean and variance (H, rows, cols) and which cells exist (rows, cols)."""
    layout = part.layout
    for tile in np.unique(layout.tile):
        at = np.flatnonzero(layout.tile == tile)
        mean, var = (np.zeros((part.mean.shape[0], *layout.grid)) for _ in range(2))
        known = np.zeros(layout.grid)
        row, col = layout.row[at], layout.col[at]
        mean[:, row, col], var[:, row, col], known[row, col] = part.mean[:, at], part.var[:, at], 1.0
        yield mean, var, known


def _gather(values: np.ndarray, layout: TokenLayout) -> np.ndarray:
    """(H, rows, cols) map -> (H, N) at the cells of a layout, interpolated to its grid."""
    return _resize(values, tuple(layout.grid))[:, layout.row, layout.col]


def _resize(values: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Bilinear, cell centre to cell centre; exact copy when the grid is the same."""
    if values.shape[-2:] == tuple(grid):
        return values
    image = torch.from_numpy(np.ascontiguousarray(values)).reshape(1, -1, *values.shape[-2:])
    out = interpolate(image, size=tuple(grid), mode="bilinear", align_corners=False, antialias=True)
    return out.reshape(*values.shape[:-2], *grid).numpy()
