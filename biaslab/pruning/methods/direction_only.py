"""The control for ``value_norm``: attention times how far the value points from the others, whatever its length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cosine_similarity

from biaslab.errors import InputError
from biaslab.pruning.base import TokenContext, required
from biaslab.pruning.citation import Citation
from biaslab.pruning.methods.attention_method import AttentionMethod
from biaslab.pruning.registry import register

__all__ = ["DirectionOnly"]

IPPRO = Citation(
    key="ippro2025",
    title="IPPRO: Importance-based Pruning with PRojective Offset for Magnitude-indifferent Structural Pruning",
    year=2025,
    arxiv="2507.14171",
)


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class DirectionOnly(AttentionMethod):
    """Keep tokens that are attended to and whose values point where others do not (ours).

    A token scores ``mean_h A_hi (1 - cos(v_hi, mean_j v_hj))``: its attention in a head, times one minus the cosine
    of its value vector with the mean value of the image's tokens. No length of a value enters, so it is the exact
    control for ``fastv:score=value_norm``, whose mean over heads leans to heads with long values: where the two agree,
    magnitude is not what made the choice. The query heads of a group share their values.

    Parameters
    ----------
    **options
        Those of `AttentionMethod`; ``score="value_norm"`` is refused, as it would bring the length back.

    Notes
    -----
    IPPRO prunes filters, not tokens: it asks whether a score is more than magnitude, which is what this control asks of
    tokens. It is no implementation of IPPRO.

    References
    ----------
    Motivation: IPPRO, arXiv 2507.14171.

    Examples
    --------
    >>> import torch
    >>> from biaslab.core.layout import TokenLayout
    >>> values = torch.tensor([[[9.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])  # (1 head, 4 tokens, 2)
    >>> ctx = TokenContext(
    ...     TokenLayout.raster(2, 2, size=(200, 200), family="toy"), budget=1, attention=torch.ones(1, 1, 4) / 4,
    ...     values=values,
    ... )  # fmt: skip
    >>> DirectionOnly().select(ctx).indices  # not the longest: the one that points elsewhere
    tensor([3])
    """

    name: ClassVar[str] = "direction_only"
    display_name: ClassVar[str] = "direction only"
    source: ClassVar[Citation | None] = None
    cost: ClassVar[str] = "one cosine per head and token, one sort"
    verified: ClassVar[str] = "ours"
    nested: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"attention", "values"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.score == "value_norm":
            raise InputError("score='value_norm' would bring the length of values back: choose another score")

    def citations(self) -> tuple[Citation, ...]:
        """List the work that asks the question."""
        return (*super().citations(), IPPRO)

    def importance(self, ctx: TokenContext) -> Tensor:
        """Weigh attention by direction: (N,)."""
        attention, values = self.per_head(ctx), required(ctx.values, "values").float()
        apart = 1 - cosine_similarity(values, values.mean(1, keepdim=True), dim=-1)
        return self.over_heads(ctx, attention * apart.repeat_interleave(len(attention) // len(apart), 0))
