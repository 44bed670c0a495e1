"""Arrays of the regular token layouts: tiles with an optional thumbnail, and rasters cut to a window."""

from __future__ import annotations

from typing import Any

import numpy as np

from biaslab.errors import InputError

__all__ = ["WHOLE", "Region", "pair", "tiled_arrays", "unpadded_arrays"]

#: x0, y0, x1, y1 in fractions of the original image
Region = tuple[float, float, float, float]

#: the region of an image that was neither padded nor cropped
WHOLE: Region = (0.0, 0.0, 1.0, 1.0)


def tiled_arrays(
    tiles: tuple[int, int], grid: tuple[int, int], *, thumbnail: bool, region: Region, coverage: float
) -> dict[str, Any]:
    """Tiles in reading order, each a row-major grid; then, if asked, a thumbnail of the image.

    Parameters
    ----------
    tiles, grid : (rows, cols)
        Tiles without the thumbnail, and cells of one tile.
    thumbnail : bool
        Whether a thumbnail follows the tiles.
    region : (x0, y0, x1, y1)
        What the tiles cover.
    coverage : float
        Share of a tile's sides that its cells cover.

    Returns
    -------
    dict
        ``tile``, ``row``, ``col``, ``thumbnail`` (N,) and ``boxes`` (N, 4), as of a `TokenLayout`.
    """
    n_tiles, per_tile = tiles[0] * tiles[1], grid[0] * grid[1]
    total = n_tiles + int(thumbnail)
    tile = np.repeat(np.arange(total), per_tile)
    row, col = (np.tile(a, total) for a in divmod(np.arange(per_tile), grid[1]))
    is_thumb = tile == n_tiles
    down, across = np.divmod(tile[~is_thumb], tiles[1])
    y, x = down * grid[0] + row[~is_thumb], across * grid[1] + col[~is_thumb]
    boxes = _cells(y, x, tiles, grid, region, coverage)
    if thumbnail:  # its cells are those of one tile as large as the image
        boxes = np.r_[boxes, _cells(row[is_thumb], col[is_thumb], (1, 1), grid, region, coverage)]
    return {"tile": tile, "row": row, "col": col, "thumbnail": is_thumb, "boxes": boxes}


def unpadded_arrays(
    tiles: tuple[int, int],
    grid: tuple[int, int],
    *,
    window: tuple[int, int, int, int],
    thumbnail_grid: tuple[int, int],
    region: Region,
    coverage: float,
) -> tuple[dict[str, Any], int]:
    """Put a thumbnail before the raster of all tiles row by row, cut to a window, a newline after every row.

    Parameters
    ----------
    tiles, grid : (rows, cols)
        The raster has ``tiles * grid`` cells.
    window : (top, bottom, left, right)
        Cells of the raster that are kept.
    thumbnail_grid : (rows, cols)
        Cells of the thumbnail.
    region, coverage
        As for `tiled_arrays`; the region of the whole raster.

    Returns
    -------
    arrays : dict
        As of `tiled_arrays`, and ``placeholder_index`` (N,).
    placeholders : int
        Tokens and newlines.

    Raises
    ------
    InputError
        A window that does not lie in the raster.
    """
    top, bottom, left, right = window
    rows, cols = tiles[0] * grid[0], tiles[1] * grid[1]
    if not (0 <= top < bottom <= rows and 0 <= left < right <= cols):
        raise InputError(f"layout window {window} must lie in the raster of {rows} x {cols} cells")
    n_small = thumbnail_grid[0] * thumbnail_grid[1]
    y, x = (a.ravel() for a in np.mgrid[top:bottom, left:right])
    y0, x0 = (a.ravel() for a in np.mgrid[: thumbnail_grid[0], : thumbnail_grid[1]])
    small = _cells(y0, x0, (1, 1), thumbnail_grid, WHOLE, coverage)
    arrays = {
        "tile": np.r_[np.full(n_small, tiles[0] * tiles[1]), y // grid[0] * tiles[1] + x // grid[1]],
        "row": np.r_[y0, y % grid[0]],
        "col": np.r_[x0, x % grid[1]],
        "thumbnail": np.arange(n_small + len(y)) < n_small,
        "boxes": np.r_[small, _cells(y, x, tiles, grid, region, coverage)],
        "placeholder_index": np.r_[np.arange(n_small), n_small + np.arange(len(y)) + (y - top)],
    }
    return arrays, n_small + (bottom - top) * (right - left + 1)


def _cells(
    y: np.ndarray, x: np.ndarray, tiles: tuple[int, int], grid: tuple[int, int], region: Region, coverage: float
) -> np.ndarray:
    """(N, 4) corners of the cells at row y and column x of the raster of all tiles, which covers ``region``."""
    edges = []
    for at, count, per in ((x, tiles[1], grid[1]), (y, tiles[0], grid[0])):
        start, cell = at // per * per, at % per
        edges.append([(start + (cell + i) * coverage) / (count * per) for i in (0, 1)])
    (left, right), (top, bottom) = edges
    x0, y0, x1, y1 = region
    unit = np.stack([left, top, right, bottom], axis=1)
    return unit * np.array([x1 - x0, y1 - y0] * 2) + np.array([x0, y0] * 2)


def pair(name: str, value: Any) -> tuple[int, int]:
    """Check two positive integers; ``name`` is what they are of the layout, for the message.

    Raises
    ------
    InputError
        Anything else.
    """
    try:
        a, b = (int(v) for v in value)
    except (TypeError, ValueError):
        raise InputError(f"layout {name} must be two positive integers, got {value!r}") from None
    if a < 1 or b < 1:
        raise InputError(f"layout {name} must be two positive integers, got {value!r}")
    return a, b
