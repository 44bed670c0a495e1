"""FEATHER: attention without rotary positions, joined by an even grid where the model cannot tell yet."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.pruning.algorithms.transfer import upload
from biaslab.pruning.base import Method, Picked, TokenContext, descending, required
from biaslab.pruning.citation import Citation
from biaslab.pruning.methods.attention_method import AttentionMethod
from biaslab.pruning.methods.staged import Staged
from biaslab.pruning.registry import register
from biaslab.pruning.works import FEATHER

__all__ = ["Feather"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class Feather(Staged, AttentionMethod):
    """Keep the best tokens by attention without rotary positions, and in the first of two stages a grid of all.

    With q and k of layer K - 1 before their rotation, the score of token i is, averaged over heads,
    ``softmax_i(q . k_i / sqrt(d))`` over the visual tokens alone. A cut keeps the grid (every ``stride``-th row and
    column of each tile, from its first), then the best of the others up to the budget: the union of the grid with a
    top-m set, at exactly the budget. Where the grid would take more than half of the budget (ours; published 29 % of
    it), only that many of its tokens are taken, the best.

    By itself it cuts twice, at 1/4 and 1/2 of the depth (K = 8 and 16 of 32), the second time without a grid; the
    stages leave ``keep ** 0.2877`` and ``keep`` of the tokens, published 37.8 % (30 % and the grid's ninth of the
    others) and 3.4 %. At a layer that is named it is one cut with its grid.

    Parameters
    ----------
    stride : int
        Of the grid; 0 for none.
    score : str
        "no_rope" by default.

    References
    ----------
    arXiv 2412.13180. Differs: the budget is exact; the published set has the size that it happens to have. Unverified:
    the shares, of which paper, script and README say different ones (0.3 and 0.09 of what is left; 0.75; 0.7).

    Examples
    --------
    >>> import torch
    >>> attention = torch.tensor([[[0.0, 0.1, 0.0, 0.4, 0.3, 0.0, 0.0, 0.2]]])  # (1 head, 1 query row, 8 tokens)
    >>> ctx = TokenContext(TokenLayout.raster(1, 8, size=(8, 1), family="toy"), budget=6, attention=attention)
    >>> Feather().select(ctx).indices, Feather(stride=0).select(ctx).indices  # 0, 3 and 6 are the grid's
    (tensor([0, 1, 3, 4, 6, 7]), tensor([0, 1, 2, 3, 4, 7]))
    >>> [(layer, round(rule.keep, 3), rule.stride) for layer, rule in Feather(keep=0.034).own_stages(32)]
    [(8, 0.378, 3), (16, 0.034, 0)]
    """

    score: str = "no_rope"
    stride: int = 3

    name: ClassVar[str] = "feather"
    display_name: ClassVar[str] = "FEATHER"
    source: ClassVar[Citation | None] = FEATHER
    cost: ClassVar[str] = "one sort a stage"
    verified: ClassVar[str] = "partly: exact budget, shares disagree between paper and code"
    depths: ClassVar[tuple[float, ...]] = (0.25, 0.5)
    powers: ClassVar[tuple[float, ...]] = (0.2877, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.stride, bool) or not isinstance(self.stride, int) or self.stride < 0:
            raise InputError(f"stride must be a whole number, 0 for no grid; got {self.stride!r}")

    @property
    def needs_layout(self) -> bool:
        """The grid lies in the image."""
        return self.stride > 0

    def citations(self) -> tuple[Citation, ...]:
        """List the work, once."""
        return (FEATHER,)

    def stage_rule(self, number: int, keep: float) -> Method:
        """Make the rule of a stage: the second has no grid."""
        return dataclasses.replace(self, keep=keep, stride=0 if number else self.stride)

    def importance(self, ctx: TokenContext) -> Tensor:
        """Average the attention among the visual tokens over heads and query rows: (N,)."""
        rows = self.per_head(ctx)
        return self.over_heads(ctx, rows / rows.sum(-1, keepdim=True).clamp_min(1e-30))

    def pick(self, ctx: TokenContext, scores: Tensor | None) -> Picked:
        """Take the grid first, then the best; ``info["grid"]`` counts the tokens taken for the grid."""
        known = required(scores, "scores")
        if not self.stride:
            return descending(known)[: ctx.budget], {"grid": 0}
        grid = _grid(ctx.layout, self.stride)
        order, most = descending(known), min(int(grid.sum()), ctx.budget // 2)
        on_grid = upload(grid, ctx.device)[order]
        first = on_grid & (on_grid.cumsum(0) <= most)
        order = order[descending(first.to(known.dtype))]  # a stable sort: both parts stay in the order of their scores
        return order[: ctx.budget], {"grid": most}


def _grid(layout: TokenLayout, stride: int) -> np.ndarray:
    """Tell which tokens stand on the grid: (N,) bool."""
    return (layout.row % stride == 0) & (layout.col % stride == 0)
