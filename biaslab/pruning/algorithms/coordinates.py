"""Tokens at positions where the rotary embedding is nearly no turn, or a quarter: IVC-Prune's coordinates."""

from __future__ import annotations

import torch
from torch import Tensor

from biaslab.pruning.context import Rotary, descending

__all__ = ["coordinates", "reference_tokens"]


def coordinates(rotary: Rotary) -> tuple[Tensor, Tensor]:
    """Compute how near the rotation at each token's position is to no turn and to a quarter turn.

    Parameters
    ----------
    rotary : Rotary
        Frequencies theta_k, and positions m of the tokens on each axis.

    Returns
    -------
    cosines, sines : (N,) float32 Tensor
        ``V(m) = mean_k cos(m theta_k)`` and ``U(m) = mean_k sin(m theta_k)``, averaged over the axes.

    References
    ----------
    IVC-Prune, arXiv 2602.03060.

    Examples
    --------
    >>> at = torch.tensor([[0, 1, 2]])
    >>> v, u = coordinates(Rotary(torch.tensor([torch.pi / 2]), at))
    >>> v.round(decimals=3).tolist(), u.round(decimals=3).tolist()
    ([1.0, -0.0, -1.0], [0.0, 1.0, -0.0])
    """
    angles = rotary.positions.float()[..., None] * rotary.theta.float()  # (A, N, J)
    return angles.cos().mean((0, 2)), angles.sin().mean((0, 2))


def reference_tokens(rotary: Rotary, n: int) -> Tensor:
    """List the n tokens that best serve as coordinates: half by their cosines, half by their sines.

    Parameters
    ----------
    rotary : Rotary
    n : int
        Up to N.

    Returns
    -------
    (n,) int64 Tensor
        The ``n - n // 2`` largest cosines, then the largest sines among the others; ties by index.

    Examples
    --------
    >>> at = torch.tensor([[0, 1, 2, 3]])
    >>> reference_tokens(Rotary(torch.tensor([torch.pi / 2]), at), 2)  # no turn at 0, a quarter at 1
    tensor([0, 1])
    """
    v, u = coordinates(rotary)
    first = descending(v)[: n - n // 2]
    second = descending(u.index_fill(0, first, -torch.inf))[: n // 2]
    return torch.cat([first, second])
