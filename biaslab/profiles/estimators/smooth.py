"""A smooth map on the image plane for every tile, its smoothness chosen by cross-validation over images."""

from __future__ import annotations

import numpy as np
from scipy.fft import dctn, idctn

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.profiles.estimators.grids import grid_of
from biaslab.profiles.estimators.logspace import LogProfile
from biaslab.profiles.parts import Part, merged
from biaslab.profiles.registry import Arrays, register

__all__ = ["SmoothProfile"]

_STRENGTHS = np.r_[0.0, np.logspace(-2, 4, 13)]
_ROUNDS = 100  # of the iteration that fills cells which do not exist


@register
class SmoothProfile(LogProfile):
    """Mean log attention of each position, smoothed in two dimensions within its tile.

    Each tile of each layout, and the thumbnail, has a map f of its own, which minimises
    ``sum (y - f)^2 + strength * sum (laplacian f)^2`` over its cells, y being the mean of centred log attention:
    a penalised least-squares smoother solved by the discrete cosine transform (Garcia, Comput. Stat. Data Anal.
    54, 2010, 1167-1178). A strength of 0 is `GeometricProfile`; a large one
    leaves the mean of each tile. Few images need a high strength, since their noise (what they show) is smooth too.

    It does not transport: a tiling that was not in the calibration set is refused.

    Parameters
    ----------
    strength : "cv" or float
        A number >= 0, or "cv", which takes, for each layer, the one of 14 strengths whose map, smoothed from all folds
        of images but one, is nearest to the mean of the fold left out (all layouts and heads together).
        Cross-validation over images is needed because neighbouring cells see the same objects: rules that take
        the cells' errors for independent smooth too little. Such a rule (generalised cross-validation) is
        used only where the folds are not known or hold no layout twice.

    References
    ----------
    Garcia (2010), Robust smoothing of gridded data, Comput. Stat. Data Anal. 54, 1167-1178.

    Examples
    --------
    >>> from biaslab import TokenLayout
    >>> from biaslab.maps.simulate import simulate
    >>> from biaslab.profiles import SmoothProfile
    >>> layout = TokenLayout.raster(4, 4, size=(56, 56), family="demo")
    >>> maps = simulate("bottom-heavy", {layout: 10}).maps
    >>> others = simulate("bottom-heavy", {layout: 60}, seed=1).maps  # ten images are few: smoothing pays
    >>> [round(SmoothProfile(strength=s).fit(maps).score(others), 2) for s in (0.0, "cv")]
    [0.18, 0.26]
    """

    name = "smooth"
    needs_folds = True

    def __init__(self, *, strength: float | str = "cv") -> None:
        self.strength = strength

    def _learn(self, parts: list[Part]) -> Arrays:
        strength = self._strength(parts)
        arrays: Arrays = {p.layout.key: {"log": _smoothed(p.mean, p.layout, [strength])[0]} for p in parts}
        return {"chosen": {"strength": np.array([strength])}, **arrays}

    def _log(self, arrays: Arrays, layout: TokenLayout) -> np.ndarray | None:
        return arrays[layout.key]["log"] if layout.key in arrays else None

    def _strength(self, parts: list[Part]) -> float:
        if self.strength != "cv":
            if isinstance(self.strength, str) or not (np.isfinite(self.strength) and self.strength >= 0):
                raise InputError(f"strength must be 'cv' or a number >= 0, got {self.strength!r}")
            return float(self.strength)
        split = [p for p in parts if len(p.pieces) > 1]
        errors = sum(map(_held_out, split)) if split else sum(map(_generalised, parts))
        return float(_STRENGTHS[np.argmin(errors)])


def _held_out(part: Part) -> np.ndarray:
    """(strengths,) squared error of each fold's mean, predicted from the other folds."""
    error = np.zeros(len(_STRENGTHS))
    for g, left_out in enumerate(part.pieces):
        (rest,) = merged(part.pieces[:g] + part.pieces[g + 1 :])
        maps = _smoothed(rest.mean, part.layout, _STRENGTHS)
        error += left_out.n * ((maps - left_out.mean) ** 2).sum(axis=(1, 2))
    return error


def _generalised(part: Part) -> np.ndarray:
    """(strengths,) generalised cross-validation score of one mean map, in the unit of a squared error."""
    maps = _smoothed(part.mean, part.layout, _STRENGTHS)
    residual = ((maps - part.mean) ** 2).sum(axis=(1, 2))
    free = np.zeros(len(_STRENGTHS))
    for t in np.unique(part.layout.tile):
        free += [(1 / (1 + s * _eigen(grid_of(part.layout, t)) ** 2)).mean() for s in _STRENGTHS]
    free /= len(np.unique(part.layout.tile))
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.where(free < 1 - 1e-9, residual / (1 - free) ** 2, np.inf)
    return part.n * score


def _smoothed(values: np.ndarray, layout: TokenLayout, strengths: np.ndarray | list[float]) -> np.ndarray:
    """(S, H, N) maps of each strength."""
    out = np.empty((len(strengths), *values.shape))
    for t in np.unique(layout.tile):
        at, grid = np.flatnonzero(layout.tile == t), grid_of(layout, t)
        row, col = layout.row[at], layout.col[at]
        exists = np.zeros(grid, dtype=bool)
        exists[row, col] = True
        cells = np.empty((len(values), *grid))
        cells[:] = values[:, at].mean(axis=1)[:, None, None]
        cells[:, row, col] = values[:, at]
        for s, strength in enumerate(strengths):
            gain = 1 / (1 + strength * _eigen(grid) ** 2)
            smooth = _filter(cells, gain)
            for _ in range(0 if exists.all() else _ROUNDS):
                smooth = _filter(np.where(exists, cells, smooth), gain)
            out[s][:, at] = smooth[:, row, col]
    return out


def _filter(cells: np.ndarray, gain: np.ndarray) -> np.ndarray:
    return idctn(gain * dctn(cells, axes=(1, 2), norm="ortho"), axes=(1, 2), norm="ortho")


def _eigen(grid: tuple[int, int]) -> np.ndarray:
    """(rows, cols) eigenvalues of the Laplacian with reflecting borders, in the cosine basis."""
    down, across = (2 - 2 * np.cos(np.pi * np.arange(k) / k) for k in grid)
    return down[:, None] + across[None, :]
