"""Choosing for a whole batch at once: what each image gets alone, and what the obvious loops say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from foreseen import Foresees, said
from hypothesis import given, settings
from hypothesis import strategies as st
from methods import ALL, RASTER, TILED, MapProfile, build, context, further, shown
from torch.nn.functional import normalize

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.pruning import METHODS, D2Pruner, DivPrune, FastV, Lookahead, Method, Random, Relative, TokenContext
from biaslab.pruning.algorithms import graphs, max_min
from biaslab.pruning.algorithms.graph import HybridGraph, SpatialPlane
from biaslab.pruning.algorithms.graphs import HybridGraphs
from biaslab.pruning.algorithms.max_min import max_min_diverse, max_min_orders
from biaslab.pruning.algorithms.mis import Question
from biaslab.pruning.batch import TokenBatch, ascending, ranked
from biaslab.pruning.context import descending

FORMS = [
    {}, {"pivots_suppress": True, "theta": 0.5}, {"fill": "relax", "theta": 0.3}, {"quota": "tile", "theta": 0.5},
    {"quota": "tile", "fill": "relax", "theta": 0.4, "pivots_suppress": True}, {"alpha": 1.0, "theta": 0.5},
    {"alpha": 0.0}, {"semantic": "normalized"}, {"spatial": "gaussian", "theta": 0.5, "sigma": 0.3},
    {"spatial": "neighbour", "theta": 0.6}, {"distance": "grid"}, {"pivot_ratio": 0.0, "theta": 0.5},
    {"pivot_ratio": 1.0}, {"diagnose": True, "theta": 0.5, "pivots_suppress": True},
]  # fmt: skip


class Layered(Foresees):
    """A profile of any layout: an expectation drawn from the number of tokens, zero at every third place."""

    def expected(self, layout, layer, device=None):
        drawn = torch.rand(1, layout.n, generator=torch.Generator().manual_seed(layout.n))
        return torch.where(torch.arange(layout.n) % 3 == 0, 0.0, drawn).to(device)


def images(seed, count, dim=24, kind="smooth"):
    """Images of different sizes and budgets; "ties": whole numbers in attention, few distinct features."""
    g = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        rows, cols = g.integers(1, 13, 2)
        layout = TokenLayout.raster(int(rows), int(cols), size=(int(40 * cols), int(31 * rows)), family="toy")
        if g.random() < 0.3:
            layout = TokenLayout.tiled(2, 1, (int(rows), int(cols)), size=(300, 500), family="toy", thumbnail=True)
        t = torch.Generator().manual_seed(int(g.integers(2**31)))
        attention = torch.rand(3, 7, layout.n, generator=t)
        features = torch.randn(layout.n, dim, generator=t) + 0.7
        if kind == "ties":
            attention = torch.randint(0, 3, (3, 7, layout.n), generator=t) / 4
            features = features[torch.randint(0, 1 + layout.n // 3, (layout.n,), generator=t)]
        budget = int(g.integers(1, layout.n + 1))
        shallow = torch.rand(3, 7, layout.n, generator=t)
        given = (attention, features, {0: shallow}, said(width=features.shape[1]))
        more = further(layout, budget, features) | {"vision": shown(layout.n, t, few=kind == "ties")}
        out.append(TokenContext(layout, budget, int(g.integers(2**31)), 2, *given, **more))
    return out


def equal(one, other):
    assert torch.equal(one.indices, other.indices) and one.info == other.info
    assert (one.scores is None) == (other.scores is None)
    assert one.scores is None or torch.equal(one.scores, other.scores)


def method(name, **options):
    return build(name, RASTER, **({"profile": Layered()} if "profile" in METHODS[name].needs else {}), **options)


# -- every method ----------------------------------------------------------------------------------------------
@ALL
@pytest.mark.parametrize("kind", ["smooth", "ties"])
def test_a_batch_gives_what_each_image_gets_alone(name, kind):
    rule = method(name)
    for seed, count in ((0, 1), (1, 2), (2, 5), (3, 16)):
        batch = images(seed, count, kind=kind)
        for got, ctx in zip(rule.select_batch(batch), batch, strict=True):
            equal(got, rule.select(ctx))
            assert len(got.indices) == ctx.budget and (got.indices.diff() > 0).all()
        # other mates, another order
        mixed = batch[::-2] + images(seed + 50, 3, kind=kind)
        for got, ctx in zip(rule.select_batch(mixed), mixed, strict=True):
            equal(got, rule.select(ctx))


@pytest.mark.parametrize("options", FORMS, ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items()) or "default")
@pytest.mark.parametrize("kind", ["smooth", "ties"])
def test_every_form_of_d2pruner_does(options, kind):
    rule = method("d2pruner", **options)
    for seed, count in ((0, 3), (1, 16)):
        batch = images(seed, count, kind=kind)
        for got, ctx in zip(rule.select_batch(batch), batch, strict=True):
            equal(got, rule.select(ctx))


@ALL
def test_several_budgets_give_what_each_gives_alone(name):
    rule, batch = method(name), images(7, 6)
    budgets = [sorted({1, 1 + ctx.n // 4, 1 + ctx.n // 2, ctx.n} & set(range(1, ctx.n + 1)))[::-1] for ctx in batch]
    budgets[2] = []
    for ctx, wanted, got in zip(batch, budgets, rule.select_budgets(batch, budgets), strict=True):
        assert len(got) == len(wanted)
        for n, one in zip(wanted, got, strict=True):
            equal(one, rule.select(dataclasses.replace(ctx, budget=n)))


@ALL
def test_nested_means_that_a_prefix_of_any_larger_budget_is_kept(name):
    rule, nested = method(name), True
    for ctx in images(11, 8) + images(12, 8, kind="ties"):
        full, info = rule.pick(dataclasses.replace(ctx, budget=ctx.n), rule.importance(ctx))
        for n in range(1, ctx.n, 5):
            own, also = rule.pick(dataclasses.replace(ctx, budget=n), rule.importance(ctx))
            nested &= torch.equal(own, full[:n]) and info == also
    assert nested == rule.nested


def test_which_methods_nest():
    assert {name for name, cls in METHODS.items() if cls.nested} >= {"divprune", "fastv", "layer_ratio", "random"}
    assert not D2Pruner.nested and not METHODS["uniform"].nested and Relative.nested


@ALL
def test_budgets_are_checked_for_every_image(name):
    batch = images(0, 3)
    for wrong in (0, batch[1].n + 1):
        with pytest.raises(InputError, match="budget must be"):
            method(name).select_budgets(batch, [[1], [1, wrong], [1]])
    assert method(name).select_batch([]) == [] and method(name).select_budgets(batch, [[], [], []]) == [[], [], []]


# -- methods of others -----------------------------------------------------------------------------------------
class Backwards(FastV):
    """Derived from one of ours, and defines the rule for one image alone."""

    def pick(self, ctx, scores):
        return torch.arange(ctx.n - ctx.budget, ctx.n), {"n": ctx.n}


class Even(DivPrune):
    def select(self, ctx):
        found = super().select(ctx)
        found.info["mine"] = True
        return found


class Centred(Relative):
    def importance(self, ctx):
        return super().importance(ctx) - ctx.budget


def test_a_method_that_defines_one_image_alone_is_asked_image_by_image():
    batch = images(3, 4)
    for cls in (Backwards, Even, Centred):
        rule = cls(keep=0.2, **({"debias": "none"} if cls is Centred else {}))
        assert not rule.nested
        for got, ctx in zip(rule.select_batch(batch), batch, strict=True):
            equal(got, rule.select(ctx))
    assert [s.info for s in Backwards().select_batch(batch)] == [{"n": ctx.n} for ctx in batch]
    assert all(s.info == {"mine": True} for s in Even().select_batch(batch))


def test_a_plug_in_that_nests_is_run_once_at_the_largest_budget():
    class First(Method):
        name = "first"
        nested = True
        asked = []

        def pick(self, ctx, scores):
            self.asked.append(ctx.budget)
            return torch.arange(ctx.budget), {}

    ((a, b),) = First().select_budgets([context(RASTER, 5)], [[2, 7]])
    assert First.asked == [7] and (len(a.indices), len(b.indices)) == (2, 7)


class Together(Foresees):
    """Scores images of one size at once, and notes how many."""

    def __init__(self):
        self.asked = []

    def relevance_batch(self, visual, texts, layouts, *, position=False):
        self.asked.append((len(visual), visual))
        return torch.stack(
            [self.relevance(*one, position=position) for one in zip(visual, texts, layouts, strict=True)]
        )


@pytest.mark.parametrize("gap", [0, 3, None])
def test_a_profile_is_asked_for_images_of_one_size_together(gap):
    """Of their features as they lie in the batch's tensor, at one distance or at several."""
    few, many = (TokenLayout.raster(3, n, size=(60, 60), family="toy") for n in (2, 5))
    layouts, starts, first = [few, many, few, many, many, few], [], 0
    for i, layout in enumerate(layouts):
        starts.append(first)
        first += max(few.n, many.n) + (i * i if gap is None else gap) if gap != 0 else layout.n
    stack = torch.randn(first, 8, generator=torch.Generator().manual_seed(0))
    batch = TokenBatch(
        [
            TokenContext(layout, 3, features=stack[at : at + layout.n], text=said(5 + i, 8))
            for i, (layout, at) in enumerate(zip(layouts, starts, strict=True))
        ],
        stack,
        starts,
    )
    profile = Together()
    rule = Lookahead(profile=profile, rule="diverse")
    found = rule.select_batch(batch)
    assert [n for n, _ in profile.asked] == [3, 3]
    even = [batch.starts[i] for i in (1, 3, 4)]
    shared = profile.asked[1][1].untyped_storage().data_ptr() == stack.untyped_storage().data_ptr()
    assert shared == (even[1] - even[0] == even[2] - even[1])
    for got, ctx in zip(found, batch, strict=True):
        equal(got, rule.select(ctx))
    only = batch.only([0, 2])
    assert torch.equal(only.features_of([0, 1])[1], batch[2].features)
    assert torch.equal(TokenBatch(list(batch)).features_of([1, 4])[1], batch[4].features)


