"""Importances of every kind under one rule: what each reads, what each refuses, and that models run with them."""

from __future__ import annotations

import pytest
import tiny
import torch
from foreseen import Foresees
from methods import RASTER, MapProfile, context, layout_of
from pruned import lowest_layer
from torch.nn.functional import cosine_similarity

import biaslab as bl
from biaslab.attention.vision import watch_tower
from biaslab.attention.vision_record import TowerShape, VisionRequest
from biaslab.errors import InputError, UnsupportedError
from biaslab.evaluation.configurations import configurations
from biaslab.models.prune_layer import prune_layers
from biaslab.pruning import (
    MMR,
    CDPruner,
    FastV,
    GreedyPrune,
    IDSelection,
    Lookahead,
    Relative,
    Scope,
    VisPruner,
    make,
    parse,
)  # fmt: skip
from biaslab.pruning.methods.importance_method import IMPORTANCES

KINDS = [kind for kind in IMPORTANCES if kind != "external"]


def profile_for(kind):
    g = torch.Generator().manual_seed(9)
    positional = MapProfile(torch.rand(1, RASTER.n, generator=g) + 0.5)
    return {"relative": {"profile": positional}, "lookahead": {"profile": Foresees()}}.get(kind, {})


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_what_it_says(kind):
    ctx, options = context(RASTER, 0.2), profile_for(kind)
    got = MMR(by=kind, **options).importance(ctx)
    want = {
        "attention": lambda: FastV().importance(ctx),
        "relative": lambda: Relative(**options).importance(ctx),
        "lookahead": lambda: Lookahead(**options).importance(ctx),
        "text": lambda: torch.stack([cosine_similarity(ctx.features, t[None]) for t in ctx.text]).mean(0),
        "last_text": lambda: cosine_similarity(ctx.features, ctx.text[-1:]),
        "norm": lambda: ctx.features.norm(dim=1),
        "vision": lambda: ctx.vision.cls[2].mean(0),  # the last but one of four blocks
    }[kind]()
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)
    assert got.dtype == torch.float32 and got.std() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_says_what_it_reads(kind):
    method = MMR(by=kind, **profile_for(kind))
    assert method.needs == IMPORTANCES[kind] | {"features"}
    assert method.conditional == (kind == "lookahead") and method.image_only == (kind in ("norm", "vision"))
    assert method.before_decoder == (kind == "vision")
    assert method.needs_layout == (kind in ("relative", "lookahead"))
    assert MMR(by="relative", debias="none").needs == {"attention", "features"}
    assert parse(method.label).needs == method.needs


def test_lambda_of_one_is_the_best_by_any_importance():
    ctx = context(RASTER, 0.2)
    one = MMR(by="relative", lam=1.0, **profile_for("relative")).select(ctx)
    assert torch.equal(one.indices, Relative(**profile_for("relative")).select(ctx).indices)
    assert torch.equal(MMR(lam=1.0, queries="text").select(ctx).indices, FastV(queries="text").select(ctx).indices)


def test_mmr_is_the_rule_of_lookahead_too():
    ctx = context(RASTER, 0.3)
    one = MMR(by="lookahead", lam=0.4, profile=Foresees()).select(ctx)
    assert torch.equal(one.indices, Lookahead(rule="mmr", lam=0.4, profile=Foresees()).select(ctx).indices)


