"""An even grid over the image, blind to content and prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from biaslab.core.layout import TokenLayout
from biaslab.pruning.base import Method, TokenContext
from biaslab.pruning.registry import register

__all__ = ["Uniform"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class Uniform(Method):
    """Keep an even grid of tokens in the true image plane, with exactly the budget.

    All tiles together form one lattice of token rows over the image; a thumbnail is a second lattice over
    the same image and gets its share of the budget in proportion to its tokens (padding is used only when
    everything else is kept). On a lattice of R x C cells, n tokens go to r token rows spread evenly over the
    R, and each of these takes its n/r tokens (rounded up or down so that they add up to n) spread evenly over
    the C. The number r is the one for which the spacing of the grid is most nearly the same in both
    directions, in pixels of the original image.

    Examples
    --------
    >>> ctx = TokenContext(TokenLayout.raster(4, 4, size=(400, 400), family="toy"), budget=4)
    >>> Uniform().select(ctx).indices
    tensor([ 5,  7, 13, 15])
    """

    name: ClassVar[str] = "uniform"
    display_name: ClassVar[str] = "uniform"
    cost: ClassVar[str] = "arithmetic on the host"
    verified: ClassVar[str] = "ours"
    image_only: ClassVar[bool] = True

    @property
    def needs_layout(self) -> bool:
        """Always: the grid lies in the image plane."""
        return True

    def pick(self, ctx: TokenContext, scores: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        """Lay the grid; ``info["rows"]`` is the number of token rows used in each lattice."""
        kept, rows = uniform_grid(ctx.layout, ctx.budget)
        return torch.from_numpy(kept).to(ctx.device), {"rows": rows}


def uniform_grid(layout: TokenLayout, n: int) -> tuple[np.ndarray, list[int]]:
    """Lay an even grid over the image: (n,) token positions, and the rows used in each lattice."""
    groups = [np.flatnonzero(layout.in_image & (layout.thumbnail == thumbnail)) for thumbnail in (False, True)]
    groups = [g for g in groups if g.size]
    inside = sum(g.size for g in groups)
    padding = np.flatnonzero(~layout.in_image)
    shares = apportion([g.size for g in groups], min(n, inside))
    grids = [_lattice(layout, g, k) for g, k in zip(groups, shares, strict=True) if k]
    extra = padding[_spread(n - inside, padding.size)] if n > inside else padding[:0]
    return np.concatenate([*(g for g, _ in grids), extra]), [r for _, r in grids]


def apportion(sizes: list[int], total: int) -> list[int]:
    """Split ``total`` in parts proportional to ``sizes`` (largest remainders, ties to the first)."""
    exact = [total * s / max(sum(sizes), 1) for s in sizes]
    parts = [int(e + 1e-9) for e in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-round(exact[i] - parts[i], 9), i))
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts


def _lattice(layout: TokenLayout, tokens: np.ndarray, n: int) -> tuple[np.ndarray, int]:
    """Choose n of ``tokens`` on an even grid, and the number of rows it uses."""
    x, y = layout.centers_px[tokens].T
    order = np.lexsort((x.round(6), y.round(6)))
    tokens = tokens[order]
    row_of = np.unique(y.round(6)[order], return_inverse=True)[1]
    total_rows, total_cols = row_of[-1] + 1, tokens.size // (row_of[-1] + 1)
    if total_rows * total_cols != tokens.size or (np.bincount(row_of) != total_cols).any():
        return tokens[_spread(n, tokens.size)], 0  # not a lattice: evenly along the reading order
    width, height = (layout.boxes[tokens, 2:] - layout.boxes[tokens, :2]).mean(axis=0) * layout.size
    candidates = np.arange(-(-n // total_cols), min(total_rows, n) + 1)
    # log of (horizontal spacing / vertical spacing) when n tokens lie in r rows
    skew = np.log(candidates**2 * (width * total_cols) / (n * height * total_rows))
    rows = int(candidates[np.abs(skew).round(9).argmin()])
    grid = tokens.reshape(total_rows, total_cols)
    counts = np.diff(np.arange(rows + 1) * n // rows)
    kept = [grid[r, _spread(c, total_cols)] for r, c in zip(_spread(rows, total_rows), counts, strict=True)]
    return np.concatenate(kept), rows


def _spread(n: int, total: int) -> np.ndarray:
    """Choose n distinct positions of 0 .. total-1, each in the middle of its n-th part."""
    return (2 * np.arange(n) + 1) * total // (2 * max(n, 1))
