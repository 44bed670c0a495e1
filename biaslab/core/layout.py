"""Where each visual token lies in the image."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from biaslab.core.boxes import Box
from biaslab.core.layout_arrays import WHOLE, Region, pair, tiled_arrays, unpadded_arrays
from biaslab.errors import InputError

__all__ = ["TokenLayout"]

_ARRAYS = ("tile", "row", "col", "thumbnail", "boxes", "in_image", "placeholder_index")
_ARRANGED = ("tile", "row", "col", "thumbnail", "placeholder_index")
_HEAD = ("grid", "tiles", "size", "family")
# names in files, where they are older than those of the attributes
_ON_DISK = {"in_image": "inside", "placeholder_index": "slots"}
_FROM_DISK = {on_disk: name for name, on_disk in _ON_DISK.items()}
_DERIVED: Any = None  # default of a field that is worked out from the others


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """Tile, row, column and image-plane cell of every visual token of one image, in sequence order.

    Attributes
    ----------
    tile : (N,) int
        Reading order of the tiles, 0 .. T-1; a thumbnail has the last index, wherever it stands in the sequence.
    row, col : (N,) int
        Cell inside its tile.
    thumbnail : (N,) bool
        True for tokens of the tile that shows the whole image.
    boxes : (N, 4) float64
        x0, y0, x1, y1 of each token's cell in fractions of the ORIGINAL image. Cells in padding reach outside
        [0, 1]; nothing is clipped, so neighbouring cells of a tile always touch.
    in_image : (N,) bool
        False for cells that show padding only.
    grid : (rows, cols)
        Cells of one tile.
    thumbnail_grid : (rows, cols)
        Cells of the thumbnail; as ``grid`` unless said.
    tiles : (tile_rows, tile_cols)
        Without the thumbnail.
    size : (width, height)
        Pixels of the original image.
    family : str
        Model family the layout belongs to.
    region : (x0, y0, x1, y1)
        What the whole raster covers, in fractions of the original image: (0, 0, 1, 1) unless the image was
        padded (larger) or cropped (smaller).
    coverage : float
        Share of a tile's height and width that its cells cover, from the top left: below 1 where the tile is no
        multiple of the patch, so that a margin is not seen (SigLIP: 27 patches of 14 pixels in 384).
    placeholder_index : (N,) int
        Which of the image's placeholders in the prompt each visual token is, ascending. Placeholders that no
        token names show no place: LLaVA-NeXT's newlines.
    placeholders : int
        Image placeholders of this image in the prompt, N unless some show no place.

    Raises
    ------
    InputError
        Arrays of different lengths, or geometry that is not positive.

    Examples
    --------
    >>> import biaslab as bl
    >>> layout = bl.TokenLayout.raster(2, 3, size=(300, 200), family="qwen2_5_vl")
    >>> layout
    TokenLayout(qwen2_5_vl/2x3/tiles1x1, n=6, size=300x200)
    >>> layout.centers_px[4]  # row 1, column 1
    array([150., 150.])
    >>> layout.overlap(bl.Box(0, 0, 150, 100))
    array([1. , 0.5, 0. , 0. , 0. , 0. ])

    A real one, of the embedded model:

    >>> from PIL import Image
    >>> vlm = bl.load("grounder")
    >>> vlm.encode([Image.new("RGB", (224, 224))], ["Where is the cup?"]).layouts[0]
    TokenLayout(internvl/16x16/tiles1x1, n=256, size=224x224)
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
    region: Region = WHOLE
    in_image: np.ndarray = _DERIVED
    placeholder_index: np.ndarray = _DERIVED
    placeholders: int = _DERIVED
    thumbnail_grid: tuple[int, int] = _DERIVED
    coverage: float = 1.0

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        for name, kind in (("tile", np.int64), ("row", np.int64), ("col", np.int64), ("thumbnail", bool)):
            put(name, np.asarray(getattr(self, name), dtype=kind))
        put("boxes", np.asarray(self.boxes, dtype=np.float64).reshape(-1, 4))
        put("grid", pair("grid", self.grid))
        small = self.thumbnail_grid
        put("thumbnail_grid", self.grid if small is None else pair("thumbnail_grid", small))
        put("tiles", pair("tiles", self.tiles))
        put("size", pair("size", self.size))
        put("region", tuple(float(v) for v in self.region))
        put("coverage", float(self.coverage))
        if not 0 < self.coverage <= 1:
            raise InputError(f"layout coverage must be a share above 0 and up to 1, got {self.coverage}")
        overlap = np.minimum(self.boxes[:, 2:], 1.0) - np.maximum(self.boxes[:, :2], 0.0)
        in_image = (overlap > 1e-9).all(axis=1) if self.in_image is None else np.asarray(self.in_image, dtype=bool)
        put("in_image", in_image)
        n = len(self.tile)
        put(
            "placeholder_index",
            np.arange(n) if self.placeholder_index is None else np.asarray(self.placeholder_index, dtype=np.int64),
        )
        put("placeholders", n if self.placeholders is None else int(self.placeholders))
        wrong = [name for name in _ARRAYS if len(getattr(self, name)) != len(self.tile)]
        if wrong or len(self.tile) == 0:
            raise InputError(f"layout arrays must have one entry per visual token; {wrong or 'all'} do not")
        if (
            self.placeholder_index[0] < 0
            or self.placeholder_index[-1] >= self.placeholders
            or (np.diff(self.placeholder_index) < 1).any()
        ):
            raise InputError(
                f"layout placeholder_index must ascend from 0 to less than the {self.placeholders} placeholders"
            )
        for name in _ARRAYS:
            getattr(self, name).flags.writeable = False

    @classmethod
    def raster(
        cls,
        rows: int,
        cols: int,
        *,
        size: tuple[int, int],
        family: str,
        region: Region = WHOLE,
        coverage: float = 1.0,
    ) -> TokenLayout:
        """Lay out one image as a row-major grid of ``rows x cols`` tokens.

        Parameters
        ----------
        rows, cols : int
            Cells of the grid.
        size : (width, height)
            Original image, pixels.
        family : str
            Model family.
        region : (x0, y0, x1, y1)
            What the grid covers, in fractions of the original image.
        coverage : float
            As the attribute.

        Examples
        --------
        An image twice as wide as high, padded to a square: the top and bottom rows show padding.

        >>> layout = TokenLayout.raster(4, 2, size=(64, 32), family="llava", region=(0.0, -0.5, 1.0, 1.5))
        >>> layout.in_image.reshape(4, 2)[:, 0]
        array([False,  True,  True, False])
        """
        return cls._build((1, 1), (rows, cols), size, family, False, region, coverage)

    @classmethod
    def tiled(
        cls,
        tile_rows: int,
        tile_cols: int,
        grid: tuple[int, int],
        *,
        size: tuple[int, int],
        family: str,
        thumbnail: bool,
        coverage: float = 1.0,
    ) -> TokenLayout:
        """Lay out tiles in reading order, each a row-major ``grid``; then, if asked, a thumbnail of the image.

        Parameters
        ----------
        tile_rows, tile_cols : int
            Tiles, without the thumbnail.
        grid : (rows, cols)
            Cells of one tile.
        size : (width, height)
            Original image, pixels.
        family : str
            Model family.
        thumbnail : bool
            Whether a thumbnail follows the tiles.
        coverage : float
            As the attribute.

        Examples
        --------
        >>> layout = TokenLayout.tiled(1, 2, (2, 2), size=(128, 64), family="internvl", thumbnail=True)
        >>> layout.tile
        array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
        >>> layout.boxes[[4, 8]]  # first token of the second tile, and of the thumbnail
        array([[0.5 , 0.  , 0.75, 0.5 ],
               [0.  , 0.  , 0.5 , 0.5 ]])
        """
        return cls._build((tile_rows, tile_cols), grid, size, family, bool(thumbnail), WHOLE, coverage)

    @classmethod
    def unpadded(
        cls,
        tiles: tuple[int, int],
        grid: tuple[int, int],
        *,
        size: tuple[int, int],
        family: str,
        window: tuple[int, int, int, int],
        region: Region = WHOLE,
        thumbnail_grid: tuple[int, int] | None = None,
        coverage: float = 1.0,
    ) -> TokenLayout:
        """Lay out a thumbnail, then the raster of all tiles row by row, cut to a window, a newline after every row.

        Parameters
        ----------
        tiles, grid : (rows, cols)
            As the attributes; the raster has ``tiles * grid`` cells.
        size : (width, height)
            Original image, pixels.
        family : str
            Model family.
        window : (top, bottom, left, right)
            Cells of the raster that are kept: rows ``top`` to ``bottom - 1``, columns ``left`` to ``right - 1``.
        region : (x0, y0, x1, y1)
            What the raster covers before it is cut, in fractions of the original image.
        thumbnail_grid : (rows, cols), optional
            Cells of the thumbnail, which shows the whole image; by default ``grid``.
        coverage : float
            As the attribute.

        Raises
        ------
        InputError
            A window that does not lie in the raster.

        Examples
        --------
        >>> layout = TokenLayout.unpadded(
        ...     (1, 1), (2, 3), size=(90, 60), family="llava_next", window=(0, 2, 0, 3), thumbnail_grid=(1, 1)
        ... )
        >>> layout.n, layout.placeholders  # 1 of the thumbnail, 2 x 3 of the raster; newlines show no place
        (7, 9)
        >>> layout.placeholder_index
        array([0, 1, 2, 3, 5, 6, 7])
        """
        tiles, grid = pair("tiles", tiles), pair("grid", grid)
        small = grid if thumbnail_grid is None else pair("thumbnail_grid", thumbnail_grid)
        top, bottom, left, right = (int(v) for v in window)
        shared: dict[str, Any] = {"thumbnail_grid": small, "region": region, "coverage": coverage}
        arrays, count = unpadded_arrays(tiles, grid, window=(top, bottom, left, right), **shared)
        return cls(**arrays, grid=grid, tiles=tiles, size=size, family=family, placeholders=count, **shared)

    @classmethod
    def _build(
        cls,
        tiles: tuple[int, int],
        grid: tuple[int, int],
        size: tuple[int, int],
        family: str,
        thumbnail: bool,
        region: Region,
        coverage: float = 1.0,
    ) -> TokenLayout:
        tiles, grid, size = pair("tiles", tiles), pair("grid", grid), pair("size", size)
        arrays = tiled_arrays(tiles, grid, thumbnail=thumbnail, region=region, coverage=coverage)
        return cls(**arrays, grid=grid, tiles=tiles, size=size, family=family, region=region, coverage=coverage)

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
        """Name of the arrangement: equal keys mean equal tile, row, col, thumbnail, placeholders at any image size."""
        name = f"{self.family}/{self.grid[0]}x{self.grid[1]}/tiles{self.tiles[0]}x{self.tiles[1]}"
        if self.thumbnail.any():
            name += "+thumb"
            if self.thumbnail_grid != self.grid:
                name += f"{self.thumbnail_grid[0]}x{self.thumbnail_grid[1]}"
        regular, window = self._regular(), self._window()
        if window is not None:
            name += "/rows{}-{}/cols{}-{}".format(*window)
        if not all(np.array_equal(getattr(self, a), getattr(regular, a)) for a in _ARRANGED):
            parts = [self.tile, self.row, self.col, self.thumbnail.astype(np.int64)]
            if not np.array_equal(self.placeholder_index, np.arange(self.n)):
                parts.append(self.placeholder_index)
            name += "#" + hashlib.sha256(np.stack(parts).astype("<i8").tobytes()).hexdigest()[:8]
        if self.placeholders != regular.placeholders:
            name += f"/of{self.placeholders}"
        return name

    def overlap(self, box: Box) -> np.ndarray:
        """Share of each cell's area that a box covers.

        Parameters
        ----------
        box : Box
            In pixels of the original image.

        Returns
        -------
        ndarray (N,)
            Values in [0, 1].
        """
        scale = np.array(self.size * 2, dtype=np.float64)
        other = np.array(box.as_tuple()) / scale
        inter = np.minimum(self.boxes[:, 2:], other[2:]) - np.maximum(self.boxes[:, :2], other[:2])
        area = (self.boxes[:, 2:] - self.boxes[:, :2]).prod(axis=1)
        return np.clip(inter, 0, None).prod(axis=1) / area

    def to_dict(self) -> dict:
        """JSON-ready form; the arrays are written only where the constructors would not rebuild them.

        Examples
        --------
        >>> layout = TokenLayout.raster(2, 3, size=(300, 200), family="qwen2_5_vl")
        >>> TokenLayout.from_dict(layout.to_dict()).key == layout.key
        True
        """
        out = {
            "family": self.family,
            "grid": list(self.grid),
            "tiles": list(self.tiles),
            "size": list(self.size),
            "thumbnail": bool(self.thumbnail.any()),
            "region": list(self.region),
        }
        if self.thumbnail_grid != self.grid:
            out["thumbnail_grid"] = list(self.thumbnail_grid)
        regular, window = self._regular(), self._window()
        if self.coverage != 1:
            out["cover"] = self.coverage
        if window is not None:
            out["window"] = list(window)
        if self.placeholders != regular.placeholders:
            out["placeholders"] = self.placeholders
        if any(not np.array_equal(getattr(self, a), getattr(regular, a)) for a in _ARRAYS):
            out["arrays"] = {_ON_DISK.get(a, a): getattr(self, a).tolist() for a in _ARRAYS}
        return out

    @classmethod
    def from_dict(cls, data: dict) -> TokenLayout:
        """Rebuild the layout written by `to_dict`.

        Raises
        ------
        InputError
            A mapping that is not of a layout.
        """
        try:
            if "frames" in data:
                from biaslab.core.frames import frames_from_dict

                return frames_from_dict(data)
            grid, tiles, size, family, region = (*(data[k] for k in _HEAD), tuple(data["region"]))
            coverage = data.get("cover", 1.0)
            small: Any = data.get("thumbnail_grid")
            count: Any = data.get("placeholders")
            if "arrays" in data:
                arrays = {_FROM_DISK.get(name, name): values for name, values in data["arrays"].items()}
                return cls(
                    **arrays, grid=grid, tiles=tiles, size=size, family=family, region=region,
                    thumbnail_grid=small, placeholders=count, coverage=coverage,
                )  # fmt: skip
            if "window" in data:
                made = cls.unpadded(
                    tiles, grid, size=size, family=family, window=data["window"], region=region,
                    thumbnail_grid=small, coverage=coverage,
                )  # fmt: skip
            else:
                made = cls._build(tiles, grid, size, family, data["thumbnail"], region, coverage)
            return made if count is None else replace(made, placeholders=count)
        except (KeyError, TypeError) as err:
            raise InputError(f"not a token layout: {err!r}") from None

    def _window(self) -> tuple[int, int, int, int] | None:
        """Return the window that `unpadded` was given, if that is how the layout was made."""
        if not (self.thumbnail[0] and self.placeholders > self.n > self.thumbnail.sum()):
            return None
        y, x = (a[~self.thumbnail] for a in self._places())
        window = int(y.min()), int(y.max()) + 1, int(x.min()), int(x.max()) + 1
        made = self._unpadded(window)
        same = made.placeholders == self.placeholders
        return window if same and all(np.array_equal(getattr(made, a), getattr(self, a)) for a in _ARRANGED) else None

    def _unpadded(self, window: tuple[int, int, int, int]) -> TokenLayout:
        return self.unpadded(
            self.tiles,
            self.grid,
            size=self.size,
            family=self.family,
            window=window,
            region=self.region,
            thumbnail_grid=self.thumbnail_grid,
            coverage=self.coverage,
        )

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of every token in the raster of all tiles (of no meaning for a thumbnail)."""
        down, across = np.divmod(self.tile, self.tiles[1])
        return down * self.grid[0] + self.row, across * self.grid[1] + self.col

    def _regular(self) -> TokenLayout:
        """Build what the constructors make of the attributes that are no arrays."""
        window = self._window()
        if window is not None:
            return self._unpadded(window)
        thumbnail = bool(self.thumbnail.any())
        return self._build(self.tiles, self.grid, self.size, self.family, thumbnail, self.region, self.coverage)
