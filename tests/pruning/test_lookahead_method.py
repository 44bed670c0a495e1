"""Look-ahead pruning: the weighted choice against a loop, what the engine hands it, and every family end to end."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from foreseen import Foresees
from hypothesis import given, settings
from hypothesis import strategies as st
from pruned import run
from torch.nn.functional import normalize

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, ProfileMismatchError
from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.run_once import GenerationOptions, run_once
from biaslab.evaluation.sweep.shared import run_shared, shareable
from biaslab.maps.collect import collect
from biaslab.maps.stored import load_maps
from biaslab.models.prune_layer import lowest_prune_layer
from biaslab.profiles import LookaheadProfile, MeanProfile, load
from biaslab.pruning import D2Pruner, Lookahead, TokenContext, make, parse, prune
from biaslab.pruning.algorithms import max_min
from biaslab.pruning.algorithms.max_min import max_min_diverse, max_min_orders
from biaslab.pruning.algorithms.mmr import mmr_orders

FAMILIES = pytest.mark.parametrize("family", tiny.CROSSED)


def by_loop(features, weight, n):
    """The definition, token by token."""
    unit = normalize(features.double(), dim=1)
    kept = [int(weight.argmax())]
    while len(kept) < n:
        best, value = None, -1.0
        for i in range(len(unit)):
            if i not in kept:
                near = min(max(1e-4, 1 - float(unit[i] @ unit[j])) for j in kept)
                if float(weight[i]) * near > value:
                    best, value = i, float(weight[i]) * near
        kept.append(best)
    return kept


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 5))
def test_the_weighted_choice_is_the_loops(seed, count):
    g = torch.Generator().manual_seed(seed)
    sizes = torch.randint(2, 25, (count,), generator=g).tolist()
    images = [torch.randn(n, 6, generator=g) for n in sizes]
    weights = [torch.rand(n, generator=g) + 0.05 for n in sizes]
    budgets = [int(torch.randint(1, n + 1, (1,), generator=g)) for n in sizes]
    orders = max_min_orders(images, budgets, weights=weights)
    for image, weight, n, order in zip(images, weights, budgets, orders, strict=True):
        assert order.tolist() == by_loop(image, weight, n)
        assert torch.equal(order, max_min_diverse(image, n, weight=weight))


def test_tokens_that_agree_come_by_their_relevance(monkeypatch):
    features = torch.ones(5, 3)
    weight = torch.tensor([0.1, 0.5, 0.3, 0.9, 0.2])
    for cells in (2**28, 1):  # together, and each step with a product of its own
        monkeypatch.setattr(max_min, "CELLS", cells)
        assert max_min_orders([features], [5], weights=[weight])[0].tolist() == [3, 1, 2, 4, 0]


def test_gamma_goes_from_diverse_to_the_best():
    g = torch.Generator().manual_seed(1)
    layout = TokenLayout.raster(6, 8, size=(80, 60), family="toy")
    ctx = TokenContext(layout, 12, features=torch.randn(48, 8, generator=g), text=torch.randn(3, 8, generator=g))
    choose = lambda **options: Lookahead(profile=Foresees(), **options).select(ctx).indices  # noqa: E731
    top = choose(rule="top")
    shares = [len(set(choose(rule="diverse", gamma=gamma).tolist()) & set(top.tolist())) for gamma in (0, 1, 4, 50)]
    assert shares == sorted(shares) and shares[0] < shares[-1] == 12


RULES = pytest.mark.parametrize("options", [
    {}, {"power": 1.0, "floor": 0.0}, {"rule": "diverse"},
    {"rule": "top"}, {"rule": "mmr"}, {"rule": "mmr", "lam": 0.9}, {"rule": "graph"},
    {"rule": "graph", "theta": 0.3, "alpha": 1.0, "pivot_ratio": 0.2},
], ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items()) or "default")  # fmt: skip


class Serves(Foresees):
    """For any use."""

    def check(self, **use):
        pass


class Given:
    """Foresees what it is told, image by image."""

    def __init__(self, scores):
        self.scores = scores

    def relevance(self, visual, text, layout, *, position=False):
        return self.scores[layout]


def drawn(seed, count=6):
    """Images of different sizes with relevance; in every other one features and relevance repeat."""
    g = torch.Generator().manual_seed(seed)
    out = []
    for i in range(count):
        rows, cols = torch.randint(1, 9, (2,), generator=g).tolist()
        layout = TokenLayout.raster(rows, cols, size=(40 * cols + i, 31 * rows), family="toy")
        features, scores = torch.randn(layout.n, 16, generator=g) + 0.5, torch.randn(layout.n, generator=g)
        if i % 2:
            kinds = torch.randint(0, 2, (4, 16), generator=g) * 2.0 - 1
            features = kinds[torch.randint(0, 4, (layout.n,), generator=g)]
            scores = torch.randint(0, 3, (layout.n,), generator=g) / 2
        n = int(torch.randint(1, layout.n + 1, (1,), generator=g))
        out.append((TokenContext(layout, n, features=features, text=torch.zeros(3, features.shape[1])), scores))
    return out


def graph_by_loop(ctx, scores, n, *, alpha=0.5, theta=0.8, pivot_ratio=0.7):
    """D2Pruner's choice as its paper lists it, token by token."""
    unit, centers = normalize(ctx.features.double(), dim=1), ctx.layout.centers * ctx.layout.size
    d = np.linalg.norm(centers[:, None] - centers[None], axis=-1)
    near = 1 - d / d.max() if d.max() > 0 else np.ones_like(d)
    fused = alpha * (unit @ unit.T).numpy() + (1 - alpha) * near
    order = sorted(range(ctx.n), key=lambda i: (-float(scores[i]), i))
    first = int(pivot_ratio * n + 1e-9)
    kept, taken = order[:first], []
    for i in order[first:]:
        if len(kept) + len(taken) < n and not any(fused[i, j] > theta for j in taken):
            taken.append(i)
    kept += taken
    return sorted((kept + [i for i in order if i not in kept])[:n])


