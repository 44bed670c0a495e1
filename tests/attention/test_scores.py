"""Scores by name against slow references, in capture, in maps and profiles, and in the methods that read them."""

from __future__ import annotations

import math
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import tiny
import torch
from devices import spread
from eager import assert_rows_equal, eager_attention, text_after
from methods import RASTER, TILED, context
from pruned import run

from biaslab.attention.capture import capture, no_rope
from biaslab.attention.hook import attention_rows
from biaslab.attention.scores import SCORES, reads_rope, resolve, rope_corrected, score_name, value_norm
from biaslab.errors import InputError, ProfileMismatchError, UnsupportedError
from biaslab.maps.collect import collect
from biaslab.models.loading import wrap
from biaslab.profiles import MeanProfile
from biaslab.pruning import D2Pruner, FastV, LayerRatio, Relative, budget, make, parse, prune

FAMILIES = pytest.mark.parametrize("family", tiny.CROSSED)
NAMES = pytest.mark.parametrize("name", sorted(SCORES))
LAYER = 3  # K: layer 2 is read, and below it 0 and 1


@contextmanager
def hidden_states(vlm, layer):
    """What enters the attention of a layer: filled in by a forward."""
    found = {}
    handle = vlm.decoder.layers[layer].self_attn.register_forward_pre_hook(
        lambda m, a, kw: found.update(hidden=kw["hidden_states"]), with_kwargs=True
    )
    try:
        yield found
    finally:
        handle.remove()


# ------------------------------------------------------------------------------------------ the scores
def test_value_norm_against_a_loop():
    """Head by head in float64; half precision loses nothing beyond its own rounding of the inputs."""
    g = torch.Generator().manual_seed(0)
    for kv in (1, 2, 4):
        q, k, v = (torch.randn(2, h, 9, d, generator=g).bfloat16() for h, d in ((4, 8), (kv, 8), (kv, 6)))
        rows, cols = torch.tensor([[8, 5], [3, 8]]), torch.tensor([[0, 2, 4], [1, 2, 3]])
        got = value_norm(q, k, v, None, None, rows=rows, cols=cols, scaling=0.4, is_causal=True)
        assert got.dtype == torch.float32
        for b in range(2):
            for h in range(4):
                group = h * kv // 4
                for i, r in enumerate(rows[b].tolist()):
                    weights = (q[b, h, r].double() @ k[b, group, : r + 1].double().T * 0.4).softmax(-1)
                    for j, c in enumerate(cols[b].tolist()):
                        length = sum(x.double() ** 2 for x in v[b, group, c]) ** 0.5
                        want = weights[c] * length if c <= r else 0.0
                        assert abs(got[b, h, i, j] - want) < 1e-5


