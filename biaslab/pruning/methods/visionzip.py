"""VisionZip: dominant tokens of the vision tower, and tokens that stand for the rest (arXiv 2412.04467)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from biaslab.attention.vision_record import TowerShape, VisionRequest
from biaslab.errors import InputError
from biaslab.pruning.algorithms.merge_weights import merge_weights
from biaslab.pruning.base import Picked, TokenContext, number, required
from biaslab.pruning.citation import Citation
from biaslab.pruning.context import descending
from biaslab.pruning.methods.vision_method import VisionMethod
from biaslab.pruning.registry import register

__all__ = ["VisionZip"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class VisionZip(VisionMethod):
    """Keep dominant tokens, and of the rest every so-manyth as a context that takes up others (arXiv 2412.04467).

    With a_i the attention of the CLS token to i, averaged over heads (published: summed, which ranks alike), at block
    ``layer``: of n tokens ``n - c`` of largest a are dominant, ``c = round(contextual * n)``. Of the others, in the
    order of the image, every ``floor(rest / c)``-th is contextual, c in all.

    With ``merge`` each token that is dropped joins the contextual one whose key at that block has the largest cosine
    with its own, and the contextual token goes on as a mean of all these states. Published is that the mean of those
    that join is **added** to the contextual token: ``merge="added"``; with ``True`` it is one of what is averaged.

    Published for CLIP at ``layer=-2``: 54 + 10, 191 + 30 (with the CLS token, which is no token of the decoder here,
    among the dominant). There features are merged in front of the projector, here the states that enter layer K; there
    contextual tokens follow the dominant ones and are renumbered, here all keep their order and, by the engine's
    default, their positions. Towers without a CLS token: a is the attention that i receives. That keys of all heads are
    compared side by side is unverified.

    Parameters
    ----------
    contextual : float
        Share of the budget, in [0, 1): 10 / 64 as published; 0 keeps dominant tokens alone.
    layer : int
        Block of the vision tower.
    merge : bool or "added"
        Whether and how dropped tokens are merged into contextual ones.

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
    merge: bool | str = False

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
    cost: ClassVar[str] = "one row of the tower's attention; to merge, cosines of the dropped and the contextual"
    verified: ClassVar[str] = "partly: tokens of several patches and towers without a CLS token are ours"
    image_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        number("contextual", self.contextual, 0, 1, open_high=True)
        if not isinstance(self.merge, bool) and self.merge != "added":
            raise InputError(f"merge must be true, false or added; got {self.merge!r}")
        if self.merge and self.contextual == 0:
            raise InputError("merge does nothing without contextual tokens: leave contextual at more than 0")

    @property
    def merges(self) -> bool:
        """Whether contextual tokens take up others."""
        return self.merge is not False

    def reads(self, tower: TowerShape) -> VisionRequest:
        """Read saliency, and where tokens are merged keys, of one block."""
        keys = VisionRequest(keys=(self.layer,) if self.merges else ())
        return self.salient(tower, self.layer) | keys

    def importance(self, ctx: TokenContext) -> Tensor:
        """Average the CLS token's attention over heads: (N,)."""
        return self.record(ctx).saliency(self.layer)

    def pick(self, ctx: TokenContext, scores: Tensor | None) -> Picked:
        """List dominant tokens, then contextual ones."""
        dominant, rest, context = self._parts(required(scores, "scores"), ctx.budget)
        return torch.cat([dominant, _every(rest, context)]), {"contextual": context}

    def merging(self, ctx: TokenContext, indices: Tensor, scores: Tensor | None) -> Tensor | None:
        """Let what is dropped join the contextual tokens; None where there are none, or nothing is dropped."""
        _, rest, context = self._parts(required(scores, "scores"), len(indices))
        if context == 0 or len(rest) == context:
            return None
        record, targets = self.record(ctx), _every(rest, context)
        gone = torch.ones(ctx.n, dtype=torch.long, device=indices.device).index_fill(0, indices, 0)
        others = gone.argsort(descending=True, stable=True)[: ctx.n - len(indices)]
        keys = record.keys[record.tower.layer(self.layer)]
        return merge_weights(indices, targets, others, keys, added=self.merge == "added")

    def _parts(self, scores: Tensor, n: int) -> tuple[Tensor, Tensor, int]:
        """Split all tokens into dominant ones and the rest, ascending; and count the contextual ones."""
        context = round(self.contextual * n)
        order = descending(scores)
        return order[: n - context], order[n - context :].sort().values, context


def _every(rest: Tensor, count: int) -> Tensor:
    """Take ``count`` of the tokens at equal steps."""
    return rest[:: max(1, len(rest) // max(1, count))][:count]