def test_whole_numbers_rank_too():
    class Last(Method):
        name = "last"

        def importance(self, ctx):
            return torch.arange(ctx.n)

    assert [s.indices.tolist() for s in Last().select_batch([context(RASTER, 2), context(TILED, 1)])] == [
        [RASTER.n - 2, RASTER.n - 1],
        [TILED.n - 1],
    ]


# -- parts -----------------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, -0.0, 1.0, 2.5, -torch.inf, torch.inf]), min_size=1, max_size=20),
                min_size=1, max_size=6))  # fmt: skip
def test_ranks_of_a_batch_are_those_of_each(rows):
    scores = [torch.tensor(row) for row in rows]
    for got, own in zip(ranked(scores), scores, strict=True):
        assert torch.equal(got, descending(own))
    for got, own in zip(ascending(ranked(scores)), scores, strict=True):
        assert torch.equal(got, torch.arange(len(own)))


def test_features_of_a_batch_may_lie_anywhere_in_one_tensor():
    batch = images(4, 5)
    gaps = [torch.full((i, 24), torch.nan) for i in range(5)]
    stack = torch.cat([part for gap, ctx in zip(gaps, batch, strict=True) for part in (gap, ctx.features)])
    starts = np.cumsum([0, *[i + ctx.n for i, ctx in enumerate(batch)]])[:-1] + np.arange(5)
    views = [dataclasses.replace(c, features=stack[s : s + c.n]) for s, c in zip(starts.tolist(), batch, strict=True)]
    for name in ("divprune", "d2pruner"):
        pairs = method(name).select_batch(batch), method(name).select_batch(TokenBatch(views, stack, starts.tolist()))
        for got, want in zip(*pairs, strict=True):
            equal(got, want)


