"""One profile for every tiling: a map within the tile, a trend over the tiles, and the thumbnail."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import linalg, sparse
from threadpoolctl import threadpool_limits

from biaslab.core.frames import FramesLayout, frames_layout
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.profiles.estimators.grids import by_frame, checked_grid, commonest, gather, grid_of, one_tile, resize
from biaslab.profiles.estimators.logspace import LogProfile
from biaslab.profiles.estimators.trend import ORDERS, Trend, choose_trend
from biaslab.profiles.parts import Part
from biaslab.profiles.registry import Arrays, register

__all__ = ["FactorisedProfile"]

_RIDGE = 1e-8  # relative to the mean diagonal: cells that no image has get the average


class _Shape(NamedTuple):
    """What the columns of the design stand for."""

    grid: tuple[int, int]
    thumbnail: tuple[int, int] | None
    trend: Trend | None
    frames: Trend | None = None


@register
class FactorisedProfile(LogProfile):
    """Log attention as a sum of a few maps, fitted jointly over images of different tilings.

    For token j of image i, in cell (r, c) of tile t of T::

        log attention = level_i + M[r, c] + s(t, T)             in a tile
        log attention = level_i + offset + M_thumb[r, c]        in the thumbnail

    Constraints: M and M_thumb each sum to zero over their cells; s sums to zero over the tiles of the images
    fitted; the level of each image is its own and falls out, because log attention is centred per image; ``offset`` is
    how much more the thumbnail's average token draws than the average tile's. The fit is least squares weighted by
    the number of images, on the mean centred log map of every layout (which is sufficient: the design is the
    same for all images of a layout; layouts of other grids are first interpolated to those of the maps),
    plus a penalty on the second differences of s.

    s is a function of the tile's place in reading order (`Trend`): tiles before it
    ("start"), tiles after it ("end"; what a bias by distance to the prompt gives), or the share of the tiles passed
    ("relative"). Order and penalty are those which, fitted on all layouts but one, predict the levels of the tiles
    and the thumbnail of the layout left out best (every layer for itself, heads together). That needs three layouts of
    several tiles; below that, "relative" and a light penalty are used unless given.

    Of frames of a video (`biaslab.core.frames.FramesLayout`) the level is the prompt's, and every token has a further
    term f(u), u = (k + 1/2) / F being the place of its frame k (from 0) of F in the video. f is piecewise linear
    between 17 knots from 0 to 1, its second differences lightly penalised, and has mean zero over the frames fitted.
    So a profile transports to any number of frames by relative place: the middle of a video of ten is expected to
    draw what the middle of one of thirty draws, up to the level. Where a longer video than any fitted begins before
    their first place or ends behind their last, f goes on as a straight line. A single image is a video of one frame;
    a profile that never saw frames has no f.

    It transports to any tiling and grid of its family: the maps are interpolated (bilinear) to the asked grid, s is
    interpolated over t, and continued as a straight line beyond the longest layout fitted, which is a guess. A layout
    with a thumbnail, asked of a profile that never saw one, gets the tiles' map and offset 0. What it cannot express: a
    bias that depends on the location in the whole image other than through the order of the tiles. On layouts of
    one tile only it is `GeometricProfile`.

    Parameters
    ----------
    order : {"auto", "start", "end", "relative"}
        What a tile's place in the reading order is counted by.
    strength : "cv" or float
        Penalty of s, a number >= 0 (0: a free value for every place in the order); "cv": cross-validated.
    grid : (rows, cols), optional
        Of M; default the grid that most images have. M_thumb has the thumbnails' own.

    Examples
    --------
    >>> from biaslab import TokenLayout
    >>> from biaslab.maps.simulate import simulate
    >>> from biaslab.profiles import FactorisedProfile
    >>> one, two, three = (TokenLayout.tiled(1, n, grid=(4, 4), size=(56 * n, 56), family="demo", thumbnail=True)
    ...                    for n in (1, 2, 3))
    >>> maps = simulate("tile-ordered", {one: 30, two: 30}).maps
    >>> expected = FactorisedProfile().fit(maps).predict(three)  # a tiling that was not fitted
    >>> [round(float(expected[0, three.tile == tile].sum()), 2) for tile in range(4)]  # three tiles and the thumbnail
    [0.03, 0.06, 0.07, 0.14]
    """

    name = "factorised"
    transports = frozenset({"layout"})
    frames = True

    def __init__(
        self, *, order: str = "auto", strength: float | str = "cv", grid: tuple[int, int] | None = None
    ) -> None:
        self.order = order
        self.strength = strength
        self.grid = grid

    def _learn(self, parts: list[Part]) -> Arrays:
        if self.order != "auto" and self.order not in ORDERS:
            raise InputError(f"order must be 'auto' or one of {', '.join(ORDERS)}, got {self.order!r}")
        if self.strength != "cv" and (isinstance(self.strength, str) or not 0 <= self.strength < np.inf):
            raise InputError(f"strength must be 'cv' or a number >= 0, got {self.strength!r}")
        with threadpool_limits(1, user_api="blas"):  # many small systems: threads only wait for each other
            return self._solved(parts)

    def _solved(self, parts: list[Part]) -> Arrays:
        grid, small = self._grid(parts), _common([p for p in parts if p.layout.thumbnail.any()], True)
        parts = [_regridded(p, grid, small) for p in parts]
        frames = None
        if any(isinstance(p.layout, FramesLayout) for p in parts):
            frames = Trend.over_frames([p.layout for p in parts], [p.n for p in parts])
        shape = _Shape(grid, small, None, frames)
        trend = None
        if any(_tiles(p.layout) > 1 for p in parts):
            first = shape._replace(trend=Trend.over([p.layout for p in parts], "relative", 0.1))
            maps, thumb, *_ = _split(_solve(parts, first), first)
            within = [gather({"tile": maps, "thumbnail": thumb}, p.layout) for p in parts]
            levels = [p._replace(mean=p.mean - w) for p, w in zip(parts, within, strict=True)]
            trend = choose_trend(levels, self.order, self.strength)
        shape = shape._replace(trend=trend)
        maps, thumb, offset, values, late = _split(_solve(parts, shape), shape)
        arrays: Arrays = {"tile": {"log": maps}}
        if small is not None:
            arrays["thumbnail"] = {"log": thumb, "offset": offset}
        if trend is not None:
            kind = np.array([ORDERS.index(trend.order), trend.strength])
            arrays["trend"] = {"values": values, "knots": trend.knots, "kind": kind}
        if frames is not None:
            arrays["frames"] = {"values": late, "knots": frames.knots}
        return arrays

    def _log(self, arrays: Arrays, layout: TokenLayout) -> np.ndarray | None:
        maps = arrays["tile"]["log"]
        thumb = arrays.get("thumbnail", {"log": maps, "offset": np.zeros(len(maps))})
        out = gather({"tile": maps.astype(np.float64), "thumbnail": thumb["log"].astype(np.float64)}, layout)
        out += thumb["offset"][:, None] * layout.thumbnail
        if "trend" in arrays:
            order, strength = arrays["trend"]["kind"]
            trend = Trend(ORDERS[int(order)], arrays["trend"]["knots"].astype(np.float64), float(strength))
            out += (trend.basis(layout) @ arrays["trend"]["values"].T.astype(np.float64)).T
        if "frames" in arrays:
            late = Trend("relative", arrays["frames"]["knots"].astype(np.float64), 0.0)
            out += (late.frames_basis(layout) @ arrays["frames"]["values"].T.astype(np.float64)).T
        return out

    def _grid(self, parts: list[Part]) -> tuple[int, int]:
        if self.grid is None:
            return _common([p for p in parts if not p.layout.thumbnail.all()], False) or parts[0].layout.grid
        return checked_grid(self.grid)


def _tiles(layout: TokenLayout) -> int:
    return len(np.unique(layout.tile[~layout.thumbnail]))


def _common(parts: list[Part], thumbnail: bool) -> tuple[int, int] | None:
    """Find the grid of tiles, or of thumbnails, that most images have; None without any."""
    grids = [(grid_of(p.layout, int(p.layout.tile[p.layout.thumbnail == thumbnail][0])), p.n) for p in parts]
    return commonest(grids) if grids else None


def _solve(parts: list[Part], shape: _Shape) -> np.ndarray:
    """(P, H) coefficients of the maps, the offset and the trend's knots."""
    gram, product = np.zeros(()), np.zeros(())
    for p in parts:
        design = _design(p.layout, shape)
        mean = np.asarray(design.mean(axis=0)).ravel()
        # the intercept of each layout, taken out of the normal equations
        gram = gram + p.n * ((design.T @ design).toarray() - p.layout.n * np.outer(mean, mean))
        y = p.mean - p.mean.mean(axis=1, keepdims=True)
        product = product + p.n * (design.T @ y.T)
    scale = np.trace(gram) / len(gram)
    end = len(gram)
    for trend in (shape.frames, shape.trend):  # the last columns first
        if trend is not None:
            own = slice(end - len(trend.knots), end)
            gram[own, own] += trend.penalty(np.trace(gram[own, own]) / len(trend.knots))
            end = own.start
    gram[np.diag_indices_from(gram)] += _RIDGE * max(scale, 1e-300)
    return linalg.solve(gram, product, assume_a="pos")