@FAMILIES
def test_value_norm_is_eager_attention_times_the_norm_of_the_projected_value(family):
    vlm, layer = tiny.vlm(family), 2
    enc = tiny.encoded(vlm, 3)
    module = vlm.decoder.layers[layer].self_attn
    with hidden_states(vlm, layer) as found, capture(vlm, [layer], queries="text", score="value_norm") as rows:
        logits = vlm.forward(enc).logits
    assert torch.equal(logits, vlm.forward(enc).logits)
    attention = eager_attention(vlm, enc)[layer]
    values = module.v_proj(found["hidden"]).unflatten(-1, (-1, module.head_dim))  # (B, N, Hkv, D)
    groups = attention.shape[1] // values.shape[2]
    assert groups == 2
    norms = torch.stack([values[:, :, h // groups].norm(dim=-1) for h in range(attention.shape[1])], 1)
    where = (*text_after(vlm, enc), enc.visual, enc.visual_mask)
    assert_rows_equal(rows[layer], attention * norms[:, :, None], *where, tolerance=1e-5 * norms.max().item())
    assert norms.std() > 0.05 * norms.mean(), "the norms make a difference"


@NAMES
def test_a_name_is_its_callable(name):
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 2)
    with capture(vlm, [1, 3], queries="text", score=name) as rows:
        vlm.forward(enc)
    with (
        capture(vlm, [1, 3], queries="text", score=SCORES[name]) as same,
        capture(vlm, [1, 3], queries="text") as plain,
    ):
        vlm.forward(enc)
    for layer in (1, 3):
        assert torch.equal(rows[layer].values, same[layer].values)
        assert torch.equal(rows[layer].values, plain[layer].values) == (name == "attention")


def test_the_rotation_is_taken_from_the_wanted_rows_only():
    """The rows are those of a rotation undone everywhere; shared positions and rows too."""
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 4, 12, 8, generator=g), torch.randn(2, 2, 12, 8, generator=g)
    angle = torch.outer(torch.arange(12.0), torch.tensor([1.0, 0.3, 0.1, 0.02])).repeat(1, 2)
    cos, sin = angle.cos()[None], angle.sin()[None]

    def turn(x):
        return x * cos[:, None] + torch.cat([-x[..., 4:], x[..., :4]], -1) * sin[:, None]

    rows, cols = torch.tensor([[11, 4, 7], [5, 11, 3]]), torch.tensor([[0, 2, 9], [3, 8, 5]])
    got = no_rope(turn(q), turn(k), k, cos, sin, rows=rows, cols=cols, scaling=0.4)
    assert (got - attention_rows(q, k, rows, scaling=0.4, attention_mask=None, cols=cols)).abs().max() < 1e-5
    late = no_rope(turn(q)[:, :, 3:], turn(k), k, cos, sin, rows=rows - 3, cols=cols, scaling=0.4)  # the last queries
    assert (late - got).abs().max() < 1e-6 and late.abs().max() > 0.1
    with pytest.raises(UnsupportedError, match="positions of all keys"):
        no_rope(turn(q), turn(k), k, cos[:, 3:], sin[:, 3:], rows=rows - 3, cols=cols, scaling=0.4)
    shared = no_rope(turn(q), turn(k), k, cos, sin, rows=torch.tensor([11]), cols=cols, scaling=0.4)
    assert torch.equal(shared, no_rope(turn(q), turn(k), k, cos, sin, rows=rows[[0, 0]][:, :1], cols=cols, scaling=0.4))


def test_unknown_scores_are_refused_by_name():
    vlm = tiny.vlm("internvl")
    for wrong in ("cosine", 3, None):
        with pytest.raises(InputError, match="attention, no_rope, value_norm"):
            resolve(wrong)
        with pytest.raises(InputError, match="attention, no_rope, value_norm"):
            FastV(score=wrong)
    with pytest.raises(InputError, match="score must be one of"):
        FastV(score=["no_rope"])
    with pytest.raises(InputError, match="value_norm"), capture(vlm, score="cosine"):
        pytest.fail("not reached")
    untouched = (pytest.fail("was read") for _ in range(1))
    with pytest.raises(InputError, match="value_norm"):
        collect(vlm, untouched, score="cosine", progress=False)


def two(query, key): ...
def no_options(query, key, value, cos, sin, *, rows, cols, scaling, attention_mask): ...
def other_names(q, k, v, c, s, *, where, **options): ...


@pytest.mark.parametrize("wrong", [two, no_options, other_names, lambda: None, max, torch.softmax, int])
def test_a_callable_that_is_no_score_is_refused_before_any_work(wrong):
    vlm = tiny.vlm("internvl")
    untouched = (pytest.fail("was read") for _ in range(1))
    entered = lambda: capture(vlm, score=wrong).__enter__()  # noqa: E731
    for work in (lambda: resolve(wrong), entered, lambda: collect(vlm, untouched, score=wrong, progress=False)):
        with pytest.raises(InputError, match="cannot be called as a score is .* define it as score") as caught:
            work()
        assert "\n" not in str(caught.value)


def rows_by(query, key, value, cos, sin, *, rows, cols, scaling, attention_mask, is_causal, sliding_window, softcap):
    return attention_rows(query, key, rows, scaling=scaling, attention_mask=attention_mask, cols=cols)


class Scorer:
    def __call__(self, query, key, *more, rows, cols, **options):
        return rows_by(query, key, *more, rows=rows, cols=cols, **options)


@pytest.mark.parametrize("score", [rows_by, Scorer(), partial(rows_by), lambda *a, **kw: rows_by(*a, **kw)])
def test_a_callable_of_any_kind_is_a_score(score):
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 2)
    with capture(vlm, [2], queries="text") as plain, capture(vlm, [2], queries="text", score=score) as own:
        vlm.forward(enc)
    assert torch.equal(own[2].values, plain[2].values)
    assert reads_rope(resolve(score)) and score_name(score) not in SCORES


