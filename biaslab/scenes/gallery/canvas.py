"""Sizes of images, and the tiles that InternVL cuts each into."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from biaslab.errors import InputError
from biaslab.scenes.rendering import SPLITS

#: side of a tile in pixels, and how many an image may have besides its thumbnail
TILE, MAX_TILES = 168, 6
#: widest and narrowest images: width over height
RATIOS = (1 / 3, 3.0)
_SIDE = (190.0, 470.0)  # square root of an image's area, pixels
_SEED = 20261127


def rng_of(split: str, index: int, stream: int) -> np.random.Generator:
    """Seed the generator of one stream of one image.

    Raises
    ------
    InputError
        For an unknown split or a negative index.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r} of the gallery: choose one of {', '.join(SPLITS)}")
    if index < 0:
        raise InputError(f"image index {index} is negative: images are numbered from 0")
    return np.random.default_rng([_SEED, SPLITS[split], index, stream])


def picture_size(split: str, index: int) -> tuple[int, int]:
    """Width and height in pixels of an image that need not be drawn for it.

    Parameters
    ----------
    split : {"train", "calibration", "validation", "test", "monitor"}
    index : int

    Returns
    -------
    (int, int)

    Examples
    --------
    >>> from biaslab.scenes.gallery import picture_size
    >>> picture_size("test", 0)
    (196, 569)
    """
    rng = rng_of(split, index, 0)
    ratio = math.exp(rng.uniform(math.log(RATIOS[0]), math.log(RATIOS[1])))
    side = math.exp(rng.uniform(math.log(_SIDE[0]), math.log(_SIDE[1])))
    return round(side * math.sqrt(ratio)), round(side / math.sqrt(ratio))


@lru_cache(maxsize=4096)
def grid_of(size: tuple[int, int], *, tile: int = TILE, max_tiles: int = MAX_TILES) -> tuple[int, int]:
    """Columns and rows of tiles that InternVL's processor cuts an image into.

    The rule of the processor, written out: drawing an image needs no transformers.

    Parameters
    ----------
    size : (int, int)
        Width and height of the image.
    tile : int
        Side of a tile, pixels.
    max_tiles : int

    Returns
    -------
    (int, int)

    Examples
    --------
    >>> from biaslab.scenes.gallery import grid_of
    >>> grid_of((200, 200)), grid_of((400, 400)), grid_of((600, 200))
    ((1, 1), (2, 2), (3, 1))
    """
    ratio, area = size[0] / size[1], size[0] * size[1]
    grids = [(c, r) for c in range(1, max_tiles + 1) for r in range(1, max_tiles + 1) if c * r <= max_tiles]
    best, least = (1, 1), math.inf
    for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        difference = abs(ratio - columns / rows)
        # of equally good ratios the one with more tiles, unless it would be more than twice the image's area
        if difference < least or (difference == least and area > 0.5 * tile * tile * columns * rows):
            best, least = (columns, rows), difference
    return best


def visual_tiles(grid: tuple[int, int]) -> int:
    """Count the tiles of a grid, the thumbnail included.

    Examples
    --------
    >>> from biaslab.scenes.gallery import visual_tiles
    >>> visual_tiles((1, 1)), visual_tiles((3, 2))
    (1, 7)
    """
    n = grid[0] * grid[1]
    return n + (n > 1)