@RULES
def test_every_rule_in_a_batch_is_that_of_each_image(options):
    for seed in range(4):
        cases = drawn(seed)
        rule = Lookahead(profile=Given({ctx.layout: scores for ctx, scores in cases}), **options)
        batch = [ctx for ctx, _ in cases]
        budgets = [sorted({1, ctx.budget, ctx.n}) for ctx in batch]
        for ctx, wanted, got in zip(batch, budgets, rule.select_budgets(batch, budgets), strict=True):
            for n, one in zip(wanted, got, strict=True):
                alone = rule.select(replace(ctx, budget=n))
                assert torch.equal(one.indices, alone.indices) and one.info == alone.info
                assert len(one.indices) == n
            assert got[-1].indices.tolist() == list(range(ctx.n))  # keep all


@RULES
def test_which_rules_nest(options):
    """A smaller budget keeps a prefix of the order by the greedy rules, and those say so."""
    cases = [case for seed in range(6) for case in drawn(seed)]
    rule, prefix = Lookahead(profile=Given({}), **options), True
    for ctx, scores in cases:
        full, info = rule.pick(replace(ctx, budget=ctx.n), scores)
        for n in range(1, ctx.n, 3):
            own, also = rule.pick(replace(ctx, budget=n), scores)
            prefix &= torch.equal(own, full[:n]) and info == also
    assert rule.nested == prefix == (rule.rule not in ("graph", "proportional"))
    assert rule.with_keep(0.5).nested == rule.nested


@pytest.mark.parametrize("options", [{}, {"theta": 0.3}, {"theta": 0.3, "alpha": 1.0, "pivot_ratio": 0.0}], ids=str)
def test_the_graph_is_d2pruners(options):
    for seed in range(6):
        for ctx, scores in drawn(seed):
            got = Lookahead(profile=Given({ctx.layout: scores}), rule="graph", **options).select(ctx)
            assert got.indices.tolist() == graph_by_loop(ctx, scores, ctx.budget, **options)
            same = D2Pruner(debias="none", **options).select(replace(ctx, attention=scores[None, None]))
            assert torch.equal(got.indices, same.indices) and got.info == same.info


