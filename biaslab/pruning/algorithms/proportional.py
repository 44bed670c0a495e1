"""Choose tokens in proportion to a density: systematic sampling along a curve through the image."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["inclusion", "proportional"]


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
    ordered = density.sort(descending=True).values
    # with the m densest tokens certain, the others share n - m: the least m that leaves no other above 1
    others = ordered.flip(0).cumsum(0).flip(0)
    certain = torch.arange(len(density), device=density.device)
    scale = (n - certain).clamp(min=0) / others
    first = (scale * ordered <= 1).to(torch.uint8).argmax(keepdim=True)
    return (scale.gather(0, first) * density).clamp(max=1)


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
        Indices, ascending. Nothing waits for the device, and no step follows another: some fifteen small operations
        whatever n is.

    Examples
    --------
    >>> line = torch.arange(8)
    >>> proportional(torch.ones(8), line, 4), proportional(torch.tensor([1, 1, 1, 1, 9, 9, 1, 1.0]), line, 4)
    (tensor([0, 2, 4, 6]), tensor([1, 4, 5, 6]))
    """
    chosen = inclusion(density.double() if density.device.type != "mps" else density, n)
    reached = chosen[order].cumsum(0)
    each = torch.arange(n, device=density.device)
    at = torch.searchsorted(reached, each + 0.5)
    # rounding may put two sums into one token, or none in a certain one: each takes the next that is free
    at = (at - each).cummax(0).values + each if n else at
    return order[torch.minimum(at, len(density) - n + each)].sort().values
