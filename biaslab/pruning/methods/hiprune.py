"""HiPrune: tokens that a middle and the last block of the vision tower attend to (arXiv 2508.00553)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from biaslab.attention.vision_record import TowerShape, VisionRequest
from biaslab.core.layout import TokenLayout
from biaslab.core.neighbours import neighbours
from biaslab.errors import InputError
from biaslab.pruning.base import Picked, TokenContext, choice, number, required
from biaslab.pruning.citation import Citation
from biaslab.pruning.context import descending
from biaslab.pruning.methods.vision_method import VisionMethod
from biaslab.pruning.registry import register

__all__ = ["HiPrune"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class HiPrune(VisionMethod):
    """Keep what a middle block of the tower attends to, with its neighbours, then what the last block attends to.

    With r_i the attention that i receives, averaged over heads and all queries: of n tokens
    ``round(n * alpha / 5)`` are those of largest r at the object block ("anchors"), each with its four neighbours
    ("buffers"), and the rest are those of largest r at the last block ("registers"). ``round`` is half to even.

    Published for LLaVA-1.5 and -NeXT with the object block 8 of 24 and for Qwen2.5-VL with 15 of 32 (budgets of 33.4,
    22.3 and 11.2 %), ``alpha=0.1``. ``object_layer=None`` is these two; elsewhere the block at a third of the depth, in
    a tower with windows the full-attention block nearest to 0.47 of it. The published code takes i - 1 and i + 1 as
    neighbours also across the ends of rows: ``neighbours="flat"``; with "grid" (default) a neighbour lies beside the
    token in the same tile. Where neighbours are cut to fit n, the anchor's rank decides (unverified). Original
    positions are the engine's default; the published are renumbered for LLaVA.

    Parameters
    ----------
    alpha : float
        Share of the budget for anchors and buffers, in [0, 1].
    object_layer : int, optional
        Block of the anchors.
    last_layer : int
        Block of the registers.
    neighbours : {"grid", "flat"}

    References
    ----------
    arXiv 2508.00553.

    Examples
    --------
    The anchor is token 4, in the middle of three times three:

    >>> from biaslab.attention.vision_record import VisionRecord
    >>> middle, last = torch.zeros(9), torch.arange(9.0)
    >>> middle[4] = 1
    >>> record = VisionRecord(TowerShape(3, True, (0, 1, 2)), received={1: middle, 2: last})
    >>> ctx = TokenContext(TokenLayout.raster(3, 3, size=(300, 300), family="toy"), budget=6, vision=record)
    >>> HiPrune(alpha=1.0, object_layer=1).select(ctx).indices
    tensor([1, 3, 4, 5, 7, 8])
    """

    alpha: float = 0.1
    object_layer: int | None = None
    last_layer: int = -1
    neighbours: str = "grid"

    name: ClassVar[str] = "hiprune"
    source: ClassVar[Citation | None] = Citation(
        key="hiprune2025",
        title="HiPrune: Training-Free Visual Token Pruning via Hierarchical Attention in Vision-Language Models",
        year=2025,
        arxiv="2508.00553",
    )
    cost: ClassVar[str] = "attention received in two blocks of the tower, in float32 once more"
    verified: ClassVar[str] = "partly: neighbours in the grid, and their order where they are cut, are ours"
    image_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        number("alpha", self.alpha, 0, 1)
        choice("neighbours", self.neighbours, ("grid", "flat"))
        layer = self.object_layer
        if layer is not None and (isinstance(layer, bool) or not isinstance(layer, int)):
            raise InputError(f"object_layer must be a block of the vision tower or None, got {layer!r}")

    @property
    def needs_layout(self) -> bool:
        """Neighbours are those in the image."""
        return True

    def reads(self, tower: TowerShape) -> VisionRequest:
        """Read the attention received at two blocks."""
        return VisionRequest(received=(self._object(tower), self.last_layer))

    def importance(self, ctx: TokenContext) -> Tensor:
        """Take the attention received at the last block: (N,)."""
        record = self.record(ctx)
        return record.received[record.tower.layer(self.last_layer)]

    def pick(self, ctx: TokenContext, scores: Tensor | None) -> Picked:
        """List anchors with their neighbours, then registers."""
        record = self.record(ctx)
        middle = record.received[self._object(record.tower)]
        anchors = descending(middle)[: round(ctx.budget * self.alpha / 5)]
        place = torch.full((ctx.n,), 2 * ctx.n, device=anchors.device, dtype=torch.long)
        place[anchors] = torch.arange(len(anchors), device=anchors.device)
        # anchors are first, then come neighbours in the order of their anchors, then all others
        rank, beside = place.clone(), place + ctx.n
        for one, other in _both_ways(_pairs(ctx.layout, self.neighbours).to(anchors.device)):
            rank.scatter_reduce_(0, other, beside[one], "amin")
        by_last = descending(required(scores, "scores"))
        order = by_last[rank.clamp_max(2 * ctx.n)[by_last].argsort(stable=True)]
        return order[: ctx.budget], {"anchors": len(anchors)}

    def _object(self, tower: TowerShape) -> int:
        if self.object_layer is not None:
            return tower.layer(self.object_layer)
        windows = len(tower.full) < tower.depth
        return tower.nearest_full(15 / 32 if windows else 8 / 24)


def _pairs(layout: TokenLayout, kind: str) -> Tensor:
    """List the pairs of neighbours, each once: (2, P)."""
    if kind == "grid":
        return torch.from_numpy(np.stack(neighbours(layout)))
    index = torch.arange(layout.n)
    return torch.cat([torch.stack([index[:-step], index[step:]]) for step in (1, layout.grid[1])], 1)


def _both_ways(pairs: Tensor) -> tuple[Tensor, Tensor]:
    return pairs, pairs.flip(0)