def exact_features(n, g, kinds):
    """Tokens of which cosines are exact in float32 whatever the order of summing: ties are ties."""
    return (torch.randint(0, 2, (kinds, 16), generator=g) * 2.0 - 1)[torch.randint(0, kinds, (n,), generator=g)]


def obvious_max_min(features, n, start):
    """Plain loops; the lowest index among equals."""
    unit = features.double() / 4
    sim = (unit @ unit.T).numpy()
    others = [max([s for j, s in enumerate(row) if j != i], default=-np.inf) for i, row in enumerate(sim)]
    kept = [int(np.argmin(others)) if start == "isolated" else int((unit @ unit.mean(0)).argmax())]
    while len(kept) < n:
        left = [i for i in range(len(sim)) if i not in kept]
        kept.append(max(left, key=lambda i: (min(1 - sim[i, j] for j in kept), -i)))
    return kept


@pytest.mark.parametrize("start", ["isolated", "central"])
def test_max_min_of_a_batch_is_the_plain_loop_ties_included(start):
    g = torch.Generator().manual_seed(0)
    sizes = [(1, 1), (2, 2), (9, 4), (30, 30), (64, 10), (97, 60), (50, 3)]
    given_ = [exact_features(n, g, kinds) for n, _ in sizes for kinds in (3, 200)]
    budgets = [k for _, k in sizes for _ in (3, 200)]
    orders = max_min_orders(given_, budgets, start)
    for order, features, n in zip(orders, given_, budgets, strict=True):
        assert order.tolist() == obvious_max_min(features, n, start)
        assert torch.equal(order, max_min_diverse(features, n, start))  # the plain path


