"""Where each visual token lies in the picture."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from .boxes import Box
from .errors import InputError

__all__ = ["TokenLayout"]

_ARRAYS = ("tile", "row", "col", "thumbnail", "boxes", "inside")
_WHOLE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """Tile, row, column and image-plane cell of every visual token of one image, in sequence order.

    Attributes
    ----------
    tile : (N,) int
        Reading order of the tiles, 0 .. T-1; a thumbnail has the last index.
    row, col : (N,) int
        Cell inside its tile.
    thumbnail : (N,) bool
        True for tokens of the tile that shows the whole image.
    boxes : (N, 4) float64
        x0, y0, x1, y1 of each token's cell in fractions of the ORIGINAL image. Cells in padding reach outside
        [0, 1]; nothing is clipped, so neighbouring cells always touch.
    inside : (N,) bool
        False for cells that show padding only.
    grid : (rows, cols)
        Cells of one tile.
    tiles : (tile_rows, tile_cols)
        Without the thumbnail.
    size : (width, height)
        Pixels of the original image.
    family : str
        Model family the layout belongs to.
    region : (x0, y0, x1, y1)
        What the whole raster covers, in fractions of the original image: (0, 0, 1, 1) unless the image was
        padded (larger) or cropped (smaller).
    """

    tile: np.ndarray
    row: np.ndarray
    col: np.ndarray
    thumbnail: np.ndarray
    boxes: np.ndarray
    grid: tuple[int, int]
    tiles: tuple[int, int]
    size: tuple[int, int]
    family: str
    region: tuple[float, float, float, float] = _WHOLE
    inside: np.ndarray = field(default=None)

    def __post_init__(self) -> None:
        def put(name, value):
            object.__setattr__(self, name, value)

        for name, kind in (("tile", np.int64), ("row", np.int64), ("col", np.int64), ("thumbnail", bool)):
            put(name, np.asarray(getattr(self, name), dtype=kind))
        put("boxes", np.asarray(self.boxes, dtype=np.float64).reshape(-1, 4))
        put("grid", _pair("grid", self.grid))
        put("tiles", _pair("tiles", self.tiles))
        put("size", _pair("size", self.size))
        put("region", tuple(float(v) for v in self.region))
        overlap = np.minimum(self.boxes[:, 2:], 1.0) - np.maximum(self.boxes[:, :2], 0.0)
        inside = (overlap > 1e-9).all(axis=1) if self.inside is None else np.asarray(self.inside, dtype=bool)
        put("inside", inside)
        wrong = [name for name in _ARRAYS if len(getattr(self, name)) != len(self.tile)]
        if wrong or len(self.tile) == 0:
            raise InputError(f"layout arrays must have one entry per visual token; {wrong or 'all'} do not")
        for name in _ARRAYS:
            getattr(self, name).flags.writeable = False

    @classmethod
    def raster(
        cls,
        rows: int,
        cols: int,
        size: tuple[int, int],
        family: str,
        region: tuple[float, float, float, float] = _WHOLE,
    ) -> TokenLayout:
        """One image as a row-major grid of ``rows x cols`` tokens that covers ``region``."""
        return cls._build((1, 1), (rows, cols), size, family, False, region)

    @classmethod
    def tiled(
        cls,
        tile_rows: int,
        tile_cols: int,
        grid: tuple[int, int],
        size: tuple[int, int],
        family: str,
        thumbnail: bool,
    ) -> TokenLayout:
        """Tiles in reading order, each a row-major ``grid``; then, if asked, a thumbnail of the image."""
        return cls._build((tile_rows, tile_cols), grid, size, family, bool(thumbnail), _WHOLE)

    @classmethod
    def _build(cls, tiles, grid, size, family, thumbnail, region) -> TokenLayout:
        tiles, grid, size = _pair("tiles", tiles), _pair("grid", grid), _pair("size", size)
        n_tiles, per_tile = tiles[0] * tiles[1], grid[0] * grid[1]
        total = n_tiles + int(thumbnail)
        tile = np.repeat(np.arange(total), per_tile)
        row, col = (np.tile(a, total) for a in divmod(np.arange(per_tile), grid[1]))
        is_thumb = tile == n_tiles
        # cell of the raster made of all tiles; a thumbnail's cells are those of one tile as large as the
        # image
        rows = np.where(is_thumb, grid[0], tiles[0] * grid[0])
        cols = np.where(is_thumb, grid[1], tiles[1] * grid[1])
        y = np.where(is_thumb, row, tile // tiles[1] * grid[0] + row)
        x = np.where(is_thumb, col, tile % tiles[1] * grid[1] + col)
        unit = np.stack([x / cols, y / rows, (x + 1) / cols, (y + 1) / rows], axis=1)
        x0, y0, x1, y1 = region
        boxes = unit * np.array([x1 - x0, y1 - y0] * 2) + np.array([x0, y0] * 2)
        return cls(tile, row, col, is_thumb, boxes, grid, tiles, size, family, tuple(region))

    @property
    def n(self) -> int:
        """Number of visual tokens."""
        return len(self.tile)

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        return f"TokenLayout({self.key}, n={self.n}, size={self.size[0]}x{self.size[1]})"

    @property
    def centers(self) -> np.ndarray:
        """(N, 2) x, y of the cell centres in fractions of the original image."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2

    @property
    def centers_px(self) -> np.ndarray:
        """(N, 2) x, y of the cell centres in pixels of the original image."""
        return self.centers * np.array(self.size, dtype=np.float64)

    @cached_property
    def key(self) -> str:
        """Name of the arrangement: equal keys mean equal N, tile, row, col, thumbnail, at any image size."""
        name = f"{self.family}/{self.grid[0]}x{self.grid[1]}/tiles{self.tiles[0]}x{self.tiles[1]}"
        if self.thumbnail.any():
            name += "+thumb"
        regular = self._regular()
        same = len(regular.tile) == self.n and all(
            np.array_equal(getattr(self, a), getattr(regular, a)) for a in ("tile", "row", "col", "thumbnail")
        )
        if not same:
            parts = np.stack([self.tile, self.row, self.col, self.thumbnail.astype(np.int64)])
            name += "#" + hashlib.sha256(parts.astype("<i8").tobytes()).hexdigest()[:8]
        return name

    def overlap(self, box: Box) -> np.ndarray:
        """(N,) share of each cell's area that a box, in pixels of the original image, covers."""
        scale = np.array(self.size * 2, dtype=np.float64)
        other = np.array(box.as_tuple()) / scale
        inter = np.minimum(self.boxes[:, 2:], other[2:]) - np.maximum(self.boxes[:, :2], other[:2])
        area = (self.boxes[:, 2:] - self.boxes[:, :2]).prod(axis=1)
        return np.clip(inter, 0, None).prod(axis=1) / area

    def to_dict(self) -> dict:
        """JSON-ready form; the arrays are written only where the constructors would not rebuild them."""
        out = {
            "family": self.family,
            "grid": list(self.grid),
            "tiles": list(self.tiles),
            "size": list(self.size),
            "thumbnail": bool(self.thumbnail.any()),
            "region": list(self.region),
        }
        regular = self._regular()
        if any(not np.array_equal(getattr(self, a), getattr(regular, a)) for a in _ARRAYS):
            out["arrays"] = {a: getattr(self, a).tolist() for a in _ARRAYS}
        return out

    @classmethod
    def from_dict(cls, data: dict) -> TokenLayout:
        """The layout written by `to_dict`."""
        try:
            head = (data["grid"], data["tiles"], data["size"], data["family"], tuple(data["region"]))
            grid, tiles, size, family, region = head
            if "arrays" in data:
                return cls(**data["arrays"], grid=grid, tiles=tiles, size=size, family=family, region=region)
            return cls._build(tiles, grid, size, family, data["thumbnail"], region)
        except (KeyError, TypeError) as err:
            raise InputError(f"not a token layout: {err!r}") from None

    def _regular(self) -> TokenLayout:
        return self._build(self.tiles, self.grid, self.size, self.family, bool(self.thumbnail.any()), self.region)


def _pair(name: str, value) -> tuple[int, int]:
    try:
        a, b = (int(v) for v in value)
    except (TypeError, ValueError):
        raise InputError(f"layout {name} must be two positive integers, got {value!r}") from None
    if a < 1 or b < 1:
        raise InputError(f"layout {name} must be two positive integers, got {value!r}")
    return a, b
