"""IVC-Prune: coordinates of the rotary embedding, and a foreground by values (arXiv 2602.03060)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from biaslab.core.frames import FramesLayout
from biaslab.core.thumbnails import thumbnail_tokens
from biaslab.errors import InputError
from biaslab.pruning.algorithms.coordinates import reference_tokens
from biaslab.pruning.algorithms.quotas import quotas
from biaslab.pruning.algorithms.transfer import upload
from biaslab.pruning.base import Method, TokenContext, added_option, choice, descending, number, required
from biaslab.pruning.budgets import share
from biaslab.pruning.citation import Citation
from biaslab.pruning.context import Rotary
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

    *Tiles*, with ``foreground="thumbnail"``, the published form for InternVL: seeds and foreground are found among the
    N_t tokens of the thumbnail alone, its best ``floor(n N_t / N)`` (at least one) stay, and with them every cell of a
    tile whose centre lies in the cell of one of these (:func:`biaslab.core.thumbnails.thumbnail_tokens`). Places are
    shared out over the tiles, ``floor(coordinates * n * (1 - N_t / N))`` of them, half to V and half to U in each. What
    is too much goes by ``cut``; what is missing comes from the thumbnail, and then from tiles in its order. An image
    without a thumbnail (of InternVL, one of a single tile) is treated as by default.

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
    foreground : {"image", "thumbnail"}
        Where the foreground is looked for. "thumbnail", as published for InternVL, changes images with a thumbnail.
    cut : {"rank", "position"}
        With "thumbnail", what goes where the parts are more than the budget. "rank": reference positions come first,
        then the thumbnail's best, then cells of tiles by their rank there. "position": the last in the sequence go,
        as published, whatever they are: of InternVL the thumbnail, then the last tiles.

    Notes
    -----
    At a tenth of the tokens the published two times 10 % do not fit, and its own cut keeps the lowest indices: the top
    of the image. Here they are a share of the budget, and what V and U have in common goes to the next best. The form
    is by default that for Qwen, with all families; ``ivc:foreground=thumbnail:cut=position:hidden=raw`` is the
    published one for InternVL, with these differences: at half of the tokens 51 places of a tile of 256 are reference
    positions (26 by V, 25 by U; published 26 and 26), and the softmax runs over the tokens of the image (published:
    over all keys of the prompt). At other shares of the tokens the thumbnail's best are that share of it. The cache
    below K stays, unless ``prune(cache="trimmed")`` trims it as published. Published layers: 16 (InternVL2.5-8B,
    Qwen2.5-VL-7B, LLaVA), 22 (Qwen2.5-VL-3B), 2 (Qwen2-VL-7B).
    **Unverified**: the scale of the products before the softmax; of tiles, whether a winner of the thumbnail stands
    for all cells that it covers (as here; then ``cut=position`` leaves nothing of the thumbnail at half of the tokens)
    or for fewer, whether seeds are a share of the thumbnail or of all tokens, and
    whether the thumbnail has reference positions of its own (here: none).
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
    foreground: str = added_option("image")
    cut: str = added_option("rank")

    name: ClassVar[str] = "ivc"
    source: ClassVar[Citation | None] = IVC_PRUNE
    cost: ClassVar[str] = "products of values of question and tokens twice, four sorts"
    verified: ClassVar[str] = "partly: scale of the value products; how the thumbnail's winners are mapped to tiles"
    needs: ClassVar[frozenset[str]] = frozenset({"values", "text", "rotary"})

    def __post_init__(self) -> None:
        super().__post_init__()
        number("coordinates", self.coordinates, 0, 1)
        number("seeds", self.seeds, 0, 1, open_low=True)
        choice("hidden", self.hidden, ("normed", "raw"))
        choice("foreground", self.foreground, ("image", "thumbnail"))
        choice("cut", self.cut, ("rank", "position"))
        if self.foreground == "image" and self.cut != "rank":
            raise InputError("cut does nothing without foreground=thumbnail: add it, or leave cut out")

    @property
    def raw_values(self) -> bool:
        """Whether values are to be projected from hidden states before the norm."""
        return self.hidden == "raw"

    @property
    def needs_layout(self) -> bool:
        """Cells of the thumbnail and of tiles lie in the image."""
        return self.foreground == "thumbnail"

    def pick(self, ctx: TokenContext, scores: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        """Take reference positions, then seeds, then the foreground."""
        rotary = ctx.rotary
        if rotary is None:
            raise InputError("the method needs rotary: call select() with a TokenContext that holds what it needs")
        if self.foreground == "thumbnail" and ctx.layout.thumbnail.any():
            return self._by_thumbnail(ctx, rotary), {}
        fixed = reference_tokens(rotary, share(self.coordinates, ctx.budget))
        return descending(self._rank(ctx, None).index_fill(0, fixed, 4))[: ctx.budget], {}

    def _rank(self, ctx: TokenContext, among: np.ndarray | None) -> Tensor:
        """Score the tokens, or some of them with all others at -inf: seeds from 2 on, likeness is at most 1."""
        values = required(ctx.values, "values").float()
        said = required(ctx.text_values, "values of the text").float()
        if among is None:
            out, n = torch.zeros(ctx.n, device=values.device), ctx.n
        else:
            out, n = torch.full((ctx.n,), -torch.inf, device=values.device), len(among)
            out = out.index_fill(0, upload(among, values.device), 0.0)
        asked = _likeness(said, values) + out
        seeds = descending(asked)[: max(1, share(self.seeds, n))]
        rank = _likeness(torch.cat([values[:, seeds], said], 1), values) + out
        return rank.index_copy(0, seeds, 2 + asked[seeds])

    def _by_thumbnail(self, ctx: TokenContext, rotary: Rotary) -> Tensor:
        """Choose with a foreground that is found in the thumbnail: what comes earlier has the smaller key."""
        shows = thumbnail_tokens(ctx.layout)
        scored = np.flatnonzero(shows == np.arange(ctx.n))
        order = descending(self._rank(ctx, scored))
        token = torch.arange(ctx.n, device=order.device)
        place = torch.empty_like(token).scatter(0, order, token)  # among all; the scored ones come first
        owner = upload(shows, order.device)
        place = torch.where(owner < 0, ctx.n, place[owner.clamp(min=0)])
        best = place < max(1, ctx.budget * len(scored) // ctx.n)
        own = owner == token
        # the thumbnail's best, their cells in the tiles, the rest of the thumbnail, the rest of the tiles
        part = torch.where(best, torch.where(own, 1, 2), torch.where(own, 3, 4))
        part = part.index_fill(0, _tile_references(ctx, rotary, self.coordinates), 0)
        key = part * (ctx.n + 1) + place
        if self.cut == "position":
            key = torch.where(part <= 2, token - ctx.n, key)
        return key.argsort(stable=True)[: ctx.budget]


def _tile_references(ctx: TokenContext, rotary: Rotary, coordinates: float) -> Tensor:
    """List the reference positions of all tiles, those of the thumbnail left out."""
    layout = ctx.layout
    frame = layout.frame if isinstance(layout, FramesLayout) else np.zeros(ctx.n, dtype=np.int64)
    large = np.flatnonzero(~layout.thumbnail)
    tile = frame[large] * (int(layout.tile.max()) + 1) + layout.tile[large]
    tiles = [large[tile == which] for which in np.unique(tile)]
    sizes = [len(each) for each in tiles]
    found = []
    for at, n in zip(tiles, quotas(sizes, sizes, share(coordinates * len(large) / ctx.n, ctx.budget)), strict=True):
        where = upload(at, rotary.positions.device)
        found.append(where[reference_tokens(Rotary(rotary.theta, rotary.positions[:, where]), n)])
    return torch.cat(found) if found else torch.empty(0, dtype=torch.int64, device=rotary.positions.device)


def _likeness(of: Tensor, to: Tensor) -> Tensor:
    """Average over heads and vectors of (Hkv, Q, d) the softmax of their products with those of the image: (N,)."""
    return (of @ to.transpose(1, 2) * of.shape[-1] ** -0.5).softmax(-1).mean((0, 1))
