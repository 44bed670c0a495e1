"""The opponent: D2Pruner's selection with the obvious lazy greedy, written as well as torch lets one write it.

It computes a similarity row only for a token it takes, compares it with all tokens behind at once, and asks the
device once per token where to go on. There are two ways of holding the features, and which is quicker depends
on how far the greedy walks: "sorted" gathers and normalises them in score order and then multiplies only those
behind the token taken; "in place" leaves them where they are and divides by their norms. The benchmark
compares with the quicker of the two.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from biaslab.pruning import D2Pruner, TokenContext
from biaslab.pruning.base import descending
from biaslab.pruning.budgets import share

__all__ = ["WAYS", "Stopwatch", "lazy_d2pruner"]


class Stopwatch:
    """Seconds spent in matrix products, and in the whole independent set."""

    def __init__(self) -> None:
        self.products = self.total = 0.0

    def product(self, compute: Callable[..., Tensor], *given: Tensor) -> Tensor:
        """Compute a product of matrices, on the watch."""
        start = time.perf_counter()
        out = compute(*given)
        self.products += time.perf_counter() - start
        return out


def lazy_d2pruner(method: D2Pruner, ctx: TokenContext, way: str, watch: Stopwatch | None = None) -> Tensor:
    """Select the indices, ascending, that ``method.select(ctx)`` must give too.

    Only for raw cosine, linear distance in the image, one quota and filling by score: the defaults.
    """
    order = descending(method.importance(ctx))
    first = share(method.pivot_ratio, ctx.budget)
    pivots, rest = order[:first], order[first:]
    start = time.perf_counter()
    rows = WAYS[way](method, ctx, rest, watch)
    suppressed = torch.zeros(rest.numel() + 1, dtype=torch.bool)  # the last one ends the walk
    if method.pivots_suppress and first:
        suppressed[:-1] = rows.near_any(pivots)
    places: list[int] = []
    at = 0
    while len(places) < ctx.budget - first:
        at += int(suppressed[at:].view(torch.uint8).argmin())  # the one question per token
        if at == rest.numel():
            break
        places.append(at)
        at += 1
        suppressed[at:-1] |= rows.near(at - 1)
    taken = torch.tensor(places, dtype=torch.long)
    if watch is not None:
        watch.total += time.perf_counter() - start
    kept = torch.cat([pivots, rest[taken]])
    if missing := ctx.budget - kept.numel():
        left = torch.ones(rest.numel(), dtype=torch.bool)
        left[taken] = False
        kept = torch.cat([kept, rest[left][:missing]])
    return kept.sort().values


class _InPlace:
    """Features where they are, and their norms."""

    def __init__(self, method: D2Pruner, ctx: TokenContext, rest: Tensor, watch: Stopwatch | None) -> None:
        # alpha cos + (1 - alpha) (1 - d) > theta, divided by alpha and with the constant moved to the right
        self.weight = (1 - method.alpha) / method.alpha
        self.bound = method.theta / method.alpha - self.weight
        self.product = watch.product if watch is not None else lambda compute, *given: compute(*given)
        self.rest, self.features = rest, ctx.features.float()
        self.points = method.graph(ctx).plane.points
        self.x, self.y = self.points[rest].T.contiguous()
        self.hold()

    def hold(self) -> None:
        self.scale = 1 / torch.linalg.vector_norm(self.features, dim=1).clamp_min(1e-12)

    def near(self, at: int) -> Tensor:
        """Which candidates behind place ``at`` are neighbours of the one there."""
        cosine = self.cosine(at)
        dx, dy = self.x[at + 1 :] - self.x[at], self.y[at + 1 :] - self.y[at]
        distance = dx.mul_(dx).addcmul_(dy, dy).sqrt_()
        return cosine.sub_(distance, alpha=self.weight) > self.bound

    def near_any(self, tokens: Tensor) -> Tensor:
        """Which candidates are neighbours of one of ``tokens``: all known at once, hence one product."""
        unit = normalize(self.features.index_select(0, tokens), dim=1)
        dx = self.points[tokens, 0][:, None] - self.x
        dy = self.points[tokens, 1][:, None] - self.y
        distance = dx.mul_(dx).addcmul_(dy, dy).sqrt_()
        near = self.cosines(unit).sub_(distance, alpha=self.weight) > self.bound
        return near.view(torch.uint8).amax(0).bool()  # much quicker than any()

    def cosine(self, at: int) -> Tensor:
        token, behind = self.rest[at], self.rest[at + 1 :]
        products = self.product(torch.mv, self.features, self.features[token])
        return products.mul_(self.scale).mul_(self.scale[token]).index_select(0, behind)

    def cosines(self, unit: Tensor) -> Tensor:
        return self.product(torch.mm, unit, self.features.T).mul_(self.scale).index_select(1, self.rest)


class _Sorted(_InPlace):
    """Unit features in score order."""

    def hold(self) -> None:
        self.unit = normalize(self.features.index_select(0, self.rest), dim=1)

    def cosine(self, at: int) -> Tensor:
        return self.product(torch.mv, self.unit[at + 1 :], self.unit[at])

    def cosines(self, unit: Tensor) -> Tensor:
        return self.product(torch.mm, unit, self.unit.T)


WAYS = {"sorted": _Sorted, "in place": _InPlace}
