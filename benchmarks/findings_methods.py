"""What `benchmarks.findings` runs beside the methods of `benchmarks.fair`: what takes them apart, parts of an image."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from biaslab.pruning.base import Method
from biaslab.pruning.context import TokenContext

__all__ = ["DEPTHS", "KEPT_PARTS", "LEFT_OUT", "UNFAMILIAR", "OnlyThumbnail", "OnlyTiles", "at_depths", "taken_apart"]

#: options of methods that stand beside them in the fair table
LEFT_OUT = frozenset({
    "priortr:rule=ratio", "direction_only", "quota:by=blocks", "scope:by=vision", "visionzip:merge=added",
    "localization_heads",
})  # fmt: skip
UNFAMILIAR = (
    "uniform", "random", "divprune", "cdpruner", "fastv", "relative", "d2pruner", "stagewise", "lookahead",
    "lookahead+stagewise",
)  # fmt: skip
#: layers K that attention is tried at, 10 % kept
DEPTHS = (1, 2, 3, 4, 6, 8)


def _cut(method: str, keep: float, layer: int) -> str:
    return f"{method}@{json.dumps(keep)}@{layer}"


def at_depths(method: str) -> dict[int, str]:
    """Write a method's words at every depth, 10 % kept there: their costs differ."""
    return {layer: _cut(method, 0.1, layer) for layer in DEPTHS}


def taken_apart(keeps: dict[int, Any]) -> dict[str, tuple[str, str]]:
    """List pairs of words, at equal cost, that differ in one thing: what it is -> (with it, without it)."""
    return {
        "debiasing (`relative` over `fastv`, K = 1)": (_cut("relative", keeps[1], 1), _cut("fastv", keeps[1], 1)),
        "debiasing (`relative` over `fastv`, K = 2)": (_cut("relative", keeps[2], 2), _cut("fastv", keeps[2], 2)),
        "rows of all words, not the last (`fastv`, K = 1)": (
            _cut("fastv:queries=text", keeps[1], 1), _cut("fastv", keeps[1], 1),
        ),
        "chosen heads, not their mean (`relative`, K = 1)": (
            _cut("relative:heads=quality", keeps[1], 1), _cut("relative", keeps[1], 1),
        ),
        "a diverse set beside pivots (`d2pruner` over `relative`, K = 1)": (
            _cut("d2pruner", keeps[1], 1), _cut("relative", keeps[1], 1),
        ),
        "alpha = 0.5, not 1 (`d2pruner`, K = 1)": (
            _cut("d2pruner:alpha=0.5", keeps[1], 1), _cut("d2pruner:alpha=1", keeps[1], 1),
        ),
        "diverse, not random (`divprune` over `random`, K = 0)": (
            _cut("divprune", keeps[0], 0), _cut("random", keeps[0], 0),
        ),
        "merging (`visionzip`, K = 0)": (_cut("visionzip:merge=true", keeps[0], 0), _cut("visionzip", keeps[0], 0)),
        "what the question asks for (`lookahead` over `divprune`, K = 0)": (
            _cut("lookahead", keeps[0], 0), _cut("divprune", keeps[0], 0),
        ),
    }  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class OnlyTiles(Method):
    """Keep the tokens of the tiles and drop the thumbnail; an image without one keeps all.

    No method for use: it does not keep its budget. It is not registered by name.
    """

    name: ClassVar[str] = "only-tiles"
    image_only: ClassVar[bool] = True
    thumbnail: ClassVar[bool] = False

    @property
    def needs_layout(self) -> bool:
        """It is about tiles."""
        return True

    def pick(self, ctx: TokenContext, scores: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        """Choose one part whole."""
        of_part = torch.from_numpy(ctx.layout.thumbnail == self.thumbnail)
        kept = of_part if ctx.layout.thumbnail.any() else torch.ones_like(of_part)
        return torch.nonzero(kept)[:, 0].to(ctx.device), {}


@dataclass(frozen=True, eq=False, kw_only=True)
class OnlyThumbnail(OnlyTiles):
    """Keep the tokens of the thumbnail and drop the tiles."""

    name: ClassVar[str] = "only-thumbnail"
    image_only: ClassVar[bool] = True
    thumbnail: ClassVar[bool] = True


KEPT_PARTS = (OnlyTiles(keep=1.0), OnlyThumbnail(keep=1.0))
