"""Greedy max-min diversity in cosine distance, also weighted by relevance, for several images at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from biaslab.pruning.algorithms.cosine import CELLS, cosines, parts
from biaslab.pruning.batch import padded

__all__ = ["max_min_diverse", "max_min_orders", "max_min_rest"]

_BLOCK = 512
_NEAREST = 1e-4  # distance of tokens that agree, where they are weighted: of these the more relevant one comes first


@torch.no_grad()
def max_min_orders(
    images: Sequence[Tensor],
    budgets: Sequence[int],
    start: str = "isolated",
    weights: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Choose rows as `max_min_diverse` for several images at once.

    Parameters
    ----------
    images : sequence of (N, D) Tensor
        Features, which may differ in N.
    budgets : sequence of int
        Rows to choose of each.
    start : str
        "isolated" or "central", as :class:`biaslab.pruning.DivPrune` says. Nothing where there are weights.
    weights : sequence of (N,) Tensor, optional
        Positive. The first row is that of the largest weight, the next the one of the largest product of its weight and
        its distance from the nearest chosen one.

    Returns
    -------
    list of (budget,) int64 Tensor
        Rows in the order they were chosen; that of a smaller budget is a prefix.

    Examples
    --------
    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    >>> max_min_orders([features, features[:3]], [3, 2])
    [tensor([3, 0, 2]), tensor([2, 0])]
    >>> max_min_orders([features], [3], weights=[torch.tensor([1.0, 3.0, 1.0, 1.0])])
    [tensor([1, 3, 2])]
    """
    orders: list[Tensor] = []
    for part, fits in parts(list(map(len, images)), cells=CELLS):
        own, wanted, weight = images[part], budgets[part], None if weights is None else weights[part]
        if fits:
            orders += _together(own, wanted, start, weight)
        else:
            orders.append(max_min_diverse(own[0], wanted[0], start, None if weight is None else weight[0]))
    return orders


def _together(
    images: Sequence[Tensor], budgets: Sequence[int], start: str, weights: Sequence[Tensor] | None
) -> list[Tensor]:
    """Choose in images whose similarities are all held at once: three launches a step, whatever their number."""
    distance = cosines(images)
    b, n, _ = distance.shape
    even = min(map(len, images)) == n
    nearest = distance.new_full((b, n), -torch.inf)  # of a token that is kept, or is none: never chosen
    for own, features in zip(nearest, images, strict=True):
        own[: len(features)] = torch.inf
    diagonal = distance.diagonal(dim1=1, dim2=2)
    weight = None if weights is None else padded([own.float() for own in weights], 0)
    if weight is not None:
        latest = weight.argmax(1, keepdim=True)
        weight = weight.masked_fill(nearest < 0, 1)  # 0 times infinity would be NaN
    elif start == "central":
        latest = torch.stack([_central(normalize(own.float(), dim=1)) for own in images])[:, None]
    else:
        diagonal.fill_(-torch.inf)
        none = None if even else nearest < 0
        highest = (distance if none is None else distance.masked_fill_(none[:, None], -torch.inf)).amax(2)
        latest = (highest if none is None else highest.masked_fill_(none, torch.inf)).argmin(1, keepdim=True)
    distance.neg_().add_(1)
    if weight is not None:
        distance.clamp_(min=_NEAREST)
    diagonal.fill_(-torch.inf)
    steps = max(1, *budgets)
    order = torch.empty(steps, b, 1, dtype=torch.long, device=distance.device)
    order[0] = latest
    row = nearest.new_empty(b, 1, n)
    each = order.unbind(0)
    for i in range(1, steps):
        torch.gather(distance, 1, each[i - 1][..., None].expand(b, 1, n), out=row)
        torch.minimum(nearest, row[:, 0], out=nearest)
        torch.argmax(nearest if weight is None else nearest * weight, 1, keepdim=True, out=each[i])
    return [own[:k] for own, k in zip(order[..., 0].T, budgets, strict=True)]


def max_min_diverse(features: Tensor, n: int, start: str = "isolated", weight: Tensor | None = None) -> Tensor:
    """Choose n rows of (N, D) ``features``, greedy for the largest minimal cosine distance, in that order: (n,).

    The plain path, a product with all features at each step, in memory for N minima: the reference of
    `max_min_orders`, and its way for an image of more than 16,384 tokens.
    """
    unit = normalize(features.float(), dim=1)
    if weight is not None:
        first = weight.argmax()
    elif start == "central":
        first = _central(unit)
    else:
        first = _isolated(unit)
    rows = torch.empty(n, dtype=torch.long, device=unit.device)
    nearest = torch.full((unit.shape[0],), torch.inf, dtype=unit.dtype, device=unit.device)
    latest = first.reshape(1)
    for i in range(n):
        rows[i : i + 1] = latest
        distance = 1 - (unit @ unit[latest].T).squeeze(1)
        nearest = torch.minimum(nearest, distance if weight is None else distance.clamp(min=_NEAREST))
        nearest[latest] = -torch.inf  # kept: never again
        latest = (nearest if weight is None else nearest * weight).argmax().reshape(1)
    return rows


@torch.no_grad()
def max_min_rest(features: Tensor, kept: Tensor, n: int) -> Tensor:
    """Choose n more rows than those that are kept, always the one whose nearest kept or chosen row is farthest.

    Parameters
    ----------
    features : (N, D) Tensor
    kept : (M,) int64 Tensor
        Rows that are kept already, at least one.
    n : int
        At most N - M.

    Returns
    -------
    (n,) int64 Tensor
        Rows in the order they were chosen, the lowest index among equals; no step waits for the device.

    Examples
    --------
    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    >>> max_min_rest(features, torch.tensor([1]), 2)
    tensor([3, 2])
    """
    unit = normalize(features.float(), dim=1)
    nearest = 1 - (unit @ unit[kept].T).amax(1)
    nearest.index_fill_(0, kept, -torch.inf)
    rows = torch.empty(n, dtype=torch.long, device=unit.device)
    for i in range(n):
        latest = torch.argmax(nearest, 0, keepdim=True, out=rows[i : i + 1])
        nearest = torch.minimum(nearest, 1 - (unit @ unit[latest].T).squeeze(1))
        nearest[latest] = -torch.inf
    return rows


def _central(unit: Tensor) -> Tensor:
    """Return the index of the row closest to the mean direction."""
    return (unit @ unit.mean(0)).argmax()


def _isolated(unit: Tensor) -> Tensor:
    """Return the index of the row whose nearest other row is farthest."""
    highest = []
    for start in range(0, unit.shape[0], _BLOCK):
        similarity = unit[start : start + _BLOCK] @ unit.T
        similarity.diagonal(start).fill_(-torch.inf)
        highest.append(similarity.amax(1))
    return torch.cat(highest).argmin()