def test_padding_comes_last_under_any_importance():
    layout = layout_of("llava")  # a wide image in a square
    inside = torch.from_numpy(layout.in_image.copy())
    assert 2 < inside.sum() < layout.n
    for name in ("mmr", "cdpruner", "scope", "greedyprune", "idselection"):
        method = make(name, by="norm", padding="drop")
        assert method.needs_layout
        kept = method.select(context(layout, int(inside.sum()))).indices
        assert torch.equal(kept, inside.nonzero()[:, 0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"by": "saliency"},
            "by must be one of attention, relative, lookahead, text, last_text, norm, vision, or external:PATH",
        ),
        ({"by": 3}, "by must be one of"),
        ({"by": "text", "queries": "text"}, "queries does nothing without by=attention or by=relative"),
        ({"by": "norm", "score": "no_rope"}, "score does nothing without by=attention or by=relative"),
        ({"debias": "log"}, "debias does nothing without by=relative: add it, or leave debias out"),
        ({"by": "lookahead", "heads": "all"}, "heads does nothing without by=attention or by=relative"),
        ({"profile": MapProfile(torch.ones(1, 4))}, "profile does nothing without by=relative or by=lookahead"),
        ({"by": "lookahead", "profile": MapProfile}, None),
        ({"by": "lookahead", "profile": object()}, "by=lookahead needs a conditional profile: fit one"),
        ({"by": "relative", "profile": object()}, "profile must be a fitted profile"),
        ({"by": "norm", "vision_layer": -1}, "vision_layer does nothing without by=vision: add it, or leave"),
        ({"by": "vision", "vision_layer": 1.5}, "vision_layer must be a block of the vision tower, got 1.5"),
        ({"by": "vision", "queries": "text"}, "queries does nothing without by=attention or by=relative"),
    ],
)
def test_what_does_nothing_or_does_not_fit_is_refused(options, said):
    if said is None:
        assert MMR(**options).kind == "lookahead"
        return
    with pytest.raises(InputError, match=said):
        MMR(**options)


def test_a_missing_profile_is_asked_for_by_its_kind():
    with pytest.raises(InputError, match="needs a profile: pass profile=MeanProfile"):
        MMR(by="relative").validate()
    with pytest.raises(InputError, match="needs a conditional profile with by=lookahead"):
        MMR(by="lookahead").validate()


def test_a_run_hands_each_kind_the_profile_it_needs():
    positional, conditional = profile_for("relative")["profile"], Foresees()
    positional.hash, conditional.hash, conditional.kind = "a" * 16, "b" * 16, "conditional"
    methods = ["mmr", "mmr:by=relative", "scope:by=lookahead", "cdpruner"]
    configs = configurations(methods, 0.1, 4, [positional, conditional])
    assert [config.method.profile for config in configs] == [None, positional, conditional, None]
    with pytest.raises(InputError, match="'scope' needs a conditional profile"):
        configurations(methods, 0.1, 4, positional)


def test_before_the_decoder_only_what_reads_no_attention():
    vlm = bl.load("grounder")
    with pytest.raises(UnsupportedError, match="at K = 0 there is none"), bl.prune(vlm, MMR(), layer=0):
        pytest.fail("was not refused")
    with pytest.raises(UnsupportedError, match="at K = 0 there is none"), bl.prune(vlm, Scope(), layer=0):
        pytest.fail("was not refused")


def test_what_is_foreseen_decides_before_the_decoder_under_every_rule():
    class Serves(Foresees):
        hash, layers_ = "a" * 16, (0,)

        def check(self, *, layer, **use):
            assert layer == 0

    vlm, kept = tiny.vlm("internvl"), {}
    enc = tiny.encoded(vlm, 2)
    rules = {
        "mmr": {"lam": 1.0},
        "idselection": {"gamma": 1e6},
        "greedyprune": {"tau": 1.0},
        "scope": {},
        "cdpruner": {},
    }
    for name, options in rules.items():
        with bl.prune(vlm, make(name, by="lookahead", profile=Serves(), keep=0.4, **options), 0) as run:
            vlm.forward(enc)
        kept[name] = [s.indices.tolist() for s in run.selections]
    with bl.prune(vlm, Lookahead(profile=Serves(), rule="top", keep=0.4), 0) as run:
        vlm.forward(enc)
    top = [s.indices.tolist() for s in run.selections]
    assert kept["mmr"] == kept["idselection"] == kept["greedyprune"] == top
    assert kept["scope"] != top and [len(own) for own in kept["cdpruner"]] == [len(own) for own in top]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_text_and_norm_run_in_every_family_at_its_lowest_layer(family):
    vlm = tiny.vlm(family, layers=4)
    enc, layer = tiny.encoded(vlm, 2), lowest_layer(vlm)
    for method in (CDPruner(keep=0.3), IDSelection(keep=0.3, by="norm")):
        with bl.prune(vlm, method, layer) as run:
            vlm.generate(enc, max_new_tokens=2)
        assert [len(s.indices) for s in run.selections] == [bl.pruning.budget(0.3, x.n) for x in enc.layouts]


