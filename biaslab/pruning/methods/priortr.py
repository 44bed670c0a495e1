"""PriorTR: what the question adds to what the image draws by itself (arXiv 2606.24156)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from biaslab.errors import InputError
from biaslab.pruning.base import TokenContext, choice, number
from biaslab.pruning.citation import Citation
from biaslab.pruning.methods.attention_method import AttentionMethod
from biaslab.pruning.registry import register

__all__ = ["PriorTR"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class PriorTR(AttentionMethod):
    """Keep the tokens whose attention says most beyond a prior from the same forward (arXiv 2606.24156).

    The prior Q is the attention of the first token behind the image (``queries="null"``): by causality it has seen
    the image and nothing of the question. P is that of the method's own ``queries``. Both are averaged over heads
    and divided by their sum over the image (+ 1e-10). A token scores

    - "information" (published): ``P log(P / Q)``, its part of the information that P has over Q;
    - "ratio" (ours): ``P / Q``, as relative attention divides by a fitted profile.

    The published score is no ranking of P / Q: ``x log(x / q)`` falls until x = q / e, is 0 at x = 0 and negative
    below q. Once the tokens with P > Q run out, tokens that draw **nothing** come before tokens just below their prior.

    No calibration is needed. The prior is one image's: it takes out what is salient in it as well as what its places
    draw; a profile takes out places alone.

    Parameters
    ----------
    rule : {"information", "ratio"}
        The score. (The option ``score`` is what is recorded in the place of attention, as of every method.)
    eps : float
        Added to the sums, where it is published, and to P and Q before they are compared.
    **options
        Those of `AttentionMethod`. ``queries="last"`` is published for LLaVA, the mean over all rows behind the image
        (``"text"``, which holds the prior's own row) for InternVL.

    Notes
    -----
    Differs from the published code in leaving the KV cache of the lower layers whole, unless ``prune(cache="trimmed")``
    trims it as there; it drops after layer index 1 (K = 2). Families whose prompt tokens see those behind them
    (PaliGemma) are refused: they have no such row.
    No RefCOCO figure has been published that we know of.

    References
    ----------
    arXiv 2606.24156.

    Examples
    --------
    >>> import torch
    >>> from biaslab.core.layout import TokenLayout
    >>> said = torch.tensor([[[0.4, 0.3, 0.2, 0.1]]])  # (1 head, 1 query row, 4 tokens)
    >>> prior = torch.tensor([[[0.7, 0.1, 0.1, 0.1]]])
    >>> layout = TokenLayout.raster(2, 2, size=(200, 200), family="toy")
    >>> ctx = TokenContext(layout, budget=2, attention=said, other_rows={"null": prior})
    >>> PriorTR().select(ctx).indices  # the token that draws most does so whatever is asked
    tensor([1, 2])
    """

    rule: str = "information"
    eps: float = 1e-10

    name: ClassVar[str] = "priortr"
    source: ClassVar[Citation | None] = Citation(
        key="priortr2026",
        title="Accelerating Multimodal Large Language Models with Prior-Corrected Token Reduction",
        year=2026,
        arxiv="2606.24156",
        authors=("Zengjie Chen", "Yuxiang Cai", "Jingcai Guo", "Taotao Cai", "Jianwei Yin", "Zhi Chen"),
        venue="ECCV 2026",
    )
    cost: ClassVar[str] = "one more query row, one sort"
    verified: ClassVar[str] = "paper and code; the lower layers' cache stays by default"
    nested: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("rule", self.rule, ("information", "ratio"))
        number("eps", self.eps, 0, open_low=True)
        if self.queries == "null":
            raise InputError("queries='null' is the prior itself: choose 'last', 'text' or prompt positions")

    @property
    def query_kinds(self) -> tuple[str | tuple[int, ...], ...]:
        """Its own rows, and the null row of the prior."""
        return (self.queries, "null")

    def importance(self, ctx: TokenContext) -> Tensor:
        """Compare what the question draws with what the image draws by itself: (N,)."""
        said, prior = (self._shares(ctx, kind) for kind in (None, "null"))
        relative = (said + self.eps) / (prior + self.eps)
        return relative if self.rule == "ratio" else said * relative.log()

    def _shares(self, ctx: TokenContext, kind: str | None) -> Tensor:
        attention = self.over_heads(ctx, self.per_head(ctx, queries=kind))
        return attention / (attention.sum() + self.eps)