def test_mmr_is_that_of_the_relevance():
    for ctx, scores in drawn(3):
        got = Lookahead(profile=Given({ctx.layout: scores}), rule="mmr", lam=0.3).select(ctx)
        (order,) = mmr_orders([ctx.features], [ctx.budget], [scores], lam=0.3)
        assert torch.equal(got.indices, order.sort().values) and torch.equal(got.scores, scores)


@RULES
def test_keeping_all_changes_nothing(options):
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 3)
    want = vlm.forward(enc)
    with prune(vlm, Lookahead(keep=1.0, profile=Serves(), **options), 0) as state:
        got = vlm.forward(enc)
    assert torch.equal(want.logits, got.logits)
    assert [s.indices.tolist() for s in state.selections] == [list(range(x.n)) for x in enc.layouts]


def test_rules_are_spelled_in_one_word():
    for word in ("lookahead", "lookahead:power=2.0", "lookahead:gamma=0.5:rule=diverse",
                 "lookahead:rule=top", "lookahead:rule=mmr", "lookahead:rule=mmr:lam=0.7",
                 "lookahead:rule=graph", "lookahead:rule=graph:theta=0.7"):  # fmt: skip
        method = parse(word)
        assert method.label == word and parse(method.label).options_hash == method.options_hash
    assert parse("lookahead:rule=mmr:lam=0.5").label == "lookahead:rule=mmr"  # a default written out is the default


