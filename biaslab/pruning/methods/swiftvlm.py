"""SwiftVLM: what a stage leaves out passes by as means and comes back at the next (arXiv 2602.03134)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from biaslab.errors import InputError
from biaslab.pruning.algorithms.merge_weights import merge_weights
from biaslab.pruning.base import Method, Picked, TokenContext, choice, number, required
from biaslab.pruning.citation import Citation
from biaslab.pruning.context import descending
from biaslab.pruning.methods.attention_method import AttentionMethod
from biaslab.pruning.methods.staged import Staged
from biaslab.pruning.registry import register

__all__ = ["SwiftVLM"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class SwiftVLM(Staged, AttentionMethod):
    """Keep the tokens that are attended to most, let means of the others go on, and choose anew among all of them.

    Before layer K the N visual tokens are ranked by the attention of the last prompt token at K itself, averaged over
    heads. Of n tokens that may go on, ``n - g`` are the best ranked and ``g = round(means * n)`` are means of all
    others: g of these lead, each of the rest joins the leader that its state is most like (cosine of what enters K),
    and the mean of a group stands at its leader's place and position. A mean is a token like any other: it counts in
    ``keep``, in the mean share and in FLOPs, and it is what the layers up to the next stage have of its group in their
    KV cache.

    The states h_i that were averaged are *parked*. At the next stage K' each comes back as ``h_i + (m' - m)``, with m
    and m' its group's mean where it entered K and where it enters K', and the stage chooses among all N again: a token
    that was left out once is not lost. Behind the last stage means go on to the end. Positions are the original ones.

    By itself it cuts at 3/32, 11/32 and 15/32 of the depth (K = 3, 11 and 15 of LLaVA's 32, which its authors found by
    dynamic programming over how well each layer selects) and lets ``keep ** (1/3)``, ``keep ** (2/3)`` and ``keep`` of
    the tokens on. At a layer that is named it is one cut, behind which nothing comes back.

    Parameters
    ----------
    means : float
        Share of the n tokens that are means, in [0, 1).
    leaders : {"even", "best"}
        Which of the others lead: every so-manyth in the order of the image, or the best ranked.
    merge : bool
        Whether means go on; without them all n are the best ranked, and what was parked comes back as it was.
    restore : bool
        Whether parked tokens come back; without it a later stage chooses among what is left, means among them, and
        other methods may be stages beside it.
    **options
        Those of `AttentionMethod`.

    Notes
    -----
    Unverified, hence options or ours: by which rows and heads tokens are ranked and whether K names the layer that is
    read or the first that sees fewer tokens; how tokens are grouped and into how many means; at which place a mean
    stands; the shares of the three stages and their published tokens; what happens behind the last stage. Other
    methods' tokens cannot be brought back, so with ``restore`` all stages of a schedule are this method, the first at
    layer 1 or later. Ranking takes the projections of layer K for all N tokens, which FLOPs do not count, as for every
    method that reads its own layer.

    References
    ----------
    arXiv 2602.03134.

    Examples
    --------
    >>> from biaslab.core.layout import TokenLayout
    >>> layout = TokenLayout.raster(1, 5, size=(5, 1), family="toy")
    >>> states = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0], [0.5, 0.5]])
    >>> ctx = TokenContext(layout, 3, attention=torch.tensor([[[0.1, 0.0, 0.2, 0.1, 0.6]]]), features=states)
    >>> chosen = SwiftVLM(means=0.67).select(ctx)  # 4 is the best; 0 and 2 lead 1 and 3
    >>> chosen.indices, chosen.merge
    (tensor([0, 2, 4]), tensor([[0.5000, 0.5000, 0.0000, 0.0000, 0.0000],
            [0.0000, 0.0000, 0.5000, 0.5000, 0.0000],
            [0.0000, 0.0000, 0.0000, 0.0000, 1.0000]]))
    >>> [(layer, round(rule.keep, 3)) for layer, rule in SwiftVLM(keep=0.125).own_stages(32)]
    [(3, 0.5), (11, 0.25), (15, 0.125)]
    """

    reads_layer: str = "own"
    means: float = 0.25
    leaders: str = "even"
    merge: bool = True
    restore: bool = True

    name: ClassVar[str] = "swiftvlm"
    source: ClassVar[Citation | None] = Citation(
        key="swiftvlm2026",
        title="SwiftVLM: Efficient Vision-Language Model Inference via Cross-Layer Token Bypass",
        year=2026,
        arxiv="2602.03134",
    )
    cost: ClassVar[str] = "a row of layer K, one sort, cosines of the others and their leaders a stage"
    verified: ClassVar[str] = "partly: layers and parking; grouping, number of means and shares of the stages are ours"
    needs: ClassVar[frozenset[str]] = frozenset({"attention", "features"})
    depths: ClassVar[tuple[float, ...]] = (3 / 32, 11 / 32, 15 / 32)
    powers: ClassVar[tuple[float, ...]] = (1 / 3, 2 / 3, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        number("means", self.means, 0, 1, open_high=True)
        choice("leaders", self.leaders, ("even", "best"))
        for name in ("merge", "restore"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if self.restore and self.reads_layer != "own":
            raise InputError(
                "swiftvlm cannot read the layer before K, which has not seen the parked tokens: leave out reads_layer, "
                "or write restore=false"
            )

    @property
    def merges(self) -> bool:
        """Whether means of what is left out go on."""
        return self.merge and self.means > 0

    @property
    def restores(self) -> bool:
        """Whether parked tokens come back."""
        return self.restore

    def own_stages(self, n_layers: int, lowest: int = 0) -> Sequence[tuple[int, Method]] | None:
        """List the layers K with the rule at its keep there; none before the decoder, where nothing can be parked."""
        return super().own_stages(n_layers, max(lowest, 1))

    def importance(self, ctx: TokenContext) -> Tensor:
        """Average the attention over heads and query rows: (N,)."""
        return self.over_heads(ctx)

    def pick(self, ctx: TokenContext, scores: Tensor | None) -> Picked:
        """List the best ranked tokens, then those that lead the others."""
        best, leaders, _ = self._parts(required(scores, "scores"), ctx.budget)
        return torch.cat([best, leaders]), {"means": len(leaders)}

    def merging(self, ctx: TokenContext, indices: Tensor, scores: Tensor | None) -> Tensor | None:
        """Average each group; None where nobody leads or nothing is left out."""
        _, leaders, others = self._parts(required(scores, "scores"), len(indices))
        if len(leaders) == 0 or len(others) == 0:
            return None
        return merge_weights(indices, leaders.sort().values, others, required(ctx.features, "features"))

    def _parts(self, scores: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Split all tokens into the best ranked, those that lead, and those that join a leader."""
        led = round(self.means * n) if self.merges else 0
        order = descending(scores)
        best, rest = order[: n - led], order[n - led :]
        if self.leaders == "best":
            return best, rest[:led], rest[led:]
        rest = rest.sort().values
        at = torch.arange(led, device=rest.device) * len(rest) // max(1, led)
        leads = torch.zeros(len(rest), dtype=torch.bool, device=rest.device).index_fill(0, at, True)
        # as many as there are leaders, known without asking the device
        split = leads.long().argsort(descending=True, stable=True)
        return best, rest[split[:led]], rest[split[led:]]
