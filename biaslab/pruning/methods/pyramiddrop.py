"""PyramidDrop: the best tokens by attention, fewer and fewer with depth (arXiv 2410.17247)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from biaslab.pruning.base import TokenContext
from biaslab.pruning.citation import Citation
from biaslab.pruning.methods.attention_method import AttentionMethod
from biaslab.pruning.methods.staged import Staged
from biaslab.pruning.registry import register

__all__ = ["PyramidDrop"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class PyramidDrop(Staged, AttentionMethod):
    """Keep the tokens that the last token of the question attends to most, in three stages.

    The score of token i is the softmax attention of the last prompt token over all tokens, averaged over heads, at
    layer K itself. By itself it cuts at 1/4, 1/2 and 3/4 of the depth (K = 8, 16 and 24 of 32) and leaves
    ``keep ** (1/3)``, ``keep ** (2/3)`` and ``keep`` of the tokens: with ``keep=0.125`` the published 1/2, 1/4 and 1/8,
    which is 46.9 % of the tokens on average over the layers. At a layer that is named it is one cut.

    Parameters
    ----------
    reads_layer : {"own", "previous"}
        "own" (default, published) or the attention of layer K - 1, which costs no projection.
    **options
        Those of `AttentionMethod`.

    References
    ----------
    arXiv 2410.17247. Differs: the published code renumbers positions (``positions="renumber"``), under which
    localization collapses whatever is kept; here they stay unless asked for.

    Examples
    --------
    >>> [(layer, round(rule.keep, 3)) for layer, rule in PyramidDrop(keep=0.125).own_stages(32)]
    [(8, 0.5), (16, 0.25), (24, 0.125)]
    >>> [(layer, round(rule.keep, 3)) for layer, rule in PyramidDrop(keep=0.1).own_stages(10)]
    [(2, 0.464), (5, 0.215), (8, 0.1)]
    """

    reads_layer: str = "own"

    name: ClassVar[str] = "pyramiddrop"
    source: ClassVar[Citation | None] = Citation(
        key="pyramiddrop2024",
        title="PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction",
        year=2024,
        arxiv="2410.17247",
    )
    cost: ClassVar[str] = "a row of layer K and one sort a stage"
    verified: ClassVar[str] = "paper; original positions"
    nested: ClassVar[bool] = True
    depths: ClassVar[tuple[float, ...]] = (0.25, 0.5, 0.75)
    powers: ClassVar[tuple[float, ...]] = (1 / 3, 2 / 3, 1.0)

    def importance(self, ctx: TokenContext) -> Tensor:
        """Average the attention over heads and query rows: (N,)."""
        return self.over_heads(ctx)