def test_ranked_by_the_tower_they_are_what_ranks_by_the_tower():
    ctx = context(RASTER, 0.2)
    top = VisPruner(important=1).select(ctx).indices
    for method in (MMR(by="vision", lam=1.0), IDSelection(by="vision", gamma=1e6), GreedyPrune(by="vision", tau=1.0)):
        assert torch.equal(method.select(ctx).indices, top), method.label
    first, third = (MMR(by="vision", lam=1.0, vision_layer=i).select(ctx).indices for i in (0, -1))
    assert (
        not torch.equal(first, top) and third.tolist() == ctx.vision.cls[3].mean(0).topk(19).indices.sort()[0].tolist()
    )


def test_of_a_tower_without_a_class_token_received_attention_is_read():
    ctx, windows = context(RASTER, 0.2), TowerShape(32, False, (7, 15, 23, 31))
    ctx.vision.__dict__["cls"] = None
    assert torch.equal(Scope(by="vision").importance(ctx), ctx.vision.received[2])
    assert Scope(by="vision").reads(windows) == VisionRequest(received=(-2,))
    assert Scope(by="vision", vision_layer=5).reads(ctx.vision.tower) == VisionRequest(cls=(5,))
    assert Scope().reads(windows) == VisionRequest()


def test_scope_as_published_is_its_loop():
    ctx = context(RASTER, 9)
    unit = torch.nn.functional.normalize(ctx.features.double(), dim=1)
    cosine, saliency = unit @ unit.T, ctx.vision.cls[2].mean(0).double()
    covered, kept = torch.zeros(ctx.n).double(), []
    for _ in range(9):
        gains = [
            -1.0 if i in kept else float(saliency[i] * (cosine[i] - covered).clamp(min=0).sum()) for i in range(ctx.n)
        ]
        kept.append(max(range(ctx.n), key=gains.__getitem__))
        covered = torch.maximum(covered, cosine[kept[-1]])
    assert Scope(by="vision").select(ctx).indices.tolist() == sorted(kept)


def test_earlier_hashes_know_nothing_of_the_block():
    assert "vision_layer" not in Scope().options() and "vision_layer" not in Scope(by="vision").options()
    again = parse(Scope(by="vision", vision_layer=-1).label)
    assert again.vision_layer == -1 and isinstance(again.vision_layer, int)
    assert Scope(by="vision", vision_layer=-1).options_hash != Scope(by="vision").options_hash


def test_without_a_layer_the_tower_decides_before_the_decoder():
    vlm = bl.load("grounder")
    encoded = vlm.encode([tiny.images(1)[0]], ["Where is the cat?"])
    with watch_tower(vlm, VisionRequest(cls=(-2,))) as tower, bl.prune(vlm, Scope(by="vision", keep=0.1)) as run:
        vlm.forward(encoded)
        (record,) = tower.records(encoded)
    assert run.layer == 0 and torch.equal(run.selections[0].scores, record.saliency(-2))
    wanted = {config.layer for config in configurations(["mmr:by=vision"], 0.1, prune_layers(vlm, None), None)}
    assert wanted == {0}
    beyond = Scope(by="vision", vision_layer=9)
    with pytest.raises(InputError, match="the vision tower holds layers 0 to 2, not"), bl.prune(vlm, beyond):
        pytest.fail("was not refused before any work")


@pytest.mark.slow
def test_a_sweep_over_kinds_keeps_what_each_keeps_alone():
    vlm, scenes = bl.load("grounder"), bl.load_dataset("scenes", n=2)
    methods = ["mmr", "mmr:by=text", "scope:by=norm", "cdpruner", "cdpruner:by=vision"]
    options = {"methods": methods, "keep": [0.1, 0.3], "layer": 2, "progress": False}
    shared, plain = (bl.evaluate(vlm, scenes, plain=p, **options).samples for p in (False, True))
    assert not shared["error"].fillna("").any()
    assert shared["kept"].tolist() == plain["kept"].tolist()