def _design(layout: TokenLayout, shape: _Shape) -> sparse.csr_array:
    """(N, P) columns: cells of M, of M_thumb, offset, knots of both trends; the layout has the maps' grids."""
    tiles, rows, blocks = ~layout.thumbnail, np.arange(layout.n), []
    for grid, at in ((shape.grid, tiles), (shape.thumbnail, ~tiles)):
        if grid is not None:
            cells = (rows[at], (layout.row * grid[1] + layout.col)[at])
            blocks.append(sparse.csr_array((np.ones(at.sum()), cells), shape=(layout.n, grid[0] * grid[1])))
    if shape.thumbnail is not None:
        blocks.append(sparse.csr_array(layout.thumbnail[:, None].astype(float)))
    if shape.trend is not None:
        blocks.append(sparse.csr_array(shape.trend.basis(layout)))
    if shape.frames is not None:
        blocks.append(sparse.csr_array(shape.frames.frames_basis(layout)))
    return sparse.csr_array(sparse.hstack(blocks, format="csr"))


def _regridded(part: Part, grid: tuple[int, int], thumbnail: tuple[int, int] | None) -> Part:
    """Bring a part to other grids of cells: each tile's mean map is interpolated over the cells that exist.

    A fit of the maps through the interpolation would invert it, and grow noise where grids are coarser than the maps.
    """
    layout = part.layout
    if layout.grid == grid and (thumbnail in (None, layout.thumbnail_grid) or not layout.thumbnail.any()):
        return part
    small_grid = grid if thumbnail is None else thumbnail
    if isinstance(layout, FramesLayout):
        frames = [_regridded(frame, grid, thumbnail) for frame in by_frame(part)]
        mean = np.concatenate([frame.mean for frame in frames], axis=1)
        return Part(frames_layout([frame.layout for frame in frames]), part.n, mean, np.zeros_like(mean))
    columns: dict[str, list[np.ndarray]] = {"tile": [], "row": [], "col": [], "thumbnail": []}
    values = []
    for t in np.unique(layout.tile):
        small = bool(layout.thumbnail[layout.tile == t][0])
        mean, _, exists = one_tile(part, int(t))
        weight = resize(exists, small_grid if small else grid)
        row, col = np.nonzero(weight > 0.5)
        values.append((resize(mean * exists, weight.shape) / np.where(weight > 0, weight, 1))[:, row, col])
        for name, value in (("tile", np.full(len(row), t)), ("row", row), ("col", col),
                            ("thumbnail", np.full(len(row), small))):  # fmt: skip
            columns[name].append(value)
    arrays = {name: np.concatenate(v) for name, v in columns.items()}
    boxes = np.zeros((len(arrays["tile"]), 4))
    other = TokenLayout(
        arrays["tile"], arrays["row"], arrays["col"], arrays["thumbnail"], boxes, grid, layout.tiles, layout.size,
        layout.family, thumbnail_grid=small_grid,
    )  # fmt: skip
    return Part(other, part.n, np.concatenate(values, axis=1), np.zeros((len(part.mean), other.n)))