@pytest.mark.parametrize("value", [None, 0.5, np.zeros(3), torch.zeros(3), torch.zeros(1, 1, 1, 1)])
def test_a_score_that_returns_something_else_is_named(value):
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 2)

    def mine(*tensors, **options):
        return value

    said = r"score 'mine' must return a tensor .* \(2, 4, 1, 12\); got"
    with pytest.raises(InputError, match=said), capture(vlm, [2], score=mine):
        vlm.forward(enc)


@pytest.mark.parametrize(("name", "hooks"), [("attention", 0), ("value_norm", 0), ("no_rope", 1)])
def test_the_rotation_is_watched_only_where_it_is_read(name, hooks):
    vlm, where = tiny.vlm("internvl"), tiny.vlm("internvl").decoder.layers[2].self_attn
    with capture(vlm, [2], score=name):
        assert len(where._forward_pre_hooks) == hooks
    with prune(vlm, FastV(score=name), LAYER):
        assert len(where._forward_pre_hooks) == hooks
    assert reads_rope(lambda *_: None)


# ------------------------------------------------------------------------------------------ maps and profiles
@pytest.mark.parametrize("name", ["no_rope", "value_norm"])
def test_maps_remember_their_score(name, tmp_path):
    vlm, images = tiny.vlm("internvl"), tiny.images(2, sizes=[(60, 60)])
    by_name = collect(vlm, images, layers=1, score=name, out=tmp_path / "maps", progress=False)
    by_callable = collect(vlm, images, layers=1, score=SCORES[name], progress=False)
    assert by_name.provenance["score"] == by_callable.provenance["score"] == name
    key = next(iter(by_name.layouts))
    np.testing.assert_allclose(by_name.moments(1, key).mean, by_callable.moments(1, key).mean, rtol=1e-6)
    assert MeanProfile().fit(by_name).provenance_["score"] == name


def test_a_callable_cannot_pass_for_another_score():
    def value_norm(*args, **kw):
        raise NotImplementedError

    assert score_name(value_norm) != "value_norm" and score_name(value_norm).endswith(".value_norm")
    assert score_name(no_rope) == "no_rope" and score_name("attention") == "attention"


def test_a_profile_serves_methods_that_read_its_score():
    vlm = tiny.vlm("internvl")
    images = tiny.images(4, sizes=[(112, 56)])
    fits = {name: MeanProfile().fit(collect(vlm, images, layers=1, score=name, progress=False)) for name in SCORES}
    enc = vlm.encode(images[:2], tiny.texts(2))
    for fitted, profile in fits.items():
        for name in SCORES:
            for cls in (Relative, D2Pruner):
                method = cls(keep=0.3, profile=profile, score=name)
                if name != fitted:
                    with pytest.raises(ProfileMismatchError, match=f"score '{fitted}'"), prune(vlm, method, 2):
                        pytest.fail("not reached")
                    continue
                with prune(vlm, method, 2) as state, capture(vlm, [1], heads="mean", score=name) as rows:
                    vlm.forward(enc)
                for b, (selection, layout) in enumerate(zip(state.selections, enc.layouts, strict=True)):
                    want = rows[1].values[b, 0, 0, : layout.n] / (profile.expected(layout, 1)[0] + 1e-7)
                    torch.testing.assert_close(selection.scores, want, rtol=1e-5, atol=0)


# ------------------------------------------------------------------------------------------ methods in a model
def several(vlm):
    """Two prompts of unequal length, with two images and one."""
    pictures = tiny.images(3, seed=3)
    return vlm.encode([pictures[:2], [pictures[2]]], tiny.texts(2), sample_ids=["a", "b"])


def best(scores, n):
    """The n highest, ascending, by a plain sort."""
    return sorted(sorted(range(len(scores)), key=lambda i: (-scores[i].item(), i))[:n])


def captured(vlm, enc, name, layer, queries="last"):
    """Head-mean score of every image at a layer, query rows averaged: [(N,)]."""
    with capture(vlm, [layer], queries=queries, score=name) as rows:
        vlm.forward(enc)
    r, out = rows[layer], []
    for owner, (first, last) in zip(enc.owners, enc.spans, strict=True):
        out.append(r.values[owner, :, r.query_mask[owner], first:last].mean((0, 1)))
    return out