# -- in the engine -----------------------------------------------------------------------------------------------
@FAMILIES
def test_it_is_handed_what_enters_the_layer(family):
    """Of a padded batch, each image's own tokens and each prompt's own question."""
    vlm = tiny.vlm(family)
    layer = lowest_prune_layer(vlm.model.config, vlm.family)
    enc, seen, asked = tiny.encoded(vlm, 3), {}, []

    class Asked(Foresees):
        def check(self, **use):
            assert use["layer"] == layer

        def relevance(self, visual, text, layout, *, position=False):
            asked.append((visual, text, layout))
            return super().relevance(visual, text, layout, position=position)

    module = vlm.decoder.layers[layer]
    hook = module.register_forward_pre_hook(
        lambda m, args, kwargs: seen.update(h=args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    vlm.forward(enc)
    hook.remove()
    with prune(vlm, Lookahead(keep=0.3, profile=Asked()), layer) as state:
        vlm.forward(enc)
    ids, mask = enc.inputs["input_ids"], enc.inputs["attention_mask"]
    assert len(asked) == 3 and mask.min() == 0
    for i, (visual, text, layout) in enumerate(asked):
        assert layout == enc.layouts[i]
        assert torch.equal(visual, seen["h"][i, enc.visual[i, enc.visual_mask[i]]])
        last = int(torch.where(ids[i] == vlm.image_token_id)[0][-1])
        assert torch.equal(text, seen["h"][i, last + 1 :]) and mask[i, last + 1 :].all()
        assert torch.equal(state.selections[i].scores, Foresees().relevance(visual, text, layout))


def ahead(vlm, folder, images=12):
    maps = collect(
        vlm, tiny.images(images), prompt=tiny.texts(images), queries="answer", heads="all", features=True,
        out=folder / "maps", progress=False,
    )  # fmt: skip
    # random weights look at nothing: heads are named
    return LookaheadProfile(rank=8, epochs=2, heads=[(3, 0), (2, 1)]).fit(maps)


@pytest.mark.slow
@FAMILIES
def test_fitted_saved_loaded_and_pruned_with(family, tmp_path):
    vlm = tiny.vlm(family)
    ahead(vlm, tmp_path).save(tmp_path / "la")
    profile = load(tmp_path / "la.safetensors")
    layer = lowest_prune_layer(vlm.model.config, vlm.family)
    assert profile.layers_ == [layer]
    enc = tiny.encoded(vlm, 2)
    (config,) = configurations("lookahead", 0.4, [3], profile)  # whatever K is asked for
    assert config.layer == layer
    with prune(vlm, config.method, layer) as state:
        run(vlm, enc, steps=3)
    assert [len(s.indices) for s in state.selections] == [max(1, int(0.4 * x.n + 1e-9)) for x in enc.layouts]
    assert all(s.scores.isfinite().all() for s in state.selections)
    with (
        pytest.raises(ProfileMismatchError, match=f"enters layer {layer}, not {layer + 1}"),
        prune(vlm, Lookahead(profile=profile), layer + 1),
    ):
        pass
    other = tiny.vlm(family, heads=8)
    with (
        pytest.raises(ProfileMismatchError, match="with other weights"),
        prune(other, Lookahead(profile=profile), layer),
    ):
        pass


def test_each_method_gets_the_profile_of_its_kind(tmp_path):
    conditional = ahead(tiny.vlm("internvl"), tmp_path)
    positional = MeanProfile().fit(load_maps(tmp_path / "maps"))
    found = configurations(["none", "lookahead", "d2pruner"], [0.2, 0.4], [2, 3], [conditional, positional])
    assert [(c.method and c.method.name, c.layer) for c in found] == [
        (None, None), *[("lookahead", 0)] * 2, *[("d2pruner", 2)] * 2, *[("d2pruner", 3)] * 2
    ]  # fmt: skip
    assert {profile for c in found for profile in c.profiles} == {conditional, positional}
    for methods, profiles, words in [
        (
            "lookahead",
            positional,
            "needs a conditional profile .the one given is of another kind.*--estimator lookahead",
        ),
        ("d2pruner", conditional, "needs a profile .the one given is of another kind"),
        ("lookahead", None, "needs a conditional profile: pass profile="),
        ("d2pruner", [positional, positional, conditional], "needs one profile, 2 are given"),
    ]:
        with pytest.raises(InputError, match=words):
            configurations(methods, 0.2, 2, profiles)


def test_what_it_refuses():
    for options, words in [
        ({"rule": "best"}, "rule must be one of proportional, diverse, top, graph, mmr; got 'best'"),
        ({"rule": "mmr", "lam": 1.5}, "lam must be a number in .0, 1., got 1.5"),
        ({"lam": 0.7}, "lam does nothing without rule=mmr: add it, or leave lam out"),
        ({"rule": "mmr", "gamma": 2}, "gamma does nothing without rule=diverse"),
        ({"rule": "top", "power": 1.0}, "power does nothing without rule=proportional"),
        ({"floor": -1}, "floor must be"),
        ({"rule": "top", "theta": 0.7}, "theta does nothing without rule=graph"),
        ({"rule": "graph", "theta": 2}, "theta must be a number in"),
        ({"rule": "graph", "pivot_ratio": -1}, "pivot_ratio must be a number in"),
        ({"gamma": -1}, "gamma must be"),
        ({"profile": object()}, "needs a conditional profile"),
    ]:
        with pytest.raises(InputError, match=words):
            Lookahead(**options)
    with pytest.raises(InputError, match="needs a profile"):
        Lookahead().validate()
    assert make("lookahead", power=2).label == "lookahead:power=2.0" and not D2Pruner.conditional
    features = torch.from_numpy(np.eye(6, dtype=np.float32))
    ctx = TokenContext(TokenLayout.raster(2, 3, size=(30, 20), family="toy"), 2, features=features)
    with pytest.raises(InputError, match="needs text"):
        Lookahead(profile=Foresees()).select(ctx)


def test_a_sweep_shares_it_with_methods_at_other_layers(tmp_path):
    """At its K = 0 beside others at theirs: every selection and answer is that of one run per configuration."""
    vlm = tiny.vlm("internvl")
    conditional = ahead(vlm, tmp_path)
    found = configurations(["none", "lookahead", "divprune", "fastv"], [0.5, 0.2], 2, conditional)
    numbered = dict(enumerate(found))
    encoded = vlm.vision(tiny.encoded(vlm, 3))
    options = GenerationOptions(max_new_tokens=5)
    assert sorted(shareable(vlm, numbered, options)) == list(numbered)
    shared = {}
    run_shared(vlm, encoded, numbered, options, shared.__setitem__, width=64)
    assert sorted(shared) == list(numbered)
    for i, config in numbered.items():
        plain = run_once(vlm, encoded, config, options)
        assert plain.answers == shared[i].answers
        if config.method is not None:
            for one, other in zip(plain.selections, shared[i].selections, strict=True):
                assert torch.equal(one.indices, other.indices)
