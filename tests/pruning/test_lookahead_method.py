"""Look-ahead pruning: the weighted choice against a loop, what the engine hands it, and every family end to end."""

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
from biaslab.pruning import D2Pruner, Lookahead, TokenContext, make, prune
from biaslab.pruning.algorithms import max_min
from biaslab.pruning.algorithms.max_min import max_min_diverse, max_min_orders

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
        monkeypatch.setattr(max_min, "_CELLS", cells)
        assert max_min_orders([features], [5], weights=[weight])[0].tolist() == [3, 1, 2, 4, 0]


def test_gamma_goes_from_diverse_to_the_best():
    g = torch.Generator().manual_seed(1)
    layout = TokenLayout.raster(6, 8, size=(80, 60), family="toy")
    ctx = TokenContext(layout, 12, features=torch.randn(48, 8, generator=g), text=torch.randn(3, 8, generator=g))
    choose = lambda **options: Lookahead(profile=Foresees(), **options).select(ctx).indices  # noqa: E731
    top = choose(rule="top")
    shares = [len(set(choose(gamma=gamma).tolist()) & set(top.tolist())) for gamma in (0, 1, 4, 50)]
    assert shares == sorted(shares) and shares[0] < shares[-1] == 12
    assert torch.equal(top, choose(rule="top", gamma=0.3))


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
        vlm, tiny.images(images), prompt=tiny.texts(images), heads="all", features=True, out=folder / "maps",
        progress=False,
    )  # fmt: skip
    # random weights look at nothing: heads are named
    return LookaheadProfile(rank=8, epochs=2, heads=[(3, 0), (2, 1)]).fit(maps)


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
    assert {c.profile for c in found if c.profile} == {conditional, positional}
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
        ({"rule": "best"}, "rule must be one of diverse, top"),
        ({"gamma": -1}, "gamma must be"),
        ({"profile": object()}, "needs a conditional profile"),
    ]:
        with pytest.raises(InputError, match=words):
            Lookahead(**options)
    with pytest.raises(InputError, match="needs a profile"):
        Lookahead().validate()
    assert make("lookahead", gamma=2).label == "lookahead:gamma=2.0" and Lookahead.nested and not D2Pruner.conditional
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