@FAMILIES
@NAMES
def test_fastv_keeps_the_best_of_the_score_it_reads(family, name):
    vlm = tiny.vlm(family)
    for enc in (tiny.encoded(vlm, 3), several(vlm)):
        want = captured(vlm, enc, name, LAYER - 1)
        with prune(vlm, FastV(keep=0.3, score=name), LAYER) as state:
            vlm.forward(enc)
        for selection, scores in zip(state.selections, want, strict=True):
            torch.testing.assert_close(selection.scores, scores, rtol=1e-5, atol=1e-9)
            assert selection.indices.tolist() == best(scores, budget(0.3, len(scores)))


@FAMILIES
@pytest.mark.parametrize(("over", "name"), [(0, "attention"), (1, "attention"), (0, "value_norm"), (1, "no_rope")])
def test_layer_ratio_keeps_the_best_of_the_captured_ratio(family, over, name):
    vlm, differ = tiny.vlm(family), 0
    for enc in (tiny.encoded(vlm, 3), several(vlm)):
        deep, shallow = (captured(vlm, enc, name, layer, "text") for layer in (LAYER - 1, over))
        with prune(vlm, LayerRatio(keep=0.3, over=over, score=name, queries="text"), LAYER) as state:
            vlm.forward(enc)
        for selection, a, b in zip(state.selections, deep, shallow, strict=True):
            torch.testing.assert_close(selection.scores, a / (b + 1e-7), rtol=1e-4, atol=1e-6)
            n = budget(0.3, len(a))
            assert selection.indices.tolist() == best(a / (b + 1e-7), n)
            differ += best(a / (b + 1e-7), n) != best(a, n)
    assert differ > 0, "the shallow layer makes a difference"


METHODS = [FastV(keep=0.3, score="value_norm"), LayerRatio(keep=0.3, over=1, score="no_rope"), LayerRatio(keep=0.3)]


@FAMILIES
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.label)
def test_a_sample_does_not_depend_on_its_batch_mates(family, method):
    vlm = tiny.vlm(family)
    pictures, questions = tiny.images(3), tiny.texts(3)
    with prune(vlm, method, LAYER) as state:
        tokens, logits = run(vlm, vlm.encode(pictures, questions))
        together = [s.indices.tolist() for s in state.selections]
        for i in range(3):
            alone = run(vlm, vlm.encode(pictures[i : i + 1], questions[i : i + 1]))
            assert state.selections[0].indices.tolist() == together[i]
            assert torch.equal(alone[0][0], tokens[i]) and (alone[1][0] - logits[i]).abs().max() < 1e-4


@FAMILIES
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.label)
def test_layers_that_are_read_may_lie_on_other_devices(family, method):
    vlm = tiny.vlm(family)
    enc = tiny.encoded(vlm, 3)
    with prune(vlm, method, LAYER) as state:
        tokens, _ = run(vlm, enc)
        kept = [s.indices.tolist() for s in state.selections]
    with spread(vlm) as devices, prune(vlm, method, LAYER) as state:
        got, _ = run(vlm, enc)
        assert [s.indices.tolist() for s in state.selections] == kept
    assert len({devices[0], devices[LAYER - 1], devices[LAYER]}) == 3
    assert torch.equal(getattr(got, "held", got), tokens)


def test_bfloat16_is_scored_in_float32():
    half = wrap(tiny.build("internvl").bfloat16(), tiny.processor("internvl"), name="half", revision="0")
    enc = tiny.encoded(half, 2)
    for method in METHODS:
        with prune(half, method, LAYER, timed=True) as state:
            run(half, enc)
        for selection, layout in zip(state.selections, enc.layouts, strict=True):
            assert selection.scores.dtype == torch.float32 and bool(torch.isfinite(selection.scores).all())
            assert len(selection.indices) == budget(0.3, layout.n)
        assert set(state.times) == {"attention_ms", "select_ms"}


# ------------------------------------------------------------------------------------------ options
def test_layer_ratio_is_a_quotient_of_means():
    ctx = context(TILED, 0.2)
    deep, shallow = (x.mean((0, 1)) for x in (ctx.attention, ctx.earlier[0]))
    torch.testing.assert_close(LayerRatio(eps=0.01).importance(ctx), deep / (shallow + 0.01))
    assert LayerRatio().attention_layers(2) == (1, 0) and FastV().attention_layers(2) == (1,)


