"""SparseVLM: what the words that are about the image look at (arXiv 2410.04417)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from biaslab.attention.raters import raters
from biaslab.errors import InputError
from biaslab.pruning.base import TokenContext, choice, number, required
from biaslab.pruning.citation import Citation
from biaslab.pruning.methods.attention_method import AttentionMethod
from biaslab.pruning.methods.staged import Staged
from biaslab.pruning.registry import register

__all__ = ["SparseVLM"]

_PUBLISHED = np.array([[66, 34, 20], [238, 108, 60], [300, 200, 118]]) / 576  # left by the stages, at three budgets


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class SparseVLM(Staged, AttentionMethod):
    """Keep the tokens that the raters among the words attend to most (arXiv 2410.04417).

    *Raters*: of the T tokens behind the image, token t has ``r_t = mean_v softmax_t(h_v . h_t)`` over the visual
    tokens v, h being what the decoder is given; those above the mean of r rate (all, where none is). *Score* of a
    visual token: its attention from the raters, averaged over heads and raters.

    By itself it cuts behind layers 2, 6 and 15 of 32 (K = 3, 7 and 16, scaled to the depth), each time by the
    probabilities of that layer and among what is left; behind a cut raters are chosen anew, by the tokens that are
    left. Published (second version) are, of 576 tokens, 300, 200 and 118 (192 on average), 238, 108 and 60 (128), and
    66, 34 and 20 (64): these shares at these keeps, between them and up to 1 log-linear in keep, below them in the
    proportions of the last. At a layer that is named it is one cut.

    Parameters
    ----------
    queries : "text"
        The rows that raters are chosen from.
    rate : {"embeddings", "states"}
        What raters are chosen by: what the decoder is given (published), or the states that enter layer K (ours).
    heads : {"all", "top"}
        "top" (second version): the heads whose raters give the image most, as many of them as ``head_share`` says.
    head_share : float
        Share of the heads, for ``heads="top"``; 14 of 32 published.
    **options
        Those of `AttentionMethod`. ``score="rope_corrected"`` is the second version's correction for near keys, made in
        the logits; the published code divides probabilities by the rotary product, which can be near zero or negative.

    Notes
    -----
    Left out of the first version: the dropped are not merged into a few new tokens, and positions stay (the second does
    neither). Unverified: of which rows the second version takes a head's mass (here: of the raters).

    References
    ----------
    arXiv 2410.04417.

    Examples
    --------
    >>> import torch
    >>> from biaslab.core.layout import TokenLayout
    >>> words = torch.tensor([[3.0, 0.0], [0.0, 0.1]])  # the first is about the image
    >>> attention = torch.tensor([[[0.1, 0.4, 0.1, 0.1], [0.9, 0.0, 0.0, 0.1]]])  # (1 head, 2 query rows, 4 tokens)
    >>> ctx = TokenContext(
    ...     TokenLayout.raster(2, 2, size=(200, 200), family="toy"), budget=1, attention=attention, text=words,
    ...     embeddings=torch.ones(4, 2), text_embeddings=words,
    ... )  # fmt: skip
    >>> SparseVLM().select(ctx).indices
    tensor([1])
    >>> [(layer, round(576 * rule.keep)) for layer, rule in SparseVLM(keep=60 / 576).own_stages(32)]
    [(3, 238), (7, 108), (16, 60)]
    """

    queries: str | tuple[int, ...] = "text"
    rate: str = "embeddings"
    heads: str = "all"
    head_share: float = 0.4375

    name: ClassVar[str] = "sparsevlm"
    source: ClassVar[Citation | None] = Citation(
        key="sparsevlm2025",
        title="SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference",
        year=2025,
        arxiv="2410.04417",
        authors=(
            "Yuan Zhang", "Chun-Kai Fan", "Junpeng Ma", "Wenzhao Zheng", "Tao Huang", "Kuan Cheng", "Denis Gudovskiy",
            "Tomoyuki Okuno", "Yohei Nakata", "Kurt Keutzer", "Shanghang Zhang",
        ),
    )  # fmt: skip
    cost: ClassVar[str] = "rows of all words, one product of words and tokens, one sort"
    verified: ClassVar[str] = "partly: which rows weigh heads, raters behind a cut; no merging"
    nested: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"attention", "text", "embeddings"})
    head_words: ClassVar[tuple[str, ...]] = ("all", "top")
    depths: ClassVar[tuple[float, ...]] = (3 / 32, 7 / 32, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("rate", self.rate, ("embeddings", "states"))
        choice("heads", self.heads, ("all", "top"))
        number("head_share", self.head_share, 0, 1, open_low=True)
        if self.queries != "text":
            raise InputError(f"sparsevlm chooses raters among all words: leave out queries, got {self.queries!r}")
        if self.heads != "top" and self.head_share != type(self).head_share:
            raise InputError("head_share does nothing without heads=top: add it, or leave head_share out")
        if self.rate == "states":
            object.__setattr__(self, "needs", frozenset({"attention", "text", "features"}))

    def stage_keeps(self, keep: float) -> Sequence[float]:
        """List the published shares of the stages, between the published budgets interpolated."""
        if keep <= _PUBLISHED[0, -1]:
            return (keep * _PUBLISHED[0] / _PUBLISHED[0, -1])[:-1].tolist() + [keep]
        known = np.log(np.vstack([_PUBLISHED, np.ones(3)]))
        return [float(np.exp(np.interp(np.log(keep), known[:, -1], known[:, stage]))) for stage in range(2)] + [keep]

    def importance(self, ctx: TokenContext) -> Tensor:
        """Average the attention of the raters over raters and heads: (N,)."""
        rows = required(ctx.attention, "attention").float()
        rate = self._raters(ctx).to(rows.dtype)
        per_head = self.without_sinks(ctx, (rows * rate[:, None]).sum(1) / rate.sum())
        if self.heads == "top":
            n = max(1, round(self.head_share * len(per_head)))
            top = per_head.sum(1).sort(descending=True, stable=True).indices[:n]
            per_head = per_head[top.sort().values]
        return per_head.mean(0)

    def _check(self, ctx: TokenContext) -> None:
        super()._check(ctx)
        words = ctx.text if self.rate == "states" else ctx.text_embeddings
        rows = required(ctx.attention, "attention").shape[1]
        if words is None or len(words) != rows:
            said = "no embeddings of the text" if words is None else f"{len(words)} tokens of text"
            raise InputError(
                f"method {self.name!r} needs one row of attention per token of text, got {rows} and {said}"
            )

    def _raters(self, ctx: TokenContext) -> Tensor:
        """Tell which words rate: (T,) bool."""
        if self.rate == "states":
            return raters(required(ctx.features, "features"), required(ctx.text, "text"))
        return raters(required(ctx.embeddings, "embeddings"), required(ctx.text_embeddings, "text_embeddings"))