def test_max_min_keeps_what_the_plain_path_keeps_on_rounded_numbers():
    g = torch.Generator().manual_seed(1)
    given_ = [torch.randn(n, 48, generator=g) + 0.5 for n in (40, 150, 150, 256)]
    orders = max_min_orders(given_, [20, 15, 100, 128])
    for order, features in zip(orders, given_, strict=True):
        assert torch.equal(order.sort().values, max_min_diverse(features, len(order)).sort().values)


def test_max_min_in_parts_is_the_same_and_large_images_go_alone(monkeypatch):
    g = torch.Generator().manual_seed(2)
    given_ = [exact_features(n, g, 50) for n in (20, 30, 32, 5, 40, 8, 8)]
    want = max_min_orders(given_, [5] * 7)
    calls = []
    plain, together = max_min.max_min_diverse, max_min._together
    monkeypatch.setattr(max_min, "max_min_diverse", lambda f, *a: calls.append(len(f)) or plain(f, *a))
    monkeypatch.setattr(max_min, "_together", lambda f, *a: calls.append([len(x) for x in f]) or together(f, *a))
    monkeypatch.setattr(max_min, "CELLS", 1000)
    for got, order in zip(max_min_orders(given_, [5] * 7), want, strict=True):
        assert torch.equal(got, order)
    assert calls == [[20], [30], 32, [5], 40, [8, 8]]


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 500, 2**17])
@pytest.mark.parametrize("form", [{}, {"spatial": "gaussian"}, {"spatial": "neighbour"}, {"semantic": "normalized"},
                                  {"alpha": 1.0}, {"alpha": 0.0}], ids=str)  # fmt: skip
def test_edges_of_several_graphs_are_those_of_each(monkeypatch, limit, form):
    monkeypatch.setattr(graphs, "CPU_CELLS", limit)
    for dim, dtype in ((24, torch.float32), (33, torch.float32), (64, torch.bfloat16)):
        batch = images(5, 6, dim=dim)
        layouts, own = [ctx.layout for ctx in batch], [ctx.features.to(dtype) for ctx in batch]
        plain = [HybridGraph(f, SpatialPlane.of(x), **form) for f, x in zip(own, layouts, strict=True)]
        stack, first = torch.cat(own), np.cumsum([0, *[x.n for x in layouts]])[:-1].tolist()
        options = {"form": plain[0].form, "distance": "image"}
        ways = [HybridGraphs(own, layouts, **options), HybridGraphs(own, layouts, stack=stack, first=first, **options)]
        rng, asked = np.random.default_rng(dim), []
        for i, x in enumerate(layouts):
            rows, cols = (rng.permutation(x.n)[: rng.integers(1, x.n + 1)] for _ in range(2))
            asked += [(i, Question(rows, cols, True, 0.8)), (i, Question(rows, rows, False, 0.8))]
            asked += [(i, Question(rows, cols, False, 0.6)), (i, Question(cols, rows, True, 0.3))]
        for (i, q), *found in zip(asked, *(together.answer(asked) for together in ways), strict=True):
            rows = torch.from_numpy(q.rows)
            cols = rows if q.cols is q.rows else torch.from_numpy(q.cols)
            want = plain[i].relaxed(q.theta).edges(rows, cols)
            want = want.any(0) if q.reduced else want
            for got in found:
                assert got.dtype == np.bool_ and np.array_equal(got, want.numpy())


def test_units_are_what_the_exact_tokens_claim():
    """The premise of the tests of ties: the cosine of two such tokens is a multiple of 1/8 with no rounding at all."""
    features = exact_features(20, torch.Generator().manual_seed(3), 20)
    cosine = normalize(features, dim=1) @ normalize(features, dim=1).T
    assert torch.equal(cosine * 8, (cosine * 8).round()) and torch.equal(cosine.diagonal(), torch.ones(20))


def test_the_seed_belongs_to_the_image_not_to_its_row():
    one, other = (TokenContext(RASTER, 9, seed=s) for s in (3, 4))
    a, b = (Random().select_batch(pair) for pair in ([one, other], [other, one]))
    equal(a[0], b[1])
    equal(a[1], b[0])


def test_a_profile_is_read_per_image():
    profile = MapProfile(torch.rand(1, RASTER.n) + 0.1)
    Relative(profile=profile).select_batch([context(RASTER, 5), context(RASTER, 7, seed=1)])
    assert len(profile.asked) == 2
