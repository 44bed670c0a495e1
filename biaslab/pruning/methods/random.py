"""A seeded random subset: the baseline many pruning methods fail to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from biaslab.pruning.base import Method, TokenContext
from biaslab.pruning.registry import register

__all__ = ["Random"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class Random(Method):
    """Keep a uniformly random subset.

    The permutation is drawn on the CPU from the sample's own seed: the same on every device, in any batch and
    on any number of processes. A smaller budget keeps a subset of what a larger one keeps.

    Examples
    --------
    >>> from biaslab.core.layout import TokenLayout
    >>> Random().select(TokenContext(TokenLayout.raster(2, 3, size=(300, 200), family="toy"), budget=3, seed=1)).indices
    tensor([1, 2, 5])
    """

    name: ClassVar[str] = "random"
    display_name: ClassVar[str] = "random"
    cost: ClassVar[str] = "a permutation"
    verified: ClassVar[str] = "ours"
    nested: ClassVar[bool] = True

    def pick(self, ctx: TokenContext, scores: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        """Take the first ``budget`` of a seeded permutation."""
        generator = torch.Generator().manual_seed(ctx.seed)
        return torch.randperm(ctx.n, generator=generator)[: ctx.budget].to(ctx.device), {}