def test_layer_ratio_names_a_layer_below_the_one_it_divides():
    vlm = tiny.vlm("internvl")
    for over, layer, fix in ((0, 1, "use K >= 2"), (1, 2, "use K >= 3 or a smaller over"), (7, 3, "use K >= 9")):
        method = LayerRatio(over=over)
        with pytest.raises(InputError, match=fix), prune(vlm, method, layer):
            pytest.fail("was not refused before any work")
    for wrong in (-1, 0.5, True, "one", None):
        with pytest.raises(InputError, match="over must be"):
            LayerRatio(over=wrong)
    with pytest.raises(InputError, match="eps"):
        LayerRatio(eps=0)
    with pytest.raises(InputError, match="needs attention of layer 0"):
        LayerRatio().select(context(RASTER, 0.1, earlier={1: torch.ones(3, 2, RASTER.n)}))
    with pytest.raises(InputError, match="layer 0 does not fit"):
        LayerRatio().select(context(RASTER, 0.1, earlier={0: torch.ones(3, 2, RASTER.n - 1)}))


def test_options_are_written_and_read():
    for text in ("fastv:score=no_rope", "layer_ratio:over=1", "layer_ratio:score=value_norm:over=2"):
        method = parse(text)
        assert method.label == text and parse(method.label).options_hash == method.options_hash
    assert LayerRatio(over=1.0).options_hash == LayerRatio(over=1).options_hash != LayerRatio().options_hash
    assert FastV(score="no_rope").options_hash != FastV().options_hash == FastV(score="attention").options_hash


def test_hashes_of_older_runs_stay():
    """Run folders resume by these: options that came later must not show in them."""
    known = {
        "fastv": "4d04b5a6f8d0",
        "fastv:queries=text": "36b8e1a2c31a",
        "relative": "1b9a4b0856f9",
        "relative:debias=none": "13ad50254dcd",
        "relative:strength=0.5": "4ffa11f6d943",
        "d2pruner": "28a56f93c8e1",
        "random": "7440a417cc54",
        "divprune": "728f77db537b",
    }
    assert {text: parse(text).options_hash for text in known} == known
    assert make("fastv").options() == {"queries": "last"}
    assert parse("relative:strength=1").label == "relative"


def test_rope_corrected_is_softmax_of_logits_less_those_of_ones():
    """By loops over heads, rows and keys, in a partly turned head with grouped keys, a window and padding."""
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 4, 9, 10, generator=g), torch.randn(2, 2, 9, 10, generator=g)
    angle = torch.outer(torch.arange(9.0), torch.tensor([1.0, 0.3, 0.1, 0.02])).repeat(1, 2)
    cos, sin = angle.cos()[None], angle.sin()[None]
    ones = torch.ones(4)
    turned = torch.stack([torch.cat([c[:4] * ones - s[:4] * ones, c[4:] * ones + s[4:] * ones, torch.ones(2)])
                          for c, s in zip(cos[0], sin[0], strict=True)])  # fmt: skip
    rows, cols = torch.tensor([[8, 4], [5, 8]]), torch.tensor([[0, 2, 4], [1, 3, 5]])
    padding = torch.ones(2, 9, dtype=torch.bool)
    padding[1, 0] = False
    got = rope_corrected(
        q, k, k, cos, sin, rows=rows, cols=cols, scaling=0.4, attention_mask=padding, sliding_window=6, max_scores=1
    )
    for b in range(2):
        for h in range(4):
            for i, at in enumerate(rows[b].tolist()):
                keys = [j for j in range(9) if j <= at and j > at - 6 and padding[b, j]]
                logits = {j: 0.4 * float(q[b, h, at] @ k[b, h // 2, j] - turned[at] @ turned[j]) for j in keys}
                total = sum(math.exp(x) for x in logits.values())
                for n, j in enumerate(cols[b].tolist()):
                    want = math.exp(logits[j]) / total if j in logits else 0.0
                    assert abs(float(got[b, h, i, n]) - want) < 1e-5
    with pytest.raises(UnsupportedError, match="positions of all keys"):
        rope_corrected(q, k, k, cos[:, 3:], sin[:, 3:], rows=rows, cols=cols, scaling=0.4)
