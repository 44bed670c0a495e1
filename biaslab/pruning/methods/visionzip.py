"""VisionZip: dominant tokens of the vision tower, and tokens that stand for the rest (arXiv 2412.04467)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from biaslab.attention.vision_record import TowerShape, VisionRequest
from biaslab.pruning.base import Picked, TokenContext, number, required
from biaslab.pruning.citation import Citation
from biaslab.pruning.context import descending
from biaslab.pruning.methods.vision_method import VisionMethod
from biaslab.pruning.registry import register

__all__ = ["VisionZip"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class VisionZip(VisionMethod):
    """Keep dominant tokens, and of the rest every so-manyth as a context (arXiv 2412.04467).

    With a_i the attention of the CLS token to i, averaged over heads (published: summed, which ranks alike), at block
    ``layer``: of n tokens ``n - c`` of largest a are dominant, ``c = round(contextual * n)``. Of the others, in the
    order of the image, every ``floor(rest / c)``-th is contextual, c in all.

    Published for CLIP at ``layer=-2``: 54 + 10, 191 + 30 (with the CLS token, which is no token of the decoder here,
    among the dominant), and contextual tokens that others are merged into; there they follow the dominant ones and are
    renumbered, here all keep their order and, by the engine's default, their positions. Towers without a CLS token: a
    is the attention that i receives.

    Parameters
    ----------
    contextual : float
        Share of the budget, in [0, 1): 10 / 64 as published; 0 keeps dominant tokens alone.
    layer : int
        Block of the vision tower.

    References
    ----------
    arXiv 2412.04467.

    Examples
    --------
    >>> from biaslab.attention.vision_record import VisionRecord
    >>> from biaslab.core.layout import TokenLayout
    >>> attention = torch.tensor([[0.1, 0.5, 0.1, 0.1, 0.1, 0.1]])
    >>> record = VisionRecord(TowerShape(2, True, (0, 1)), cls={0: attention})
    >>> ctx = TokenContext(TokenLayout.raster(2, 3, size=(300, 200), family="toy"), budget=3, vision=record)
    >>> VisionZip(contextual=0.67).select(ctx).indices  # of 0, 2, 3, 4 and 5 the first and the third
    tensor([0, 1, 3])
    """

    contextual: float = 10 / 64
    layer: int = -2

    name: ClassVar[str] = "visionzip"
    source: ClassVar[Citation | None] = Citation(
        key="visionzip2025",
        title="VisionZip: Longer is Better but Not Necessary in Vision Language Models",
        year=2025,
        arxiv="2412.04467",
        authors=(
            "Senqiao Yang", "Yukang Chen", "Zhuotao Tian", "Chengyao Wang", "Jingyao Li", "Bei Yu", "Jiaya Jia",
        ),
        venue="CVPR 2025",
    )  # fmt: skip
    cost: ClassVar[str] = "one row of the tower's attention"
    verified: ClassVar[str] = "partly: tokens of several patches and towers without a CLS token are ours"
    image_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        number("contextual", self.contextual, 0, 1, open_high=True)

    def reads(self, tower: TowerShape) -> VisionRequest:
        """Read saliency at one block."""
        return self.salient(tower, self.layer)

    def importance(self, ctx: TokenContext) -> Tensor:
        """Average the CLS token's attention over heads: (N,)."""
        return self.record(ctx).saliency(self.layer)

    def pick(self, ctx: TokenContext, scores: Tensor | None) -> Picked:
        """List dominant tokens, then contextual ones."""
        context = round(self.contextual * ctx.budget)
        order = descending(required(scores, "scores"))
        dominant, rest = order[: ctx.budget - context], order[ctx.budget - context :].sort().values
        step = max(1, len(rest) // max(1, context))
        return torch.cat([dominant, rest[::step][:context]]), {"contextual": context}
