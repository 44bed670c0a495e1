"""A share of the budget for every tile, image or block of the image, in which another method chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.pruning.base import Selection, TokenContext, choice, number, required
from biaslab.pruning.citation import Citation
from biaslab.pruning.methods.wrapper import Wrapper
from biaslab.pruning.registry import register
from biaslab.pruning.subset import Part, select_parts

__all__ = ["Quota", "quotas"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class Quota(Wrapper):
    """Divide the budget among groups of tokens; in each of them another method chooses.

    Parameters
    ----------
    method : str or Method
        What chooses within a group. On a command line it comes last: ``quota:by=tile:method=d2pruner:theta=0.7``.
    by : {"tile", "image", "blocks"}
        Groups: the tiles of an image (a thumbnail is one); the images of a prompt, which then share one budget, the
        sum of theirs (frames of a video come as images); blocks of ``block`` x ``block`` cells of a tile.
    share : {"equal", "relevance"}
        "equal": to every group the same share of its tokens. "relevance": in proportion to its tokens times
        ``exp(r / temperature)``, r being the cosine of the mean features of the group with the mean state of the tokens
        behind the image; no attention is read for it. A group gets its tokens at most; what is over goes to the others.
    block : int
        Cells along a side, for ``by="blocks"``.
    temperature : float
        For ``share="relevance"``: the smaller, the more goes to the most relevant group.
    profile : Profile, optional
        For a method that needs one.

    Notes
    -----
    Parts are apportioned by largest remainders, so that exactly the budget is kept; a group may get nothing, an image
    gets one token at least. Within a group the method is asked as if an earlier stage had dropped the others.

    AdaTP (arXiv 2505.20100) gives segments of a video with much text-visual similarity a larger share of the budget.
    That is what "image" with "relevance" is for; its encoder, its segments and its share per segment could not be
    verified, and the exponential here is ours.

    ``Selection.info``: ``quota``, tokens kept of each group, in order; the rest as the method reports of the last one.

    References
    ----------
    Motivation: AdaTP, arXiv 2505.20100. Quotas of tiles: D2Pruner's ``quota="tile"`` here.

    Examples
    --------
    >>> from biaslab.core.layout import TokenLayout
    >>> layout = TokenLayout.tiled(1, 2, (1, 2), size=(400, 100), family="toy", thumbnail=False)
    >>> attention = torch.tensor([[[0.1, 0.2, 0.4, 0.3]]])  # (1 head, 1 query row, 4 tokens in 2 tiles)
    >>> Quota(method="fastv").select(TokenContext(layout, budget=2, attention=attention)).indices
    tensor([1, 2])
    """

    by: str = "tile"
    share: str = "equal"
    block: int = 4
    temperature: float = 0.1

    name: ClassVar[str] = "quota"
    display_name: ClassVar[str] = "quota"
    source: ClassVar[Citation | None] = None
    cost: ClassVar[str] = "one cosine per group, and what the method costs"
    verified: ClassVar[str] = "ours"
    needs: ClassVar[frozenset[str]] = frozenset({"attention"})

    def __post_init__(self) -> None:
        choice("by", self.by, ("tile", "image", "blocks"))
        choice("share", self.share, ("equal", "relevance"))
        number("temperature", self.temperature, 0, open_low=True)
        if isinstance(self.block, bool) or int(self.block) != self.block or self.block < 1:
            raise InputError(f"block must be a number of cells, 1 or more; got {self.block!r}")
        object.__setattr__(self, "block", int(self.block))
        for name, needed, has in (("block", "by=blocks", self.by == "blocks"),
                                  ("temperature", "share=relevance", self.share == "relevance")):  # fmt: skip
            if not has and getattr(self, name) != getattr(type(self), name):
                raise InputError(f"{name} does nothing without {needed}: add it, or leave {name} out")
        super().__post_init__()

    @property
    def own_needs(self) -> frozenset[str]:
        """Features and text, for the relevance of groups."""
        return frozenset({"features", "text"}) if self.share == "relevance" else frozenset()

    @property
    def needs_layout(self) -> bool:
        """Always, unless groups are images."""
        return self.by != "image" or self.method.needs_layout

    def options(self) -> dict[str, Any]:
        """List the hyper-parameters; cells stay whole numbers."""
        out = {**super().options(), "block": self.block}
        return {**out, "method": out.pop("method")}

    def choose(self, images: Sequence[TokenContext], budgets: Sequence[Sequence[int]]) -> list[list[Selection]]:
        """Apportion, then let the method choose within every group."""
        groups = [self._groups(ctx.layout) for ctx in images]
        weights = self._weights(images, groups)
        parts: list[Part] = []
        asked: dict[tuple[int, int], list[int]] = {}  # image, budget's number -> its quotas
        for pool in self._pools(images):
            for j in range(len(budgets[pool[0]])):
                sizes = [len(where) for i in pool for where in groups[i]]
                shares = quotas(
                    sizes, [w for i in pool for w in weights[i]], sum(budgets[i][j] for i in pool),
                    least=int(self.by == "image"),
                )  # fmt: skip
                given = iter(shares)
                for i in pool:
                    asked[i, j] = [next(given) for _ in groups[i]]
        keys = [(i, j, g) for (i, j), own in asked.items() for g, n in enumerate(own) if n]
        parts = [Part(i, groups[i][g], asked[i, j][g]) for i, j, g in keys]
        chosen: dict[tuple[int, int], list[Selection]] = {}
        for (i, j, _), selection in zip(keys, select_parts(self.method, images, parts), strict=True):
            chosen.setdefault((i, j), []).append(selection)
        return [[_merged(chosen[i, j], asked[i, j]) for j in range(len(wanted))] for i, wanted in enumerate(budgets)]

    def _groups(self, layout: TokenLayout) -> list[np.ndarray]:
        """List the positions of each group, ascending."""
        if self.by == "image":
            return [np.arange(layout.n)]
        tile = np.asarray(layout.tile)
        labels = tile[:, None]
        if self.by == "blocks":
            rows, cols = np.asarray(layout.row) // self.block, np.asarray(layout.col) // self.block
            labels = np.stack([tile, rows, cols], 1)
        _, group = np.unique(labels, axis=0, return_inverse=True)
        group = group.reshape(-1)
        return [np.flatnonzero(group == g) for g in range(group.max() + 1)]

    def _pools(self, images: Sequence[TokenContext]) -> list[list[int]]:
        """List which images share a budget."""
        if self.by != "image":
            return [[i] for i in range(len(images))]
        pools: dict[int, list[int]] = {}
        for i, ctx in enumerate(images):
            pools.setdefault(ctx.prompt, []).append(i)
        return list(pools.values())

    def _weights(self, images: Sequence[TokenContext], groups: Sequence[Sequence[np.ndarray]]) -> list[list[float]]:
        """Weigh a token of each group; one transfer for the batch."""
        if self.share == "equal":
            return [[1.0] * len(own) for own in groups]
        relevance = [_relevance(ctx, own) for ctx, own in zip(images, groups, strict=True)]
        flat = np.exp(torch.cat(relevance).double().cpu().numpy() / self.temperature)
        return [own.tolist() for own in np.split(flat, np.cumsum([len(r) for r in relevance])[:-1])]


def _relevance(ctx: TokenContext, groups: Sequence[np.ndarray]) -> Tensor:
    """Compute the cosine of each group's mean features with the mean of the text: (groups,)."""
    features, text = required(ctx.features, "features").float(), required(ctx.text, "text").float()
    member = np.zeros(ctx.n, dtype=np.int64)
    for g, where in enumerate(groups):
        member[where] = g
    index = torch.from_numpy(member).to(features.device)
    sums = features.new_zeros(len(groups), features.shape[1]).index_add(0, index, features)
    return cosine_similarity(sums, text.mean(0, keepdim=True), dim=1)


