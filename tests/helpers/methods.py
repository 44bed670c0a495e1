"""Inputs for tests of pruning methods as pure tensors: layouts, attention, features, a profile of given maps."""

from __future__ import annotations

from functools import cache

import pytest
import tiny
import torch
from foreseen import Foresees, said

from biaslab.core.layout import TokenLayout
from biaslab.models import families
from biaslab.pruning import METHODS, TokenContext, budget, make

RASTER = TokenLayout.raster(8, 12, size=(600, 400), family="toy")
TILED = TokenLayout.tiled(2, 2, (6, 6), size=(500, 500), family="toy", thumbnail=True)
KINDS = ("raster", "tiles+thumbnail", *tiny.FAMILIES)
LAYOUTS = pytest.mark.parametrize("kind", KINDS)
ALL = pytest.mark.parametrize("name", sorted(METHODS))


@cache
def layout_of(kind):
    """A layout by name: one of two plain ones, or what a family's real processor makes of a wide picture."""
    if kind in ("raster", "tiles+thumbnail"):
        return RASTER if kind == "raster" else TILED
    picture = tiny.images(1, [(400, 150)])
    return families()[kind].encode(tiny.processor(kind), [picture], ["?"], {})[1][0]


class MapProfile(Foresees):
    """A profile with given maps: what methods ask of one, and nothing else."""

    def __init__(self, expected, std=None):
        self.maps = {"expected": expected, "std": std}
        self.asked = []

    def expected(self, layout, layer, device=None):
        self.asked.append((layout.key, layer))
        return self.maps["expected"].to(device)

    def std(self, layout, layer, device=None):
        return self.maps["std"].to(device)


def context(layout, keep, seed=0, **given):
    g = torch.Generator().manual_seed(seed)
    given.setdefault("attention", torch.rand(3, 2, layout.n, generator=g).softmax(-1))
    given.setdefault("features", torch.randn(layout.n, 16, generator=g) + 0.7)
    given.setdefault("text", said(seed=seed))
    given.setdefault("earlier", {0: torch.rand(3, 2, layout.n, generator=g).softmax(-1)})
    given.setdefault("other_rows", {"null": torch.rand(3, 1, layout.n, generator=g).softmax(-1)})
    return TokenContext(layout, budget(keep, layout.n), seed=seed, layer=2, **given)


def build(name, layout, keep=0.1, **options):
    """A method ready to run; those that use a profile get an uneven one."""
    if "profile" in METHODS[name].needs:
        g = torch.Generator().manual_seed(9)
        options.setdefault("profile", MapProfile(torch.rand(1, layout.n, generator=g) + 0.5))
    return make(name, keep=keep, **options)
