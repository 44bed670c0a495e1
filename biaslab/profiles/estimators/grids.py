"""Tiles as grids of cells: reading maps from a layout's tiles, and bringing them to other grids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch.nn.functional import interpolate

from biaslab.core.frames import FramesLayout, parts_of_frames
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.profiles.parts import Part

__all__ = ["PARTS", "by_frame", "checked_grid", "commonest", "gather", "grid_of", "one_tile", "resize"]

PARTS = ("tile", "thumbnail")


def checked_grid(grid: Sequence[int]) -> tuple[int, int]:
    """Check the parameter ``grid`` of an estimator and give it as (rows, cols).

    Raises
    ------
    InputError
        A count below 1.
    """
    rows, cols = (int(v) for v in grid)
    if rows < 1 or cols < 1:
        raise InputError(f"grid must be two positive counts, got {grid}: for example (16, 16)")
    return rows, cols


def commonest(grids: Iterable[tuple[tuple[int, int], int]]) -> tuple[int, int]:
    """Find the grid that most images have, from one or more (grid, images) pairs."""
    votes: dict[tuple[int, int], int] = {}
    for grid, n in grids:
        votes[grid] = votes.get(grid, 0) + n
    return max(votes, key=lambda g: (votes[g], g))


def grid_of(layout: TokenLayout, tile: int) -> tuple[int, int]:
    """Rows and columns of one tile, or of the thumbnail."""
    return layout.thumbnail_grid if layout.thumbnail[layout.tile == tile][0] else layout.grid


def one_tile(part: Part, tile: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and variance (H, rows, cols) of one tile, and which cells exist (rows, cols)."""
    layout = part.layout
    at, grid = np.flatnonzero(layout.tile == tile), grid_of(layout, tile)
    mean, var = (np.zeros((part.mean.shape[0], *grid)) for _ in range(2))
    exists = np.zeros(grid)
    row, col = layout.row[at], layout.col[at]
    mean[:, row, col], var[:, row, col], exists[row, col] = part.mean[:, at], part.var[:, at], 1.0
    return mean, var, exists


def by_frame(part: Part) -> list[Part]:
    """Take prompts of several frames apart: a part for each frame; of single images the part itself."""
    if not isinstance(part.layout, FramesLayout):
        return [part]
    return [Part(own, part.n, part.mean[:, at], part.var[:, at]) for own, at in parts_of_frames(part.layout)]


def gather(maps: dict[str, np.ndarray], layout: TokenLayout) -> np.ndarray:
    """(H, rows, cols) maps -> (H, N) at the cells of a layout, interpolated to its grids."""
    if isinstance(layout, FramesLayout):
        return np.concatenate([gather(maps, part) for part in layout.parts], axis=1)
    out = np.empty((maps["tile"].shape[0], layout.n))
    for name, at in zip(PARTS, (~layout.thumbnail, layout.thumbnail), strict=True):
        if at.any():
            grid = layout.thumbnail_grid if name == "thumbnail" else layout.grid
            values = resize(maps.get(name, maps["tile"]), grid)
            out[:, at] = values[:, layout.row[at], layout.col[at]]
    return out


def resize(values: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Bilinear, cell centre to cell centre; exact copy when the grid is the same."""
    if values.shape[-2:] == tuple(grid):
        return values
    image = torch.from_numpy(np.ascontiguousarray(values)).reshape(1, -1, *values.shape[-2:])
    out = interpolate(image, size=tuple(grid), mode="bilinear", align_corners=False, antialias=True)
    return out.reshape(*values.shape[:-2], *grid).numpy()
