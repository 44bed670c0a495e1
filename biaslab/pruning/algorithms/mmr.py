"""Maximal marginal relevance with any importance, for several images at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from biaslab.pruning.algorithms.cosine import CELLS, cosines, parts
from biaslab.pruning.batch import padded

__all__ = ["min_max", "mmr_order", "mmr_orders"]

_SPREAD = 1e-6  # added to the range of an importance, which may be 0
_LAST = -4.0  # importance of what comes last: below lam * Imp - (1 - lam) * cos of anything else


def min_max(importance: Tensor) -> Tensor:
    """Bring an importance to [0, 1): ``(w - min) / (max - min + 1e-6)`` over the tokens of an image.

    Parameters
    ----------
    importance : (N,) Tensor
        -inf for tokens that come last.

    Returns
    -------
    (N,) float32 Tensor
        Tokens of -inf keep it, and do not count in the range.

    Examples
    --------
    >>> min_max(torch.tensor([3.0, 1.0, -torch.inf, 2.0])).round(decimals=3)
    tensor([1.0000, 0.0000,   -inf, 0.5000])
    """
    weight = importance.float()
    last = weight == -torch.inf
    least = weight.masked_fill(last, torch.inf).amin()
    return ((weight - least) / (weight.amax() - least + _SPREAD)).masked_fill(last, -torch.inf)


@torch.no_grad()
def mmr_orders(
    images: Sequence[Tensor], budgets: Sequence[int], importance: Sequence[Tensor], *, lam: float = 0.5
) -> list[Tensor]:
    """Choose rows by maximal marginal relevance, for several images at once; no step waits for the device.

    First the row of the largest importance, then always the one of the largest

        lam * Imp(i) - (1 - lam) * max_j cos(x_i, x_j)

    over the chosen j, Imp being the importance by `min_max`; the lowest index among equals. ``lam = 1`` is top-k,
    ``lam = 0`` the farthest first from the most important one. Rows of importance -inf come after all others.

    Parameters
    ----------
    images : sequence of (N, D) Tensor
        Features, which may differ in N.
    budgets : sequence of int
        Rows to choose of each.
    importance : sequence of (N,) Tensor
        Any score, larger is more important; it need not be normalised.
    lam : float
        Lambda in [0, 1]: the weight of importance against redundancy.

    Returns
    -------
    list of (budget,) int64 Tensor
        Rows in the order they were chosen; that of a smaller budget is a prefix.

    References
    ----------
    Carbonell and Goldstein, The use of MMR, SIGIR 1998; for visual tokens with lambda 0.5 and min-max importance
    IDPruner, arXiv 2602.13315.

    Examples
    --------
    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    >>> score = torch.tensor([9.0, 8.0, 5.0])
    >>> [mmr_orders([features], [2], [score], lam=lam)[0].tolist() for lam in (0.5, 1.0)]
    [[0, 2], [0, 1]]
    """
    orders: list[Tensor] = []
    for part, fits in parts(list(map(len, images)), cells=CELLS):
        own, wanted, scores = images[part], budgets[part], importance[part]
        if fits:
            orders += _together(own, wanted, scores, lam)
        else:
            orders.append(mmr_order(own[0], wanted[0], scores[0], lam=lam))
    return orders


def _together(
    images: Sequence[Tensor], budgets: Sequence[int], importance: Sequence[Tensor], lam: float
) -> list[Tensor]:
    """Choose in images whose cosines are all held at once: four launches a step, whatever their number."""
    penalty = cosines(images).mul_(1 - lam)
    b, n, _ = penalty.shape
    latest = padded([own.float() for own in importance], -torch.inf).argmax(1, keepdim=True)
    gain = padded([_gain(own, lam) for own in importance], -torch.inf)
    # a kept row costs all there is, and so is never chosen again; rows of fillers have a gain of -inf
    penalty.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    highest = penalty.new_full((b, n), -torch.inf)
    steps = max(1, *budgets)
    order = torch.empty(steps, b, 1, dtype=torch.long, device=penalty.device)
    order[0] = latest
    row, value = penalty.new_empty(b, 1, n), penalty.new_empty(b, n)
    each = order.unbind(0)
    for i in range(1, steps):
        torch.gather(penalty, 1, each[i - 1][..., None].expand(b, 1, n), out=row)
        torch.maximum(highest, row[:, 0], out=highest)
        torch.sub(gain, highest, out=value)
        torch.argmax(value, 1, keepdim=True, out=each[i])
    return [own[:k] for own, k in zip(order[..., 0].T, budgets, strict=True)]


@torch.no_grad()
def mmr_order(features: Tensor, n: int, importance: Tensor, *, lam: float = 0.5) -> Tensor:
    """Choose n rows of (N, D) ``features`` as `mmr_orders`: (n,).

    The plain path, a product with all features at each step: the way of an image of more than 16,384 tokens.
    """
    unit, gain = normalize(features.float(), dim=1), _gain(importance, lam)
    rows = torch.empty(n, dtype=torch.long, device=unit.device)
    highest = torch.full_like(gain, -torch.inf)
    latest = importance.float().argmax().reshape(1)
    for i in range(n):
        rows[i : i + 1] = latest
        highest = torch.maximum(highest, (unit @ unit[latest].T).squeeze(1) * (1 - lam))
        highest[latest] = torch.inf  # kept: never again
        latest = (gain - highest).argmax().reshape(1)
    return rows


def _gain(importance: Tensor, lam: float) -> Tensor:
    weight = min_max(importance)
    return (lam * weight).masked_fill(weight == -torch.inf, _LAST)
