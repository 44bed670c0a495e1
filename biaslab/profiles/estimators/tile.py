"""One map for all tiles and one for the thumbnail, which transport to other tilings and grids."""

from __future__ import annotations

import numpy as np

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.profiles.base import Profile
from biaslab.profiles.estimators.grids import (
    PARTS,
    by_frame,
    checked_grid,
    commonest,
    gather,
    grid_of,
    one_tile,
    resize,
)
from biaslab.profiles.parts import Part
from biaslab.profiles.registry import Arrays, register

__all__ = ["TileProfile"]


@register
class TileProfile(Profile):
    """One map of rows x columns for every tile and, unless it is shared, one for the thumbnail.

    With ``thumbnail="shared"`` this is the prior D2Pruner's reproduction uses (one 256-vector for all tiles, the
    thumbnail included). Bias that depends on the order of the tiles stays in the debiased score either way, and
    with it whatever separates the thumbnail from them if the map is shared.

    Fitting averages the maps of all tiles of all layouts, each token's attention taken relative to its
    layout's mean (attention over ``mass / N``, mass being the attention all N visual tokens draw together),
    so that an image of 13 tiles and an image of one weigh alike per tile. ``expected`` turns it back into
    attention: the map, bilinearly interpolated (anti-aliased when it shrinks) to the grid of the asked
    layout, scaled so that it sums to that layout's mass; a layout that was not fitted gets the mean mass of
    those that were. The ranking of tokens under the ratio and log operations does not depend on that scale.

    The thumbnail's map is on the same scale: how much more a token of the thumbnail draws than one of a tile is
    the average over the layouts fitted, whatever their number of tiles. A layout with a thumbnail, asked of a
    profile that never saw one, gets the tiles' map there too. Images of free resolution are one tile each, so
    any grid can be asked of maps of any other; a map then stands for shares of the image's height and width.

    Frames of a video are images of one tile or more each, all alike: that late frames draw more stays in the score.

    ``std`` holds the variance between images *and* between tiles. On a single layout of one tile both maps
    equal `MeanProfile`'s.

    Parameters
    ----------
    grid : (rows, cols), optional
        Of the stored maps; default the grid that most images have, of tiles and thumbnails apart.
    thumbnail : {"apart", "shared"}
        "apart" for a map of its own, "shared" for one with the tiles.

    Examples
    --------
    >>> from biaslab import TokenLayout
    >>> from biaslab.maps.simulate import simulate
    >>> from biaslab.profiles import TileProfile
    >>> one, two, three = (TokenLayout.tiled(1, n, grid=(4, 4), size=(56 * n, 56), family="demo", thumbnail=True)
    ...                    for n in (1, 2, 3))
    >>> maps = simulate("tile-ordered", {one: 30, two: 30}).maps
    >>> expected = TileProfile().fit(maps).predict(three)  # a tiling that was not fitted
    >>> [round(float(expected[0, three.tile == tile].sum()), 2) for tile in range(4)]  # three tiles and the thumbnail
    [0.06, 0.06, 0.06, 0.13]
    """

    name = "tile"
    transports = frozenset({"layout"})
    frames = True

    def __init__(self, *, grid: tuple[int, int] | None = None, thumbnail: str = "apart") -> None:
        self.grid = grid
        self.thumbnail = thumbnail

    def _pool(self, parts: list[Part]) -> Arrays:
        mass = {p.layout.key: p.mean.sum(axis=1) for p in parts}  # (H,) each
        if any((m <= 0).any() for m in mass.values()):
            raise InputError("a head pays no attention to the image at all: leave that layer out, or use heads='mean'")
        level = {p.layout.key: (mass[p.layout.key] / p.layout.n)[:, None] for p in parts}
        relative = [p._replace(mean=p.mean / level[p.layout.key], var=p.var / level[p.layout.key] ** 2) for p in parts]
        total = sum(p.n for p in parts)
        pooled = sum(p.n * mass[p.layout.key] for p in parts) / total
        maps = self._pooled(relative)
        out = {name: {"expected": mean, "spread": np.sqrt(var)} for name, (mean, var) in maps.items()}
        out["tile"]["mass"] = pooled
        out |= {key: {"mass": m} for key, m in mass.items()}
        return {part: {k: v.astype(np.float32) for k, v in named.items()} for part, named in out.items()}

    def _expand(self, arrays: Arrays, layout: TokenLayout) -> tuple[np.ndarray, np.ndarray]:
        mass = arrays.get(layout.key, arrays["tile"])["mass"].astype(np.float64)
        mean, spread = (
            gather({p: arrays[p][k].astype(np.float64) for p in PARTS if p in arrays}, layout)
            for k in ("expected", "spread")
        )
        scale = (mass / mean.sum(axis=1))[:, None]
        return mean * scale, spread * scale

    def log_map(self, parts: list[Part], layout: TokenLayout) -> np.ndarray | None:
        """Predict the centred log map of any layout from log moments, pooled like attention; see :class:`Profile`."""
        if not parts:
            return None
        tokens = gather({name: mean for name, (mean, _) in self._pooled(parts).items()}, layout)
        return tokens - tokens.mean(axis=1, keepdims=True)

    def _pooled(self, parts: list[Part]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Mean and variance of the tiles' map, and of the thumbnails' where it is apart and there are any."""
        if self.thumbnail not in ("apart", "shared"):
            raise InputError(f"thumbnail must be 'apart' or 'shared', got {self.thumbnail!r}")
        parts = [frame for p in parts for frame in by_frame(p)]
        if self.thumbnail == "shared":
            tiles = [(p, t) for p in parts for t in np.unique(p.layout.tile)]
            return {"tile": _average(tiles, self._grid(tiles))}
        out = {}
        for name, flag in zip(PARTS, (False, True), strict=True):
            tiles = [(p, t) for p in parts for t in np.unique(p.layout.tile[p.layout.thumbnail == flag])]
            if tiles:
                out[name] = _average(tiles, self._grid(tiles))
        return out

    def _grid(self, tiles: list[tuple[Part, int]]) -> tuple[int, int]:
        if self.grid is not None:
            return checked_grid(self.grid)
        images = {(id(p), grid_of(p.layout, t)): p.n for p, t in tiles}
        return commonest((grid, n) for (_, grid), n in images.items())


def _average(tiles: list[tuple[Part, int]], grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and total variance (within + between tiles) over some tiles of all images: (H, rows, cols) each."""
    n_heads = tiles[0][0].mean.shape[0]
    weight, first, second = np.zeros(grid), *(np.zeros((n_heads, *grid)) for _ in range(2))
    for part, tile in tiles:
        mean, var, exists = one_tile(part, tile)
        w = part.n * resize(exists, grid)
        # values are interpolated over the cells that exist; a cell that no tile has keeps weight 0
        with np.errstate(invalid="ignore", divide="ignore"):
            m, v = (np.nan_to_num(resize(x * exists, grid) / resize(exists, grid)) for x in (mean, var))
        weight += w
        first += w * m
        second += w * (v + m**2)
    covered = weight > 0
    safe = np.where(covered, weight, 1.0)
    mean = first / safe
    var = np.maximum(second / safe - mean**2, 0.0)
    if not covered.all():  # nothing is known there: the average cell is the neutral guess
        mean[:, ~covered] = mean[:, covered].mean(axis=1, keepdims=True)
        var[:, ~covered] = var[:, covered].mean(axis=1, keepdims=True)
    return mean, var
