"""Contracts of every registered pruning method, then what each of them promises, as pure tensors."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from methods import ALL, LAYOUTS, RASTER, TILED, MapProfile, build, context, layout_of

import biaslab as bl
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, ProfileMismatchError
from biaslab.evaluation.configurations import Config
from biaslab.evaluation.layer_tokens import tokens_per_layer
from biaslab.pruning import METHODS, D2Pruner, DivPrune, FastV, Random, Relative, TokenContext, budget, make, parse
from biaslab.pruning.algorithms.max_min import max_min_diverse
from biaslab.pruning.base import descending
from biaslab.pruning.methods.uniform import apportion
from biaslab.pruning.registry import from_record
from biaslab.pruning.schedule import Schedule, Stage


# -- every method --------------------------------------------------------------------------------------------
@ALL
@LAYOUTS
def test_exactly_the_budget_in_ascending_order(name, kind):
    layout = layout_of(kind)
    for keep in (1, 2, 0.03, 0.1, 0.35, 0.9, 1.0):
        ctx = context(layout, keep)
        got = build(name, layout, keep).select(ctx)
        assert got.indices.dtype == torch.long
        assert got.indices.numel() == ctx.budget
        assert (got.indices.diff() > 0).all()
        assert got.indices[0] >= 0 and got.indices[-1] < layout.n
        assert got.scores is None or got.scores.shape == (layout.n,)


@ALL
def test_the_same_seed_gives_the_same_tokens(name):
    method = build(name, TILED, 0.2)
    first, again = (method.select(context(TILED, 0.2, seed=5)) for _ in range(2))
    assert torch.equal(first.indices, again.indices)
    assert first.info == again.info


@pytest.mark.parametrize("name", sorted(name for name, cls in METHODS.items() if cls.needs))
@LAYOUTS
def test_planted_target_is_kept(name, kind):
    """One token draws far more attention, looks like no other, and is what is asked for: whoever looks, keeps it."""
    layout = layout_of(kind)
    for target in (0, min(17, layout.n // 2), layout.n - 1):
        ctx = context(layout, 0.05)
        ctx.attention[:, :, target] = 50.0
        ctx.features = torch.ones(layout.n, 16) + 0.01 * ctx.features
        ctx.features[target] = -1.0
        ctx.keys[:, target] = ctx.values[:, target] = 9.0
        ctx.text, ctx.text_values = ctx.features[target].repeat(7, 1), torch.ones_like(ctx.text_values)
        for block in range(4):
            ctx.vision.cls[block][:, target] = ctx.vision.received[block][target] = 50.0
        # a tile of few tokens has none to keep, and the embeddings say nothing of the target
        options = {"quota": {"by": "image"}, "adatp": {"relevance": "attention"}}.get(name, {})
        assert target in build(name, layout, 0.05, **options).select(ctx).indices


@ALL
def test_keep_is_checked(name):
    for keep in (0, 1.5, math.nan, True, -3, "0.1", None, 0.0, np.float64(2)):
        with pytest.raises(InputError, match="keep must be"):
            build(name, RASTER, keep)
    assert build(name, RASTER, np.float32(0.5)).keep == 0.5
    assert build(name, RASTER, np.int64(7)).keep == 7


@ALL
def test_options_are_named_checked_and_hashed(name):
    method = build(name, RASTER, 0.1)
    with pytest.raises(InputError, match="no option"):
        make(name, keeep=0.1)
    assert method.with_keep(0.5).options_hash == method.options_hash
    assert method.with_keep(0.5).keep == 0.5
    assert "profile" not in method.options() and "keep" not in method.options()
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.keep = 0.7


@ALL
def test_missing_inputs_are_refused(name):
    method = build(name, RASTER)
    for what in sorted(method.needs - {"profile"}):
        with pytest.raises(InputError, match=f"needs {what}"):
            method.select(context(RASTER, 0.1, **{what: None}))
        if what == "text":
            continue  # of any length
        short = getattr(context(TILED, 0.1), what)
        with pytest.raises(InputError, match="does not fit"):
            method.select(context(RASTER, 0.1, **{what: short}))
    with pytest.raises(InputError, match="budget"):
        method.select(dataclasses.replace(context(RASTER, 0.1), budget=RASTER.n + 1))


@ALL
def test_ignores_what_it_does_not_need(name):
    method, ctx = build(name, RASTER, 0.2), context(RASTER, 0.2)
    sources = ("attention", "features", "text", "keys", "values", "embeddings", "rotary")
    bare = {what: None for what in sources if what not in method.needs}
    assert torch.equal(method.select(ctx).indices, method.select(dataclasses.replace(ctx, **bare)).indices)


def test_registry():
    assert {"random", "uniform", "fastv", "relative", "divprune", "d2pruner"} <= set(METHODS)
    with pytest.raises(InputError, match="unknown pruning method 'fastw'.*fastv"):
        make("fastw")
    assert METHODS["d2pruner"] is D2Pruner


def test_methods_are_written_and_read_as_one_word():
    for method in (
        Random(), D2Pruner(), D2Pruner(theta=0.7, fill="relax", pivots_suppress=True, diagnose=True),
        FastV(queries=(-1, -3)), Relative(debias="none", heads="all"), DivPrune(start="central"),
    ):  # fmt: skip
        again = parse(method.label)
        assert type(again) is type(method) and again.options_hash == method.options_hash
    for word in (
        "hiprune:object_layer=3:last_layer=1", "vscan:window=5:local_layer=0", "vispruner:layer=-1",
        "visionzip:layer=0", "scope:by=vision:vision_layer=1", "dart:visual=3", "feather:stride=2",
        "layer_ratio:over=1", "stagewise:at=2",
        "quota:by=blocks:block=2:method=hiprune:object_layer=3",
    ):  # fmt: skip
        method = parse(word)
        assert parse(method.label).label == method.label and from_record(method.name, method.options()).keep == 0.1
        assert parse(method.label).options_hash == method.options_hash == parse(word).options_hash
    for wrong in ("dart:visual=few", "dart:visual=2.5", "feather:stride=-1", "layer_ratio:over=true"):
        with pytest.raises(InputError, match="must be"):
            parse(wrong)
    assert FastV(keep=0.5).label == "fastv"
    assert D2Pruner(pivots_suppress=True, alpha=1).label == "d2pruner:alpha=1.0:pivots_suppress=true"
    assert parse("none") == "none"
    assert parse(" d2pruner : theta=0.7").theta == 0.7
    for wrong in ("fastw", "none:theta=1", *(f"d2pruner:{o}" for o in ("theta", "theta=", "", "beta=1", "theta=high"))):
        with pytest.raises(InputError):
            parse(wrong)


# -- budget --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("keep", "n", "want"),
    [
        (0.1, 30, 3), (0.29, 100, 29), (0.57, 100, 57), (0.1, 9, 1), (0.001, 576, 1), (0.999, 1000, 999),
        (1.0, 7, 7), (0.15, 256, 38), (1 / 3, 30, 10), (5, 30, 5), (64, 30, 30), (1, 1, 1), (0.3, 3328, 998),
    ],
)  # fmt: skip
def test_budget(keep, n, want):
    assert budget(keep, n) == want


# -- random --------------------------------------------------------------------------------------------------
def test_random_depends_on_the_seed_alone_and_nests():
    picks = {keep: Random(keep=keep).select(context(RASTER, keep, seed=3)).indices for keep in (9, 30)}
    assert set(picks[9].tolist()) < set(picks[30].tolist())
    bare = TokenContext(RASTER, 9, seed=3)
    assert torch.equal(Random(keep=9).select(bare).indices, picks[9])
    assert not torch.equal(Random(keep=9).select(TokenContext(RASTER, 9, seed=4)).indices, picks[9])


def test_random_covers_the_picture_evenly():
    counts = torch.zeros(RASTER.n)
    for seed in range(400):
        counts[Random(keep=24).select(TokenContext(RASTER, 24, seed=seed)).indices] += 1
    assert abs(counts.mean() - 100) < 1e-3
    assert counts.min() > 60 and counts.max() < 140  # binomial(400, 1/4): sd 8.7


# -- fastv, relative -----------------------------------------------------------------------------------------
def test_fastv_is_top_of_the_mean_over_heads():
    ctx = context(RASTER, 0.2)
    got = FastV(keep=0.2).select(ctx)
    want = ctx.attention.mean((0, 1)).topk(ctx.budget).indices.sort().values
    assert torch.equal(got.indices, want)
    flat = context(RASTER, 5, attention=torch.full((2, 1, RASTER.n), 0.5))
    assert FastV(keep=5).select(flat).indices.tolist() == [0, 1, 2, 3, 4]  # ties by index


def test_relative_undoes_a_positional_bias():
    """Content times bias: raw attention follows the bias, relative attention the content."""
    g = torch.Generator().manual_seed(1)
    content = torch.rand(1, RASTER.n, generator=g) + 0.1
    bias = torch.linspace(1, 300, RASTER.n)[None]
    ctx = context(RASTER, 0.1, attention=(content * bias)[None])
    want = content[0].topk(ctx.budget).indices.sort().values
    for op in ("ratio", "log"):
        profile = MapProfile(bias)
        method = Relative(keep=0.1, profile=profile, debias=op)
        assert torch.equal(method.select(ctx).indices, want)
        assert profile.asked == [(RASTER.key, 1)]  # the layer whose attention it is: K - 1
    assert not torch.equal(FastV(keep=0.1).select(ctx).indices, want)
    raw = Relative(keep=0.1, debias="none")
    assert torch.equal(raw.select(ctx).indices, FastV(keep=0.1).select(ctx).indices)
    assert raw.needs == {"attention"}


def test_relative_subtract_zscore_and_heads():
    ctx = context(RASTER, 0.2)
    per_head = ctx.attention.mean(1)
    mean, spread = torch.rand(3, RASTER.n), torch.rand(3, RASTER.n) + 0.1

    def score(mean, std=None, **options):
        return Relative(profile=MapProfile(mean, std), **options).importance(ctx)

    flat = mean.mean(0, keepdim=True)
    torch.testing.assert_close(score(flat, debias="subtract"), per_head.mean(0) - flat[0])
    one = spread[:1]
    torch.testing.assert_close(score(flat, one, debias="zscore"), (per_head.mean(0) - flat[0]) / (one[0] + 1e-7))
    torch.testing.assert_close(score(flat), per_head.mean(0) / (flat[0] + 1e-7))
    torch.testing.assert_close(score(mean, heads="all"), (per_head / (mean + 1e-7)).mean(0))
    torch.testing.assert_close(score(flat, eps=0.5), per_head.mean(0) / (flat[0] + 0.5))
    with pytest.raises(ProfileMismatchError, match="heads="):
        score(mean)


def test_a_missing_profile_is_refused():
    for cls in (Relative, D2Pruner):
        with pytest.raises(InputError, match="needs a profile"):
            cls().select(context(RASTER, 0.1))
        with pytest.raises(InputError, match="fitted profile"):
            cls(profile="profile.safetensors")
        for wrong in (
            {"debias": "square"},
            {"heads": "max"},
            {"eps": 0},
            {"queries": "first"},
            {"queries": ()},
        ):
            with pytest.raises(InputError):
                cls(**wrong)


# -- divprune ------------------------------------------------------------------------------------------------
def slow_divprune(features, n):
    """Max-min by pairwise loops in float64."""
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    distance = 1 - unit @ unit.T
    nearest = [min(distance[i, j].item() for j in range(len(unit)) if j != i) for i in range(len(unit))]
    kept = [int(np.argmax(nearest))]
    while len(kept) < n:
        left = [i for i in range(len(unit)) if i not in kept]
        kept.append(max(left, key=lambda i: min(distance[i, j].item() for j in kept)))
    return kept


def test_divprune_equals_the_slow_max_min(monkeypatch):
    monkeypatch.setattr("biaslab.pruning.algorithms.max_min._BLOCK", 20)
    layout = TokenLayout.raster(6, 9, size=(90, 60), family="toy")
    ctx = context(layout, 17)
    got = DivPrune(keep=17).select(ctx).indices
    want = slow_divprune(ctx.features, 17)
    assert got.tolist() == sorted(want)
    assert max_min_diverse(ctx.features, 17).tolist() == want


def test_divprune_finds_every_cluster():
    g = torch.Generator().manual_seed(0)
    for start in ("isolated", "central"):
        centres = torch.randn(6, 32, generator=g)
        label = torch.randint(0, 2, (RASTER.n,), generator=g)
        label[[5, 40, 70, 90]] = torch.tensor([2, 3, 4, 5])  # four clusters of one token each
        feats = centres[label] + 0.01 * torch.randn(RASTER.n, 32, generator=g)
        kept = DivPrune(keep=6, start=start).select(context(RASTER, 6, features=feats)).indices
        assert set(label[kept].tolist()) == set(range(6))


def test_divprune_survives_identical_tokens():
    same = context(RASTER, 10, features=torch.ones(RASTER.n, 4))
    assert DivPrune(keep=10).select(same).indices.unique().numel() == 10


# -- d2pruner ------------------------------------------------------------------------------------------------
def slow_d2pruner(method, ctx, scores):
    """The algorithm with a dense graph and plain loops, tile by tile or jointly."""
    every = torch.arange(ctx.n)
    similarity = method.graph(ctx).similarity(every, every)
    if method.quota == "tile":
        parts = apportion(np.bincount(ctx.layout.tile).tolist(), ctx.budget)
        groups = [(np.flatnonzero(ctx.layout.tile == t), n) for t, n in enumerate(parts)]
    else:
        groups = [(np.arange(ctx.n), ctx.budget)]
    kept, mis, filled = [], 0, 0
    for members, n in groups:
        order = sorted(members.tolist(), key=lambda i: (-scores[i].item(), i))
        pivots = order[: math.floor(method.pivot_ratio * n + 1e-9)]
        chosen, theta = list(pivots), method.theta
        suppressors = list(pivots) if method.pivots_suppress else []
        while len(chosen) < n:
            for node in order:
                if len(chosen) < n and node not in chosen and not any(similarity[s, node] > theta for s in suppressors):
                    chosen.append(node)
                    suppressors.append(node)
            if theta == method.theta:
                mis += len(chosen) - len(pivots)
                filled += n - len(chosen)
            theta = math.inf if method.fill == "score" else theta + method.relax_step
        kept += chosen
    return sorted(kept), mis, filled


VARIANTS = [
    {}, {"pivots_suppress": True}, {"fill": "relax", "theta": 0.3},
    {"fill": "relax", "pivots_suppress": True, "theta": 0.55}, {"quota": "tile"},
    {"quota": "tile", "fill": "relax", "theta": 0.4}, {"alpha": 1.0, "theta": 0.5}, {"alpha": 0.0},
    {"semantic": "normalized"}, {"spatial": "gaussian", "theta": 0.5, "sigma": 0.3},
    {"spatial": "neighbour", "theta": 0.6}, {"distance": "index"}, {"distance": "grid"}, {"pivot_ratio": 0.0},
    {"pivot_ratio": 1.0}, {"theta": 0.3, "debias": "log"},
]  # fmt: skip


@pytest.mark.parametrize("options", VARIANTS, ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items()) or "default")
def test_d2pruner_equals_the_plain_loops(options):
    total = {"mis": 0, "filled": 0}
    for keep, seed in ((0.1, 0), (0.3, 1), (0.6, 2)):
        ctx = context(TILED, keep, seed=seed)
        method = build("d2pruner", TILED, keep, **options)
        got = method.select(ctx)
        kept, mis, filled = slow_d2pruner(method, ctx, got.scores)
        assert got.indices.tolist() == kept
        assert (got.info["mis_size"], got.info["filled"]) == (mis, filled)
        top = set(descending(got.scores)[: ctx.budget].tolist())
        assert got.info["overlap_topk"] == pytest.approx(len(top & set(kept)) / ctx.budget)
        total["mis"] += mis
        total["filled"] += filled
    if options.get("pivot_ratio") != 1.0:
        assert total["mis"] > 0
    if "fill" in options or options.get("debias") == "log":
        assert total["filled"] > 0  # the filling is exercised, not only agreed on


def test_d2pruner_spreads_where_topk_crowds():
    """A blob of alike, highly attended neighbours and a lone token: only top-k misses the latter."""
    layout = TokenLayout.raster(10, 10, size=(400, 400), family="toy")
    blob = [r * 10 + c for r in range(4) for c in range(4)]
    attention = torch.full((1, 1, 100), 0.01)
    attention[0, 0, blob] = torch.linspace(1.0, 0.9, 16)
    attention[0, 0, 99] = 0.5
    feats = torch.randn(100, 16, generator=torch.Generator().manual_seed(0))
    feats[blob] = torch.ones(16)
    ctx = context(layout, 10, attention=attention, features=feats)
    plain = FastV(keep=10).select(ctx)
    diverse = D2Pruner(keep=10, debias="none", diagnose=True).select(ctx)
    assert 99 not in plain.indices and 99 in diverse.indices
    assert diverse.info["overlap_topk"] < 1 and diverse.info["degenerate"] is None


def test_d2pruner_reports_degenerate_graphs():
    ctx = context(RASTER, 0.3)
    top = FastV(keep=0.3).select(ctx).indices
    for theta, word, density in ((0.9999, "empty", 0.0), (-1, "complete", 1.0)):
        for suppress in (False, True):
            method = D2Pruner(keep=0.3, debias="none", theta=theta, pivots_suppress=suppress, diagnose=True)
            got = method.select(ctx)
            assert got.info["degenerate"] == word and got.info["edge_density"] == density
            assert torch.equal(got.indices, top) and got.info["overlap_topk"] == 1.0
    quick = D2Pruner(keep=0.3, debias="none").select(ctx)
    assert "degenerate" not in quick.info and "edge_density" not in quick.info


def test_d2pruner_edge_density_is_that_of_the_candidates():
    ctx = context(RASTER, 0.3)
    method = D2Pruner(keep=0.3, debias="none", theta=0.6, diagnose=True)
    got = method.select(ctx)
    rest = descending(got.scores)[got.info["pivots"] :]
    dense = method.graph(ctx).edges(rest, rest).triu(1)
    assert got.info["edge_density"] == pytest.approx(dense.sum().item() / (len(rest) * (len(rest) - 1) / 2))
    assert 0 < got.info["edge_density"] < 1


def test_d2pruner_options_are_checked():
    for wrong in (
        {"alpha": 1.2}, {"theta": math.nan}, {"pivot_ratio": -0.1}, {"semantic": "dot"}, {"spatial": "cubic"},
        {"sigma": 0}, {"radius": -1}, {"distance": "tile"}, {"pivots_suppress": "yes"}, {"fill": "random"},
        {"relax_step": 0}, {"quota": "row"}, {"alpha": True},
    ):  # fmt: skip
        with pytest.raises(InputError, match=next(iter(wrong))):
            D2Pruner(**wrong)
    assert D2Pruner(alpha=1).options_hash == D2Pruner(alpha=1.0).options_hash != D2Pruner().options_hash


def test_geometric_says_whether_the_layout_matters():
    profile = MapProfile(torch.ones(1, RASTER.n))
    assert make("uniform").needs_layout and Relative(profile=profile).needs_layout
    assert not any(make(name).needs_layout for name in ("random", "fastv", "divprune"))
    assert not D2Pruner(debias="none", alpha=1.0).needs_layout
    assert D2Pruner(debias="none").needs_layout and D2Pruner(debias="none", alpha=1.0, quota="tile").needs_layout


def test_a_rule_that_is_run_by_itself_refuses_what_it_lacks():
    bare = TokenContext(TokenLayout.raster(2, 2, size=(8, 8), family="x"), budget=2, layer=2)
    with pytest.raises(InputError, match="needs attention"):
        make("fastv").importance(bare)
    with pytest.raises(InputError, match="needs features"):
        make("divprune").pick(bare, None)
    with pytest.raises(InputError, match="needs scores"):
        make("fastv").pick(bare, None)


def test_names_are_written_as_in_the_papers():
    for text, name in (
        ("D2Pruner", "d2pruner"),
        ("FastV", "fastv"),
        ("Layer-Ratio", "layer_ratio"),
        ("DIVPRUNE", "divprune"),
    ):
        assert parse(text).name == name == make(text).name
    assert parse("None") == "none" and parse("D2Pruner:theta=0.7").label == "d2pruner:theta=0.7"
    with pytest.raises(InputError, match="did you mean fastv"):
        parse("FastW")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"theta": 5}, r"theta must be a number in \[-1, 1\), got 5: no similarity exceeds 1"),
        ({"theta": 1}, r"theta must be a number in \[-1, 1\)"),
        ({"theta": -1.5}, r"theta must be a number in \[-1, 1\)"),
        ({"alpha": 2}, r"alpha must be a number in \[0, 1\], got 2"),
        ({"spatial": "gaussian", "sigma": 0}, "sigma must be a number above 0, got 0"),
        ({"spatial": "neighbour", "radius": -1}, "radius must be a number of at least 0, got -1"),
        ({"sigma": 0.2}, "sigma does nothing without spatial=gaussian: add it, or leave sigma out"),
        ({"radius": 2}, "radius does nothing without spatial=neighbour"),
        ({"relax_step": 0.1}, "relax_step does nothing without fill=relax"),
    ],
)
def test_an_option_that_can_do_nothing_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        D2Pruner(**options)


def test_divprune_rounds_as_published_where_asked_and_is_the_same_method_where_not():
    plain, published = DivPrune(keep=0.1), DivPrune(keep=0.1, rounding="published")
    for n in (1, 4, 5, 25, 75, 85, 95, 256, 576, 577):
        assert plain.budget_of(n) == budget(0.1, n) and published.budget_of(n) == max(1, int(round(0.1 * n)))
    assert [published.with_keep(0.5).budget_of(n) for n in (1, 3, 5, 7)] == [1, 2, 2, 4]  # half to even
    assert published.with_keep(9).budget_of(5) == 5 and published.with_keep(1.0).budget_of(5) == 5
    assert plain.options() == {"start": "isolated"} and plain.options_hash != published.options_hash
    assert parse("divprune:rounding=published").budget_of(577) == 58  # of 57.7
    with pytest.raises(InputError, match="rounding must be one of down, published"):
        DivPrune(rounding="up")


@pytest.mark.slow
@pytest.mark.parametrize("plain", [False, True])
def test_the_engine_and_the_sweep_keep_as_many_as_the_method_says(plain):
    results = bl.evaluate(
        bl.load("grounder"), bl.load_dataset("scenes", n=1), methods=["divprune", "divprune:rounding=published"],
        keep=0.1, layer=0, plain=plain, progress=False,
    )  # fmt: skip
    assert results.samples["tokens_kept"].tolist() == [25, 26]  # of 256


def test_a_schedule_counts_as_its_methods_do():
    stages = [Stage(0, "divprune:rounding=published", 0.1), Stage(2, "random", 9)]
    assert Schedule(stages).kept(256) == [26, 9]
    assert Config(DivPrune(keep=0.1, rounding="published"), 0).kept(256) == [26]
    lines = pd.DataFrame({"tokens": [256], "tokens_kept": [9]})
    record = {"layer": 0, "options": Schedule(stages).options()}
    assert tokens_per_layer(lines, record, 3) == [26, 26, 9]
