"""IVC-Prune: coordinates of the rotary embedding, and a foreground by values (arXiv 2602.03060)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from biaslab.errors import InputError
from biaslab.pruning.algorithms.coordinates import reference_tokens
from biaslab.pruning.base import Method, TokenContext, choice, descending, number, required
from biaslab.pruning.budgets import share
from biaslab.pruning.citation import Citation
from biaslab.pruning.registry import register

__all__ = ["IVC", "IVC_PRUNE"]

IVC_PRUNE = Citation(
    key="ivcprune2026",
    title="IVC-Prune: Revealing the Implicit Visual Coordinates in LVLMs for Vision Token Pruning",
    year=2026,
    arxiv="2602.03060",
    authors=("Zhichao Sun", "Yidong Ma", "Gang Liu", "Yibo Chen", "Xu Tang", "Yao Hu", "Yongchao Xu"),
    venue="ICLR 2026",
)


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class IVC(Method):
    """Keep the tokens at reference positions, then a foreground found by value vectors (arXiv 2602.03060).

    *Positions*: at position m, ``V(m) = mean_k cos(m theta_k)`` and ``U(m) = mean_k sin(m theta_k)``; of the
    ``floor(coordinates * n)`` places, half go to the largest V and half to the largest U
    (:func:`biaslab.pruning.algorithms.coordinates.reference_tokens`). *Seeds*: the ``seeds`` share of all tokens whose
    values are most like those of the question. *Foreground*: the rest by likeness to the values of seeds and question.

    Likeness of token i to a set Q of tokens is the mean over q in Q, and over heads, of
    ``softmax_i(v_q . v_i / sqrt(d))``, the softmax over the image's tokens; values are those of layer K - 1.

    Parameters
    ----------
    coordinates : float
        Share of the budget for reference positions, in [0, 1]. Published: the best 10 % of all tokens by V and by U at
        half of them kept, up to 0.4 of the budget.
    seeds : float
        Share of all tokens that are seeds; 0.01 as published, at least one token.
    hidden : {"normed", "raw"}
        What values are projected from: what the layer's attention is given, or ("raw") the hidden state before the
        norm, which is what the published code for InternVL does, by reading a slip.

    Notes
    -----
    At a tenth of the tokens the published two times 10 % do not fit, and its own cut keeps the lowest indices: the top
    of the picture. Here they are a share of the budget, and what V and U have in common goes to the next best. The form
    is that for Qwen, with all families; for InternVL the published code scores the thumbnail alone and maps its best to
    the tiles. The cache below K stays. Published layers: 16 (InternVL2.5-8B, Qwen2.5-VL-7B, LLaVA), 22
    (Qwen2.5-VL-3B), 2 (Qwen2-VL-7B). Unverified: the scale of the products before the softmax.
    As a set that any method can carry, see ``protected``.

    References
    ----------
    arXiv 2602.03060.

    Examples
    --------
    >>> from biaslab.core.layout import TokenLayout
    >>> from biaslab.pruning.context import Rotary
    >>> values, said = torch.eye(4)[None] * 9, torch.tensor([[[0.0, 0.0, 9.0, 0.0]]])  # the question is like token 2
    >>> ctx = TokenContext(
    ...     TokenLayout.raster(2, 2, size=(200, 200), family="toy"), budget=2, values=values, text_values=said,
    ...     text=torch.zeros(1, 8), rotary=Rotary(torch.tensor([0.1]), torch.arange(4)[None]),
    ... )  # fmt: skip
    >>> IVC(coordinates=0.5).select(ctx).indices  # no turn at position 0
    tensor([0, 2])
    """

    coordinates: float = 0.4
    seeds: float = 0.01
    hidden: str = "normed"

    name: ClassVar[str] = "ivc"
    source: ClassVar[Citation | None] = IVC_PRUNE
    cost: ClassVar[str] = "products of values of question and tokens twice, four sorts"
    verified: ClassVar[str] = "partly: scale of the value products; the form for Qwen with all families"
    needs: ClassVar[frozenset[str]] = frozenset({"values", "text", "rotary"})

    def __post_init__(self) -> None:
        super().__post_init__()
        number("coordinates", self.coordinates, 0, 1)
        number("seeds", self.seeds, 0, 1, open_low=True)
        choice("hidden", self.hidden, ("normed", "raw"))

    @property
    def raw_values(self) -> bool:
        """Whether values are to be projected from hidden states before the norm."""
        return self.hidden == "raw"

    def pick(self, ctx: TokenContext, scores: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        """Take reference positions, then seeds, then the foreground."""
        values = required(ctx.values, "values").float()
        said = required(ctx.text_values, "values of the text").float()
        rotary = ctx.rotary
        if rotary is None:
            raise InputError("the method needs rotary: call select() with a TokenContext that holds what it needs")
        fixed = reference_tokens(rotary, share(self.coordinates, ctx.budget))
        asked = _likeness(said, values)
        seeds = descending(asked)[: max(1, share(self.seeds, ctx.n))]
        rank = _likeness(torch.cat([values[:, seeds], said], 1), values)
        # likeness is at most 1: positions come first, then seeds
        rank = rank.index_copy(0, seeds, 2 + asked[seeds]).index_fill(0, fixed, 4)
        return descending(rank)[: ctx.budget], {}


def _likeness(of: Tensor, to: Tensor) -> Tensor:
    """Average over heads and vectors of (Hkv, Q, d) the softmax of their products with those of the image: (N,)."""
    return (of @ to.transpose(1, 2) * of.shape[-1] ** -0.5).softmax(-1).mean((0, 1))
