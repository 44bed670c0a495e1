"""VisPruner: salient tokens of the vision tower, and of the rest those that differ (arXiv 2412.01818)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from biaslab.attention.vision_record import TowerShape, VisionRequest
from biaslab.pruning.base import Picked, TokenContext, number, required
from biaslab.pruning.budgets import share
from biaslab.pruning.citation import Citation
from biaslab.pruning.context import descending
from biaslab.pruning.methods.vision_method import VisionMethod
from biaslab.pruning.registry import register

__all__ = ["VisPruner"]

_STEP = 8  # tokens that a round drops at most


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class VisPruner(VisionMethod):
    """Keep the most salient tokens, and of the others a diverse rest (arXiv 2412.01818).

    With a_i the attention of the CLS token to i, averaged over heads, at block ``layer`` of the tower, and x_i the
    tower's features there: the ``floor(important * n)`` (at least one) of largest a are kept. The others, in descending
    a, are split into even and odd places; of the even ones up to 8 with the largest ``max_j cos(x_i, x_j)`` over the
    odd ones j are dropped; and so on with what is left, until n are kept in all. No step waits for the device.

    Towers without a CLS token (SigLIP, Qwen): a is the attention that i receives, averaged over heads and queries.

    Published for LLaVA-1.5, -NeXT and others with CLIP at ``layer=-2`` and ``important=0.5``. Differs from it in that
    a token of several patches (InternVL, Qwen, Idefics3) is ranked by their mean, and in original positions (the
    engine's default; the published are renumbered). That what a round leaves stays in the order of a is unverified.

    Parameters
    ----------
    important : float
        Share of the budget that goes to the most salient, in [0, 1]; 1 is ranking by saliency.
    layer : int
        Block of the vision tower, whose attention and output are read.

    References
    ----------
    arXiv 2412.01818.

    Examples
    --------
    Of the tokens that are not salient, 1 and 3 show the same:

    >>> from biaslab.attention.vision_record import VisionRecord
    >>> from biaslab.core.layout import TokenLayout
    >>> attention = torch.tensor([[0.9, 0.04, 0.01, 0.05]])
    >>> features = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    >>> record = VisionRecord(TowerShape(2, True, (0, 1)), cls={0: attention}, features={0: features})
    >>> ctx = TokenContext(TokenLayout.raster(2, 2, size=(200, 200), family="toy"), budget=3, vision=record)
    >>> VisPruner(important=0.34).select(ctx).indices
    tensor([0, 1, 2])
    """

    important: float = 0.5
    layer: int = -2

    name: ClassVar[str] = "vispruner"
    source: ClassVar[Citation | None] = Citation(
        key="vispruner2025",
        title="Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs",
        year=2025,
        arxiv="2412.01818",
        authors=(
            "Qizhe Zhang", "Aosong Cheng", "Ming Lu", "Renrui Zhang", "Zhiyong Zhuo", "Jiajun Cao", "Shaobo Guo",
            "Qi She", "Shanghang Zhang",
        ),
        venue="ICCV 2025",
    )  # fmt: skip
    cost: ClassVar[str] = "one row of the tower's attention, cosines of the rest once, (N - n) / 8 rounds"
    verified: ClassVar[str] = "partly: the order in which a round leaves the rest is ours"
    image_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        number("important", self.important, 0, 1)

    def reads(self, tower: TowerShape) -> VisionRequest:
        """Read saliency and features of one block."""
        return self.salient(tower, self.layer) | VisionRequest(features=(self.layer,))

    def importance(self, ctx: TokenContext) -> Tensor:
        """Average the CLS token's attention over heads: (N,)."""
        return self.record(ctx).saliency(self.layer)

    def pick(self, ctx: TokenContext, scores: Tensor | None) -> Picked:
        """List the important tokens, then the diverse ones."""
        order = descending(required(scores, "scores"))
        first = max(int(self.important > 0), share(self.important, ctx.budget))
        record = self.record(ctx)
        features = record.features[record.tower.layer(self.layer)]
        rest = spread(order[first:], features, ctx.budget - first)
        return torch.cat([order[:first], rest]), {}


def spread(order: Tensor, features: Tensor, n: int) -> Tensor:
    """Drop tokens that others resemble, 8 at a time, until n are left.

    Parameters
    ----------
    order : (M,) int64 Tensor
        Tokens in the order in which even and odd places are counted.
    features : (N, D) Tensor
    n : int

    Returns
    -------
    (n,) int64 Tensor
        In the same order.
    """
    if n == 0:
        return order[:0]
    unit = normalize(features[order].float(), dim=1)
    cosine = unit @ unit.T
    left = torch.arange(len(order), device=order.device)
    while len(left) > n:
        even, odd = left[::2], left[1::2]
        nearest = cosine[even[:, None], odd[None]].amax(1)
        gone = 2 * descending(nearest)[: min(_STEP, len(left) - n)]
        stays = torch.zeros_like(left).index_fill(0, gone, 1).argsort(stable=True)
        left = left[stays[: len(left) - len(gone)]]
    return order[left]
