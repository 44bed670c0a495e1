"""DART: tokens that duplicate few pivots least (arXiv 2502.11494)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from biaslab.errors import InputError
from biaslab.pruning.base import Method, TokenContext, choice, descending, required
from biaslab.pruning.citation import Citation
from biaslab.pruning.registry import register

__all__ = ["DART"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class DART(Method):
    """Keep a few pivots, and what is least like each of them (arXiv 2502.11494).

    Pivots are the ``visual`` visual tokens and the ``text`` tokens behind the image with the largest L1 norm of their
    keys, heads together. Of n tokens to keep, the visual pivots are the first; then each pivot in turn, visual ones
    first, takes of the tokens that are left the ``ceil((n - v) / (v + t))`` of least cosine to it, until n are kept.
    Cosines are of the hidden states that enter layer K.

    Parameters
    ----------
    visual, text : int
        Pivots of either kind; 4 and 4 as published. Of fewer than ``2 * visual`` tokens to keep, half are pivots,
        at least one.
    by : {"keys", "features"}
        What the norms are of: "keys" of layer K - 1 (published), or "features", the hidden states themselves: then
        nothing is read of a layer and K = 0 is possible, as in the form that products run before the decoder.

    Notes
    -----
    Differs from the published rule: exactly n visual tokens are kept, where ``ceil((n - 8) / 8)`` for each of eight
    pivots counts those of the text in n and is undefined below 9 tokens; text is never dropped here. It drops behind
    layer 2 there. Unverified: whether norms are of keys before or after rotary embedding (here after, as in the KV
    cache), and the form before the decoder.

    References
    ----------
    arXiv 2502.11494.

    Examples
    --------
    >>> from biaslab.core.layout import TokenLayout
    >>> features = torch.tensor([[3.0, 0.0], [1.0, 0.1], [0.1, 1.0], [-1.0, 0.0]])
    >>> ctx = TokenContext(
    ...     TokenLayout.raster(2, 2, size=(200, 200), family="toy"), budget=2, features=features, text=torch.ones(1, 2)
    ... )
    >>> DART(by="features", text=0).select(ctx).indices  # the longest, and what is least like it
    tensor([0, 3])
    """

    visual: int = 4
    text: int = 4
    by: str = "keys"

    name: ClassVar[str] = "dart"
    source: ClassVar[Citation | None] = Citation(
        key="dart2025",
        title="Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More",
        year=2025,
        arxiv="2502.11494",
        authors=(
            "Zichen Wen", "Yifeng Gao", "Shaobo Wang", "Junyuan Zhang", "Qintong Zhang", "Weijia Li", "Conghui He",
            "Linfeng Zhang",
        ),
        venue="EMNLP 2025",
    )  # fmt: skip
    cost: ClassVar[str] = "eight cosines per token, eight sorts"
    verified: ClassVar[str] = "partly: keys after rotary embedding; exactly n kept"
    needs: ClassVar[frozenset[str]] = frozenset({"keys", "features", "text"})

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("by", self.by, ("keys", "features"))
        for name in ("visual", "text"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InputError(f"{name} must be a number of pivots, 0 or more; got {value!r}")
        if self.visual + self.text == 0:
            raise InputError("dart needs a pivot: give visual or text 1 or more")
        if self.by == "features":
            object.__setattr__(self, "needs", frozenset({"features", "text"}))

    def options(self) -> dict[str, Any]:
        """List the hyper-parameters as every method does; pivots stay whole numbers."""
        return {**super().options(), "visual": self.visual, "text": self.text}

    def pick(self, ctx: TokenContext, scores: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        """Take pivots, then what is least like each."""
        features, words = required(ctx.features, "features").float(), required(ctx.text, "text").float()
        own, other = (features, words) if self.by == "features" else self._keys(ctx)
        n_text = min(self.text, len(words))
        n_visual = min(self.visual, max(1, ctx.budget // 2))
        pivots = descending(own.abs().sum(-1))[:n_visual]
        of_text = descending(other.abs().sum(-1))[:n_text]
        guides = normalize(torch.cat([features[pivots], words[of_text]]), dim=1)
        unlike = -(guides @ normalize(features, dim=1).T)  # (pivots, N)
        each = -(-(ctx.budget - n_visual) // len(guides))
        chosen, left = [pivots], ctx.budget - n_visual
        taken = torch.zeros(ctx.n, dtype=torch.bool, device=features.device)
        taken[pivots] = True
        for own_unlike in unlike:
            more = min(each, left)
            if not more:
                break
            best = descending(own_unlike.masked_fill(taken, -torch.inf))[:more]
            taken[best] = True
            chosen.append(best)
            left -= more
        return torch.cat(chosen), {}

    def _keys(self, ctx: TokenContext) -> tuple[Tensor, Tensor]:
        """Put the keys of all heads in one row per token, of the image and of the text."""
        both = required(ctx.keys, "keys"), required(ctx.text_keys, "keys of the text")
        visual, text = (keys.float().transpose(0, 1).flatten(1) for keys in both)
        return visual, text
