"""FastV: keep what the last prompt token attends to most (arXiv 2403.06764)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from biaslab.pruning.base import TokenContext
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
    """

    name: ClassVar[str] = "fastv"

    def importance(self, ctx: TokenContext) -> Tensor:
        """(N,) attention averaged over heads and query rows."""
        return self.per_head(ctx).mean(0)