def _split(solution: np.ndarray, shape: _Shape) -> tuple[np.ndarray, ...]:
    """M (H, rows, cols), M_thumb, offset (H,), trend (H, K) and that over frames (H, K'), the constraints imposed.

    Shifting the constants changes no prediction beyond the level of the image.
    """
    heads = solution.shape[1]
    n = shape.grid[0] * shape.grid[1]
    maps, rest = solution[:n].T, solution[n:]
    thumb, offset = np.zeros((heads, 0)), np.zeros(heads)
    if shape.thumbnail is not None:
        n = shape.thumbnail[0] * shape.thumbnail[1]
        thumb, offset, rest = rest[:n].T, rest[n], rest[n + 1 :]
        offset = offset + thumb.mean(axis=1) - maps.mean(axis=1)
        thumb = (thumb - thumb.mean(axis=1, keepdims=True)).reshape(heads, *shape.thumbnail)
    late = rest[rest.shape[0] - (0 if shape.frames is None else len(shape.frames.knots)) :].T
    if shape.frames is not None:
        late = late - (late @ shape.frames.weights)[:, None]
    values = rest[: len(rest) - late.shape[1]].T
    if shape.trend is not None:
        level = values @ shape.trend.weights
        values, offset = values - level[:, None], offset - level
    maps = (maps - maps.mean(axis=1, keepdims=True)).reshape(heads, *shape.grid)
    return maps, thumb, offset, values, late
