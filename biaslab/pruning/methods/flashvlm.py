"""FlashVLM: tokens like the question that stand out, and a diverse rest (arXiv 2512.20561)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from biaslab.pruning.algorithms.max_min import max_min_rest
from biaslab.pruning.base import Method, Picked, TokenContext, choice, number, required
from biaslab.pruning.batch import TokenBatch, ranked
from biaslab.pruning.budgets import share
from biaslab.pruning.citation import Citation
from biaslab.pruning.registry import register

__all__ = ["FlashVLM"]

_LEAST = 1e-6  # saliency at the least, of which a logarithm is taken


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class FlashVLM(Method):
    """Keep the tokens that are like the question and stand out, and of the others a diverse few.

    With x the features that enter layer K and t those of the T tokens behind the image, the relevance of a token is its
    mean or largest cosine with these, ``c_i = pool_j cos(x_i, t_j)``, and its saliency ``a_i`` says how much it stands
    out without a question. Each becomes a distribution over the image, and their product decides, in the log domain:

        s_i = beta * log softmax_i(c_i / temperature) + (1 - beta) * log(a_i / sum_j a_j)

    Of n tokens to keep, the first ``n - floor(diverse * n)`` by s are kept, ties by index; the others are chosen one by
    one, always the token whose nearest kept one is farthest in cosine distance, :class:`DivPrune` from what is kept.
    ``diverse = 0`` is the top n by s; ``beta = 1`` is relevance alone, ``beta = 0`` saliency alone.

    Parameters
    ----------
    beta : float
        Weight of relevance against saliency in [0, 1].
    temperature : float
        Of the softmax, above 0: a small one lets relevance outweigh saliency.
    diverse : float
        Share of the budget that goes to the diverse rest, in [0, 1].
    saliency : {"distinct", "norm"}
        "distinct": one minus the mean cosine with all tokens of the image. "norm": the Euclidean norm of the features.
    pool : {"mean", "max"}
        Over the tokens behind the image, the question and what the template puts there.

    Notes
    -----
    Written after the abstract and summaries alone. From them: the cosine of projected image tokens and normalised text
    embeddings, no attention of the decoder, fusion in the log domain, a temperature, a partition that keeps a diverse
    rest. **Unverified** and ours: the weight, the temperature and what it divides, the share of the rest and how it is
    chosen, what the saliency is (that of the paper may be of the vision tower), the pooling over words. Saliency and
    share of the rest are those that kept most accuracy of the embedded grounder on validation scenes (docs/rules.md).
    Published before the decoder: K = 0.

    ``Selection.info``: ``diverse``, tokens of the rest.

    References
    ----------
    arXiv 2512.20561.

    Examples
    --------
    >>> from biaslab.core.layout import TokenLayout
    >>> features = torch.tensor([[2.0, 0.0], [1.9, 0.3], [0.1, 1.0], [-1.0, 0.2]])
    >>> layout = TokenLayout.raster(2, 2, size=(200, 200), family="toy")
    >>> ctx = TokenContext(layout, budget=2, features=features, text=torch.tensor([[1.0, 0.0]]))
    >>> FlashVLM(diverse=0.0).select(ctx).indices, FlashVLM(diverse=0.5).select(ctx).indices
    (tensor([0, 1]), tensor([0, 3]))
    """

    beta: float = 0.5
    temperature: float = 0.1
    diverse: float = 0.5
    saliency: str = "distinct"
    pool: str = "mean"

    name: ClassVar[str] = "flashvlm"
    nested: ClassVar[bool] = False  # the rest is a share of the budget
    needs: ClassVar[frozenset[str]] = frozenset({"features", "text"})
    source: ClassVar[Citation | None] = Citation(
        key="flashvlm2025",
        title="FlashVLM: Text-Guided Visual Token Selection for Large Multimodal Models",
        year=2025,
        arxiv="2512.20561",
        authors=(
            "Kaitong Cai", "Jusheng Zhang", "Jing Yang", "Yijia Fan", "Pengtao Xie", "Jian Wang", "Keze Wang",
        ),
    )  # fmt: skip
    cost: ClassVar[str] = "one sort, a share of n steps of N"
    verified: ClassVar[str] = "partly: its form; every constant is ours"

    def __post_init__(self) -> None:
        super().__post_init__()
        number("beta", self.beta, 0, 1)
        number("temperature", self.temperature, 0, open_low=True)
        number("diverse", self.diverse, 0, 1)
        choice("saliency", self.saliency, ("distinct", "norm"))
        choice("pool", self.pool, ("mean", "max"))

    def importance(self, ctx: TokenContext) -> Tensor:
        """Fuse relevance and saliency: (N,), logarithms."""
        features, text = required(ctx.features, "features").float(), required(ctx.text, "text").float()
        unit, said = normalize(features, dim=1), normalize(text, dim=1)
        # the mean of cosines is the product with the mean direction
        relevance = unit @ said.mean(0) if self.pool == "mean" else (unit @ said.T).amax(1)
        salient = torch.linalg.vector_norm(features, dim=1) if self.saliency == "norm" else 1 - unit @ unit.mean(0)
        salient = salient.clamp(min=_LEAST)
        asked = torch.log_softmax(relevance / self.temperature, 0)
        return self.beta * asked + (1 - self.beta) * (salient / salient.sum()).log()

    def pick_batch(
        self, batch: TokenBatch, scores: Sequence[Tensor | None], budgets: Sequence[Sequence[int]]
    ) -> list[list[Picked]]:
        """Choose for all images and budgets."""
        orders = ranked([required(own, "scores") for own in scores])
        out = []
        for ctx, order, wanted in zip(batch, orders, budgets, strict=True):
            features = required(ctx.features, "features")
            out.append([self._pick(features, order, n) for n in wanted])
        return out

    def _pick(self, features: Tensor, order: Tensor, n: int) -> Picked:
        rest = min(share(self.diverse, n), n - 1)  # something must be kept for the rest to be far from
        best = order[: n - rest]
        return torch.cat([best, max_min_rest(features, best, rest)]), {"diverse": rest}
