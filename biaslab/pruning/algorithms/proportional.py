"""Choose tokens in proportion to a density: systematic sampling along a curve through the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from biaslab.pruning.algorithms.transfer import wide

__all__ = ["inclusion", "proportional", "proportional_batch"]


def inclusion(density: Tensor, n: int) -> Tensor:
    """Compute inclusion probabilities of n tokens in proportion to a density: ``min(1, c * density)``, of sum n.

    Parameters
    ----------
    density : (N,) Tensor
        Positive.
    n : int
        At most N.

    Returns
    -------
    (N,) Tensor

    Examples
    --------
    >>> inclusion(torch.tensor([6.0, 1.0, 1.0, 2.0]), 2)
    tensor([1.0000, 0.2500, 0.2500, 0.5000])
    """
    return _inclusion(density, _least(density), n)


def _least(density: Tensor) -> Tensor:
    """Sum the 1, 2 ... N least values along the last axis."""
    return density.sort(dim=-1).values.cumsum(-1)


def _inclusion(density: Tensor, least: Tensor, n: int) -> Tensor:
    """Compute `inclusion` along the last axis, ``least`` being of `_least`; 1 <= n <= N.

    With the m densest tokens certain, the N - m others share n - m: c is ``(n - m) / (their sum)`` for the least m that
    leaves none of them above 1. Up to that m it grows, from there on it falls: it is the largest of all.
    """
    shares = torch.arange(1, n + 1, device=density.device, dtype=density.dtype)
    scale = (shares / least[..., density.shape[-1] - n :]).amax(-1, keepdim=True)
    return (scale * density).clamp(max=1)


@torch.no_grad()
def proportional(density: Tensor, order: Tensor, n: int) -> Tensor:
    """Keep n tokens whose density in the image is in proportion to ``density``, evenly spread.

    Systematic sampling: along ``order`` the inclusion probabilities add up to n, and a token is kept wherever the sum
    passes 1/2, 3/2, 5/2 ... Where the density is high neighbours are kept side by side, where it is low one of many,
    and on a stretch of a curve whose tokens add up to m there are m of them, give or take one.

    Parameters
    ----------
    density : (N,) Tensor
        Positive.
    order : (N,) int64 Tensor
        Tokens along a curve, as :func:`biaslab.core.curve.curve_order` lists them.
    n : int
        At most N.

    Returns
    -------
    (n,) int64 Tensor
        Indices, ascending. Nothing waits for the device, and no step follows another: some twenty small operations
        whatever n is.

    Examples
    --------
    >>> line = torch.arange(8)
    >>> proportional(torch.ones(8), line, 4), proportional(torch.tensor([1, 1, 1, 1, 9, 9, 1, 1.0]), line, 4)
    (tensor([0, 2, 4, 6]), tensor([1, 4, 5, 6]))
    """
    return proportional_batch(wide(density)[None], order, [n])[0][0].sort().values


@torch.no_grad()
def proportional_batch(density: Tensor, order: Tensor, budgets: Sequence[int]) -> list[Tensor]:
    """Do as `proportional` for several images of N tokens at once, and for several n.

    Parameters
    ----------
    density : (B, N) Tensor
        Positive; float64 where the device has it.
    order : (N,) or (B, N) int64 Tensor
    budgets : sequence of int

    Returns
    -------
    list of (B, n) int64 Tensor
        For each n, indices along the curve of each image, no two alike.

    Examples
    --------
    >>> proportional_batch(torch.tensor([[1.0, 1, 1, 1], [1, 1, 9, 9]]), torch.tensor([0, 1, 3, 2]), [2])[0]
    tensor([[0, 3],
            [3, 2]])
    """
    n_all, device = density.shape[1], density.device
    least = _least(density)
    along = density[:, order] if order.ndim == 1 else density.gather(1, order)
    found = []
    for n in budgets:
        if n == 0:
            found.append(torch.empty(len(density), 0, dtype=torch.long, device=device))
            continue
        reached = _inclusion(along, least, n).cumsum(1)
        passed = torch.arange(0.5, n, device=device, dtype=density.dtype).expand(len(density), -1).contiguous()
        each = torch.arange(n, device=device)
        # rounding may put two sums into one token, or none in a certain one: each takes the next that is free
        at = (torch.searchsorted(reached, passed) - each).cummax(1).values.clamp(max=n_all - n) + each
        found.append(order[at] if order.ndim == 1 else order.gather(1, at))
    return found
