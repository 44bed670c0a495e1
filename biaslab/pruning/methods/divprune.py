"""DivPrune: the subset whose closest pair is as far apart as can be (arXiv 2503.02175)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from biaslab.pruning.base import Method, TokenContext, choice, required
from biaslab.pruning.registry import register

__all__ = ["DivPrune"]

_BLOCK = 512


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class DivPrune(Method):
    """Keep a max-min diverse subset in cosine distance (arXiv 2503.02175, Algorithm 1).

    Greedy: start from one token, then always add the token whose nearest kept token is farthest. Memory is N running
    minima of distances, never N x N; no step waits for the device. Ties go to the lower index. Each step costs one
    product with the N features.

    Parameters
    ----------
    start : {"isolated", "central"}
        "isolated" (the paper): the token farthest from its nearest neighbour; costs one pass over all pairs, in
        blocks. "central" (ours): the token closest to the mean direction; no pass over pairs.

    References
    ----------
    arXiv 2503.02175, Algorithm 1.

    Examples
    --------
    >>> from biaslab.core.layout import TokenLayout
    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    >>> ctx = TokenContext(TokenLayout.raster(2, 2, size=(200, 200), family="toy"), budget=3, features=features)
    >>> DivPrune().select(ctx).indices  # of the two tokens that nearly agree, one
    tensor([0, 2, 3])
    """

    start: str = "isolated"

    name: ClassVar[str] = "divprune"
    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("start", self.start, ("isolated", "central"))

    def pick(self, ctx: TokenContext, scores: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        """List tokens in the order of the greedy choice."""
        return max_min_diverse(required(ctx.features, "features"), ctx.budget, self.start), {}


def max_min_diverse(features: Tensor, n: int, start: str = "isolated") -> Tensor:
    """Choose n rows of (N, D) ``features``, greedy for the largest minimal cosine distance, in that order: (n,)."""
    unit = normalize(features.float(), dim=1)
    first = _isolated(unit) if start == "isolated" else (unit @ unit.mean(0)).argmax()
    rows = torch.empty(n, dtype=torch.long, device=unit.device)
    nearest = torch.full((unit.shape[0],), torch.inf, dtype=unit.dtype, device=unit.device)
    latest = first.reshape(1)
    for i in range(n):
        rows[i : i + 1] = latest
        nearest = torch.minimum(nearest, 1 - (unit @ unit[latest].T).squeeze(1))
        nearest[latest] = -torch.inf  # kept: never again
        latest = nearest.argmax().reshape(1)
    return rows


def _isolated(unit: Tensor) -> Tensor:
    """Return the index of the row whose nearest other row is farthest."""
    highest = []
    for start in range(0, unit.shape[0], _BLOCK):
        similarity = unit[start : start + _BLOCK] @ unit.T
        similarity.diagonal(start).fill_(-torch.inf)
        highest.append(similarity.amax(1))
    return torch.cat(highest).argmin()
