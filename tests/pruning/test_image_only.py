"""Methods that choose by the image alone say so, and hold to it."""

from __future__ import annotations

import dataclasses

import torch
from methods import ALL, TILED, build, context, shown

from biaslab.pruning import DivPrune, Method


@ALL
def test_neither_seed_nor_attention_changes_what_they_choose(name):
    method = build(name, TILED, keep=40)
    features = torch.randn(TILED.n, 16, generator=torch.Generator().manual_seed(0))
    vision = shown(TILED.n, torch.Generator().manual_seed(0))
    contexts = [context(TILED, 40, s, features=features, vision=vision) for s in range(6)]  # each has its own attention
    chosen = {tuple(method.select(ctx).indices.tolist()) for ctx in contexts}
    assert (len(chosen) == 1) == method.image_only


def test_a_class_that_chooses_otherwise_says_so_itself():
    class Seeded(DivPrune):
        name = "seeded"

        def pick(self, ctx, scores):
            return super().pick(ctx, scores)

    @dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
    class Renamed(DivPrune):
        name = "renamed"

    assert not Method.image_only and not Seeded.image_only and Renamed.image_only
