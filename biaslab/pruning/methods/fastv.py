"""FastV: keep what the last prompt token attends to most (arXiv 2403.06764)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from biaslab.pruning.base import TokenContext
from biaslab.pruning.citation import Citation
from biaslab.pruning.methods.attention_method import AttentionMethod
from biaslab.pruning.registry import register

__all__ = ["FastV"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class FastV(AttentionMethod):
    """Keep the tokens with the highest raw attention, averaged over heads (arXiv 2403.06764, section 4).

    With ``score="no_rope"`` it ranks by the criterion of FEATHER, with ``score="value_norm"`` by attention times the
    norm of the value.

    Differs from the published code in keeping the original position ids (the engine's default), without which
    localization collapses whatever is kept.

    References
    ----------
    arXiv 2403.06764, section 4; FEATHER: arXiv 2412.13180.

    Examples
    --------
    >>> import torch
    >>> from biaslab.core.layout import TokenLayout
    >>> attention = torch.tensor([[[0.1, 0.5, 0.2, 0.2]], [[0.2, 0.3, 0.1, 0.4]]])  # (2 heads, 1 query row, 4 tokens)
    >>> ctx = TokenContext(TokenLayout.raster(2, 2, size=(200, 200), family="toy"), budget=2, attention=attention)
    >>> FastV().select(ctx).indices
    tensor([1, 3])
    """

    name: ClassVar[str] = "fastv"
    source: ClassVar[Citation | None] = Citation(
        key="fastv2024",
        title="An Image is Worth 1/2 Tokens After Layer 2: Plug-and-Play Inference Acceleration for Large "
        "Vision-Language Models",
        year=2024,
        arxiv="2403.06764",
        authors=(
            "Liang Chen", "Haozhe Zhao", "Tianyu Liu", "Shuai Bai", "Junyang Lin", "Chang Zhou", "Baobao Chang",
        ),
    )  # fmt: skip
    cost: ClassVar[str] = "one sort"
    verified: ClassVar[str] = "paper; original positions"
    nested: ClassVar[bool] = True

    def importance(self, ctx: TokenContext) -> Tensor:
        """Average the attention over heads and query rows: (N,)."""
        return self.over_heads(ctx)