def quotas(sizes: Sequence[int], weights: Sequence[float], total: int, *, least: int = 0) -> list[int]:
    """Divide a budget among groups in proportion to their tokens times their weights, none more than it has.

    Parameters
    ----------
    sizes : sequence of int
        Tokens of each group.
    weights : sequence of float
        Above 0.
    total : int
        ``least`` for each group .. the sum of the sizes.
    least : int
        What each gets in any case.

    Returns
    -------
    list of int
        Which sum to ``total``.

    Examples
    --------
    >>> quotas([4, 4, 2], [1, 1, 1], 5), quotas([4, 4, 2], [9, 1, 1], 7)
    ([2, 2, 1], [4, 2, 1])
    """
    out, left = [0] * len(sizes), total
    open_ = [g for g, size in enumerate(sizes) if size]
    while left > 0 and open_:
        mass = [sizes[g] * weights[g] for g in open_]
        exact = [left * m / sum(mass) for m in mass]
        full = [g for g, e in zip(open_, exact, strict=True) if e >= sizes[g] - out[g]]
        if not full:
            parts = _rounded(exact, [sizes[g] - out[g] for g in open_], left)
            for g, n in zip(open_, parts, strict=True):
                out[g] += n
            break
        for g in full:  # what is over goes to the others
            left -= sizes[g] - out[g]
            out[g] = sizes[g]
        open_ = [g for g in open_ if g not in full]
    for g, size in enumerate(sizes):
        while out[g] < min(least, size):  # the largest part gives
            out[max(range(len(out)), key=lambda h: (out[h], -h))] -= 1
            out[g] += 1
    return out


def _rounded(exact: Sequence[float], room: Sequence[int], total: int) -> list[int]:
    """Round parts to whole numbers by largest remainders, ties to the first."""
    parts = [min(int(e + 1e-9), r) for e, r in zip(exact, room, strict=True)]
    order = sorted(range(len(parts)), key=lambda g: (-round(exact[g] - parts[g], 9), g))
    for g in [g for g in order if parts[g] < room[g]][: total - sum(parts)]:
        parts[g] += 1
    return parts


def _merged(chosen: Sequence[Selection], asked: Sequence[int]) -> Selection:
    """Put what was chosen of the groups of one image together."""
    indices = torch.cat([own.indices for own in chosen]).sort().values
    scores = [own.scores for own in chosen if own.scores is not None]
    # outside its group every score is -inf
    joined = torch.stack(scores).amax(0) if scores else None
    return Selection(indices, joined, {**chosen[-1].info, "quota": list(asked)})
