"""Inputs for tests of pruning methods as pure tensors: layouts, attention, features, a profile of given maps."""

from __future__ import annotations

from functools import cache

import pytest
import tiny
import torch
from foreseen import Foresees, said

from biaslab.attention.vision_record import TowerShape, VisionRecord
from biaslab.core.layout import TokenLayout
from biaslab.models import families
from biaslab.pruning import METHODS, TokenContext, budget, make
from biaslab.pruning.context import Rotary

RASTER = TokenLayout.raster(8, 12, size=(600, 400), family="toy")
TILED = TokenLayout.tiled(2, 2, (6, 6), size=(500, 500), family="toy", thumbnail=True)
KINDS = ("raster", "tiles+thumbnail", *tiny.FAMILIES)
LAYOUTS = pytest.mark.parametrize("kind", KINDS)
ALL = pytest.mark.parametrize("name", sorted(METHODS))


@cache
def layout_of(kind):
    """A layout by name: one of two plain ones, or what a family's real processor makes of a wide image."""
    if kind in ("raster", "tiles+thumbnail"):
        return RASTER if kind == "raster" else TILED
    picture = tiny.images(1, [(400, 150)])
    return families()[kind].encode(tiny.processor(kind), [picture], ["?"], {})[1][0]


class MapProfile(Foresees):
    """A profile with given maps: what methods ask of one, and nothing else."""

    heads_ = ((1, 0), (0, 1))

    def __init__(self, expected, std=None):
        self.maps = {"expected": expected, "std": std}
        self.asked = []

    def expected(self, layout, layer, device=None):
        self.asked.append((layout.key, layer))
        return self.maps["expected"].to(device)

    def std(self, layout, layer, device=None):
        return self.maps["std"].to(device)


def shown(n, g, few=False):
    """What a tower of four blocks with a CLS token shows of n tokens; with ``few`` many values are equal."""

    def drawn(*shape):
        values = torch.randn(*shape, generator=g)
        return values.round() if few else values

    layers = range(4)
    return VisionRecord(
        TowerShape(4, True, tuple(layers)),
        cls={i: drawn(3, n).softmax(-1) for i in layers},
        received={i: drawn(n).softmax(-1) for i in layers},
        features={i: drawn(n, 8) + 0.1 for i in layers},
        keys={i: drawn(n, 8) + 0.1 for i in layers},
    )


def further(layout, seed, features, kv=3):
    """What methods may read beside attention of one kind, features and text; seven tokens of text."""
    g, n, width = torch.Generator().manual_seed(seed + 77), layout.n, 16 if features is None else features.shape[1]
    return {
        "other_rows": {"null": torch.rand(3, 1, n, generator=g).softmax(-1)},
        **{name: torch.randn(kv, n, 8, generator=g) for name in ("keys", "values")},
        **{name: torch.randn(kv, 7, 8, generator=g) for name in ("text_keys", "text_values")},
        "embeddings": torch.randn(n, width, generator=g),
        "text_embeddings": torch.randn(7, width, generator=g),
        "rotary": Rotary(10000.0 ** -(torch.arange(4) / 4), torch.arange(5, 5 + n)[None]),
        "vision": shown(n, torch.Generator().manual_seed(seed + 99)),
    }


def context(layout, keep, seed=0, **given):
    g = torch.Generator().manual_seed(seed)
    given.setdefault("attention", torch.rand(3, 7, layout.n, generator=g).softmax(-1))
    given.setdefault("features", torch.randn(layout.n, 16, generator=g) + 0.7)
    given.setdefault("text", said(seed=seed))
    given.setdefault("earlier", {0: torch.rand(3, 7, layout.n, generator=g).softmax(-1)})
    for name, value in further(layout, seed, given["features"]).items():
        given.setdefault(name, value)
    return TokenContext(layout, budget(keep, layout.n), seed=seed, layer=2, **given)


def build(name, layout, keep=0.1, **options):
    """A method ready to run; those that use a profile get an uneven one."""
    if "profile" in METHODS[name].needs:
        g = torch.Generator().manual_seed(9)
        options.setdefault("profile", MapProfile(torch.rand(1, layout.n, generator=g) + 0.5))
    return make(name, keep=keep, **options)
