"""What `benchmarks.findings` runs beside the methods of `benchmarks.fair`: what takes them apart, parts of an image."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmarks.fair_methods import METHODS
from biaslab.pruning.base import Method
from biaslab.pruning.context import TokenContext

__all__ = [
    "ALL_METHODS",
    "DEPTHS",
    "FLOOR",
    "KEPT_PARTS",
    "SHOWN",
    "AsManyAsThumbnail",
    "AsManyAsTiles",
    "OnlyThumbnail",
    "OnlyTiles",
    "at_depths",
    "chosen_pairs",
    "taken_apart",
]

#: what is compared; the paper has alpha = 1 for understanding, and 0.5 (the default) for localization
ALL_METHODS = {**METHODS, "d2pruner:alpha=1": "2"}
#: methods of the tables that cannot show all
SHOWN = (
    "uniform", "random", "divprune", "cdpruner", "fastv", "relative", "d2pruner", "stagewise", "lookahead",
    "lookahead+stagewise",
)  # fmt: skip
#: layers K that attention is tried at, 10 % kept
DEPTHS = (1, 2, 3, 4, 6, 8)
#: one visual token: what is right with it is not seen, but guessed
FLOOR = "random@1@0"


def _cut(method: str, keep: float, layer: int) -> str:
    return f"{method}@{json.dumps(keep)}@{layer}"


def at_depths(method: str) -> dict[int, str]:
    """Write a method's words at every depth, 10 % kept there: their costs differ."""
    return {layer: _cut(method, 0.1, layer) for layer in DEPTHS}


def taken_apart(keeps: dict[int, Any]) -> dict[str, tuple[str, str]]:
    """List pairs of words, at equal cost, that differ in one thing: what it is -> (with it, without it)."""

    def pair(with_: str, without: str, layer: int, other: int | None = None) -> tuple[str, str]:
        other = layer if other is None else other
        return _cut(with_, keeps[layer], layer), _cut(without, keeps[other], other)

    return {
        "debiasing (`relative` over `fastv`, K = 1)": pair("relative", "fastv", 1),
        "debiasing (`relative` over `fastv`, K = 2)": pair("relative", "fastv", 2),
        "rows of all words, not the last (`fastv`, K = 1)": pair("fastv:queries=text", "fastv", 1),
        "chosen heads, not their mean (`relative`, K = 1)": pair("relative:heads=quality", "relative", 1),
        "a diverse set beside pivots (`d2pruner` over `relative`, K = 1)": pair("d2pruner", "relative", 1),
        "alpha = 0.5, not 1 (`d2pruner`, K = 1)": pair("d2pruner:alpha=0.5", "d2pruner:alpha=1", 1),
        "`divprune` before the decoder, not `d2pruner` (K = 1)": pair("divprune", "d2pruner", 0, 1),
        "diverse, not random (`divprune` over `random`, K = 0)": pair("divprune", "random", 0),
        "merging (`visionzip`, K = 0)": pair("visionzip:merge=true", "visionzip", 0),
        "relevance beside diversity (`cdpruner` over `divprune`, K = 0)": pair("cdpruner", "divprune", 0),
        "what the question asks for (`lookahead` over `divprune`, K = 0)": pair("lookahead", "divprune", 0),
    }


def chosen_pairs(best: dict[str, str]) -> dict[str, tuple[str, str]]:
    """List pairs of methods, each where it was chosen to stand: what it is -> (with it, without it)."""
    pairs = {
        "three cuts (`stagewise` over `divprune`)": ("stagewise", "divprune"),
        "later cuts behind `lookahead` (`lookahead+stagewise` over `lookahead`)": ("lookahead+stagewise", "lookahead"),
    }
    return {what: (best[a], best[b]) for what, (a, b) in pairs.items() if a in best and b in best}


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


@dataclass(frozen=True, eq=False, kw_only=True)
class AsManyAsTiles(OnlyTiles):
    """Keep as many tokens as the tiles have, at random: how many, not which part."""

    name: ClassVar[str] = "as-many-as-tiles"
    image_only: ClassVar[bool] = True

    def pick(self, ctx: TokenContext, scores: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        """Take the first tokens of a seeded permutation."""
        part, info = super().pick(ctx, scores)
        order = torch.randperm(ctx.n, generator=torch.Generator().manual_seed(ctx.seed))
        return order[: len(part)].to(ctx.device), info


@dataclass(frozen=True, eq=False, kw_only=True)
class AsManyAsThumbnail(AsManyAsTiles):
    """Keep as many tokens as the thumbnail has, at random."""

    name: ClassVar[str] = "as-many-as-thumbnail"
    image_only: ClassVar[bool] = True
    thumbnail: ClassVar[bool] = True


KEPT_PARTS = (OnlyTiles(keep=1.0), AsManyAsTiles(keep=1.0), OnlyThumbnail(keep=1.0), AsManyAsThumbnail(keep=1.0))
