"""Attention of layer K itself: that of the unpruned model, from rows that were projected and never ran."""

from __future__ import annotations

import pytest
import tiny
import torch
from eager import eager_attention
from methods import RASTER, MapProfile, context
from pruned import dropped_positions, oracle, refused, run, serves

from biaslab.attention.capture import capture
from biaslab.errors import InputError, UnsupportedError
from biaslab.models import families
from biaslab.pruning import FastV, LayerRatio, PriorTR, Random, Relative, Stage, parse, prune

VARIANTS = [(family, decoder) for family in tiny.FAMILIES for decoder in families()[family].decoders]
KINDS = ("last", "text", "null")


def pairs():
    """Every family and decoder with one kind of rows at two K, its first included."""
    for i, (family, text) in enumerate(VARIANTS):
        for j, layer in enumerate((0, 2)):
            yield tiny.quick(family, text, layer, KINDS[(i + j) % 3])


@pytest.mark.parametrize(("family", "text", "layer", "queries"), list(pairs()))
def test_it_is_the_attention_of_layer_k_in_the_unpruned_model(family, text, layer, queries):
    """Against transformers' own eager maps, and under pruning against masked recomputation."""
    window = {"sliding_window": None} if text == "mistral" else {}
    vlm = tiny.vlm(family, text=text, heads=8, kv=2, **window)
    if family == "paligemma":
        queries = "last"
    if refused(vlm, layer):
        layer = 3
    enc = tiny.encoded(vlm, 3)
    method = FastV(keep=0.4, queries=queries, reads_layer="own")
    with prune(vlm, method, layer) as state:
        answer, logits = run(vlm, enc, steps=3)
    maps = eager_attention(vlm, enc)[layer]
    with capture(vlm, [layer], queries="text") as rows:
        vlm.forward(enc)
    for row, (selection, layout) in enumerate(zip(state.selections, enc.layouts, strict=True)):
        own = enc.visual[row, : layout.n]
        first = enc.inputs["input_ids"][row].eq(vlm.image_token_id).nonzero().max() + 1
        asked = {"last": [enc.last], "null": [int(first)], "text": range(int(first), enc.last + 1)}[queries]
        want = maps[row, :, list(asked)][..., own].mean((0, 1))
        assert want.sum() > 1e-4
        torch.testing.assert_close(selection.scores, want, atol=1e-4, rtol=0)
        captured = rows[layer].values[row, :, rows[layer].query_mask[row]][..., : layout.n]
        part = {"last": captured[:, -1:], "null": captured[:, :1], "text": captured}[queries]
        torch.testing.assert_close(selection.scores, part.mean((0, 1)), atol=1e-5, rtol=0)
    want = oracle(vlm, enc.inputs, answer, dropped_positions(enc, state.selections), layer)
    assert (logits - want).abs().max() <= 1e-4


@pytest.mark.parametrize("score", ["attention", "no_rope", "value_norm"])
@pytest.mark.parametrize("layer", [0, 2])
def test_every_score_of_it(score, layer):
    vlm = tiny.vlm("qwen2_5_vl")
    enc = tiny.encoded(vlm, 2)
    with prune(vlm, FastV(keep=0.4, score=score, reads_layer="own"), layer) as state:
        vlm.forward(enc)
    with capture(vlm, [layer], score=score) as rows:
        vlm.forward(enc)
    for row, selection in enumerate(state.selections):
        n = enc.layouts[row].n
        torch.testing.assert_close(selection.scores, rows[layer].values[row, :, 0, :n].mean(0), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_layers_below_k_may_have_a_window(attn):
    vlm = tiny.windowed("ssff", attn=attn)
    enc = tiny.encoded(vlm, 2)
    with prune(vlm, FastV(keep=0.4, reads_layer="own"), 2) as state:
        run(vlm, enc)
    maps = eager_attention(vlm, enc)[2] if attn == "sdpa" else vlm.forward(enc, output_attentions=True).attentions[2]
    for row, selection in enumerate(state.selections):
        want = maps[row, :, enc.last, enc.visual[row, : enc.layouts[row].n]].mean(0)
        torch.testing.assert_close(selection.scores, want, atol=1e-4, rtol=0)


def test_keeping_all_at_the_first_layer_changes_nothing():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 3)
    tokens, plain = run(vlm, enc)
    for layer in (0, 2):
        with prune(vlm, PriorTR(keep=1.0, reads_layer="own"), layer):
            same, logits = run(vlm, enc)
        assert torch.equal(same, tokens) and (logits - plain).abs().max() == 0


def test_capture_hears_the_layer_once():
    """Under pruning a recorder of layer K has the rows of what is left, not of the projection."""
    vlm, layer = tiny.vlm("internvl"), 2
    enc = tiny.encoded(vlm, 2)
    with capture(vlm, [layer]) as rows, prune(vlm, FastV(keep=0.3, reads_layer="own"), layer) as state:
        vlm.forward(enc)
    for row, selection in enumerate(state.selections):
        assert rows[layer].kept[row, rows[layer].mask[row]].tolist() == selection.indices.tolist()


def test_profiles_and_ratios_follow_the_layer():
    profile = MapProfile(torch.ones(1, RASTER.n))
    for reads, layer in (("previous", 1), ("own", 2)):
        method = Relative(profile=profile, reads_layer=reads)
        assert method.fits(2, 4)["layer"] == layer
        method.select(context(RASTER, 0.2))
        assert profile.asked.pop() == (RASTER.key, layer)
    assert LayerRatio(reads_layer="own", over=1).attention_layers(2) == (2, 1)
    with pytest.raises(InputError, match="must lie below layer K = 2: use K >= 3"):
        LayerRatio(reads_layer="own", over=2).attention_layers(2)
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 2)
    with capture(vlm, [1, 2]) as rows, prune(vlm, LayerRatio(reads_layer="own", over=1, keep=1.0), 2) as state:
        vlm.forward(enc)
    for row, selection in enumerate(state.selections):
        n = enc.layouts[row].n
        deep, shallow = (rows[i].values[row, :, 0, :n].mean(0) for i in (2, 1))
        torch.testing.assert_close(selection.scores, deep / (shallow + 1e-7), atol=0, rtol=1e-4)


def test_as_an_option():
    assert FastV().options_hash == FastV(reads_layer="previous").options_hash != FastV(reads_layer="own").options_hash
    assert parse("fastv:reads_layer=own").label == "fastv:reads_layer=own" and "reads_layer" not in FastV().options()
    with pytest.raises(InputError, match="reads_layer must be one of previous, own"):
        FastV(reads_layer="next")
    vlm = tiny.vlm("internvl")
    assert serves(vlm, FastV(reads_layer="own"), 0)
    why = "at K = 0 there is none, use K >= 1 or the option reads_layer=own"
    with pytest.raises(UnsupportedError, match=why), prune(vlm, FastV(), 0):
        pytest.fail("was not refused before any work")


@pytest.mark.parametrize("family", ["internvl", pytest.param("qwen2_5_vl", marks=pytest.mark.slow)])
@pytest.mark.parametrize("first", [0, 1])
def test_a_later_stage_reads_what_is_left(family, first):
    """Behind a cut, the rows of layer K are those of a run with the first cut alone, row by row, padded."""
    vlm, layer = tiny.vlm(family), 3
    enc = tiny.encoded(vlm, 3)
    one, whole = Stage(first, Random(), 0.6), {"score": "no_rope", "reads_layer": "own"}
    with capture(vlm, [layer], score="no_rope", queries="text") as rows, prune(vlm, schedule=[one]):
        vlm.forward(enc)
    for queries in ("last", "null", "text"):
        stages = [one, Stage(layer, FastV(queries=queries, **whole), 0.3)]
        with prune(vlm, schedule=stages) as state:
            vlm.forward(enc)
        for row, (left, chosen) in enumerate(zip(*state.stages, strict=True)):
            heard = rows[layer].values[row, :, rows[layer].query_mask[row]][..., rows[layer].mask[row]]
            part = {"last": heard[:, -1:], "null": heard[:, :1], "text": heard}[queries].mean((0, 1))
            assert rows[layer].kept[row, rows[layer].mask[row]].tolist() == left.indices.tolist()
            want = left.indices[part.sort(descending=True, stable=True).indices[: len(chosen.indices)]].sort().values
            assert chosen.indices.tolist() == want.tolist()
