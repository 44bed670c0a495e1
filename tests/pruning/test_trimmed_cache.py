"""The cache below K trimmed behind the prefill, against a recompute in which an answer sees kept tokens alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tiny
import torch
from decoded import recorded
from devices import spread
from pruned import dropped_positions, generate, lowest_layer, method_for, oracle, run, unpadded, words_only
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from biaslab.attention.capture import capture
from biaslab.cost import kv_entries
from biaslab.errors import InputError, UnsupportedError
from biaslab.pruning import Stage, prune
from biaslab.pruning.engine.trimming import check_layers

LAYERS = 6


def build(family="internvl", **options):
    return tiny.vlm(family, layers=LAYERS, **options)


def check(vlm, enc, schedule, positions="original"):
    with prune(vlm, schedule=schedule, positions=positions) as whole:
        full = run(vlm, enc)[1]
        long = whole.kv_lengths()
    with prune(vlm, schedule=schedule, positions=positions, cache="trimmed") as state:
        answer, logits = run(vlm, enc)
        short = state.kv_lengths()
    layers = [stage.layer for stage in state.schedule]
    gone = [dropped_positions(enc, chosen) for chosen in state.stages]
    want = oracle(vlm, enc.inputs, answer, gone, layers, trimmed=True)
    assert (logits - want).abs().max() <= 1e-4
    assert torch.equal(logits[:, 0], full[:, 0]) and (logits - full).abs().max() > 1e-3  # the prefill is the same
    assert short == [long[-1]] * LAYERS and long[0] > long[-1]
    return state


@pytest.mark.parametrize("family", tiny.CROSSED)
def test_equals_a_recompute_in_which_the_answer_sees_kept_tokens(family):
    """Three prompts in one left-padded batch."""
    vlm = build(family)
    check(vlm, tiny.encoded(vlm, 3), [Stage(max(3, lowest_layer(vlm)), "fastv", 0.3)])


@pytest.mark.parametrize(
    "schedule", ["fastv@0.6@2+fastv@0.2@4", "divprune@0.7@0+fastv@0.3@3", "divprune@0.8@0+random@0.5@1+fastv@0.2@5"]
)
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_schedules(schedule, attn):
    vlm = build(attn=attn)
    check(vlm, tiny.encoded(vlm, 3), schedule)
    check(vlm, tiny.encoded(vlm, 1), schedule)  # no mask at all


@pytest.mark.parametrize("schedule", ["fastv@0.6@2+fastv@0.3@4", "divprune@0.7@0+fastv@0.3@3"])
def test_fillers_are_hidden_in_every_layer(schedule):
    vlm = build()
    told = unpadded(vlm)
    with prune(vlm, schedule=schedule, cache="trimmed") as state:
        answer, logits = generate(vlm, told.inputs)
    gone = [dropped_positions(told, chosen) for chosen in state.stages]
    layers = [stage.layer for stage in state.schedule]
    assert len({int(own.sum()) for own in gone[-1]}) == 2
    want = oracle(vlm, told.inputs, answer, gone, layers, trimmed=True)
    assert (logits - want).abs().max() <= 1e-4


def test_several_images_and_beams():
    vlm, pictures = build(), tiny.images(3)
    enc = vlm.encode([pictures[:2], pictures[2:]], tiny.texts(2))
    check(vlm, enc, [Stage(3, method_for("d2pruner"), 0.3)])
    with prune(vlm, method_for("fastv", 0.3), 3, cache="trimmed") as state:
        both = vlm.generate(enc, max_new_tokens=4, num_beams=3)
        assert len(set(state.kv_lengths())) == 1
        assert vlm.generate(vlm.encode([pictures[2:]], tiny.texts(2)[1:]), max_new_tokens=4, num_beams=3) == both[1:]


@pytest.mark.parametrize("family", tiny.QUICK)
def test_keeping_all_changes_nothing(family):
    vlm = build(family)
    enc, layer = tiny.encoded(vlm, 3), max(3, lowest_layer(vlm))
    tokens, plain = run(vlm, enc)
    with prune(vlm, method_for("fastv", 1.0), layer, cache="trimmed"):
        same = run(vlm, enc)
    assert torch.equal(same[0], tokens) and torch.equal(same[1], plain)


def test_several_devices():
    vlm, schedule = build(), "fastv@0.6@2+fastv@0.2@4"
    enc = tiny.encoded(vlm, 3)
    with prune(vlm, schedule=schedule, cache="trimmed"):
        tokens, logits = run(vlm, enc)
    with spread(vlm), prune(vlm, schedule=schedule, cache="trimmed"):
        got = run(vlm, enc)
    assert torch.equal(getattr(got[0], "held", got[0]), tokens)
    torch.testing.assert_close(getattr(got[1], "held", got[1]), logits, atol=1e-4, rtol=0)


def test_before_the_decoder_there_is_nothing_to_trim_and_prompts_without_an_image_pass():
    vlm = build()
    enc = tiny.encoded(vlm, 2)
    with prune(vlm, "divprune", 0, cache="trimmed"):
        trimmed = run(vlm, enc)
    with prune(vlm, "divprune", 0):
        full = run(vlm, enc)
    assert torch.equal(trimmed[1], full[1])
    words = torch.randint(10, 200, (2, 9), generator=torch.Generator().manual_seed(0))
    words = {"input_ids": words, "attention_mask": torch.ones_like(words)}
    plain = generate(vlm, words)
    with prune(vlm, "fastv", 3, cache="trimmed") as state:
        same = generate(vlm, words)
    assert torch.equal(same[1], plain[1]) and state.selections == []


def test_a_later_turn_sees_kept_tokens_and_a_changed_cache_is_refused():
    vlm = build()
    enc = tiny.encoded(vlm, 2)
    question = torch.randint(10, 200, (2, 4), generator=torch.Generator().manual_seed(0))
    real = torch.cat([enc.inputs["attention_mask"], torch.ones_like(question)], 1)
    with prune(vlm, schedule="fastv@0.6@2+fastv@0.3@4", cache="trimmed") as state, torch.no_grad():
        first = vlm.forward(enc, use_cache=True)
        turn = {"input_ids": question, "attention_mask": real, "past_key_values": first.past_key_values}
        second = vlm.model(**turn).logits
        cache = vlm.forward(enc, use_cache=True).past_key_values
        cache.layers[4].crop(-1)
        with pytest.raises(UnsupportedError, match="changed since"):
            vlm.model(**{**turn, "past_key_values": cache})
    gone = [dropped_positions(enc, chosen) for chosen in state.stages]
    want = oracle(vlm, enc.inputs, question, gone, [2, 4], trimmed=True)
    assert (second[:, :-1] - want[:, 1:]).abs().max() <= 1e-4


@pytest.mark.filterwarnings("error:decode=")
@pytest.mark.parametrize("word", ["fastv@0.3@3", "divprune@0.7@0+fastv@0.3@3", "fastv@0.6@2+fastv@0.2@4"])
def test_a_static_step_is_the_dynamic_one(word):
    vlm = build()
    enc = tiny.encoded(vlm, 3)
    tokens, logits, _ = recorded(vlm, enc, word, None, "static", cache="trimmed")
    others, want, _ = recorded(vlm, enc, word, None, "dynamic", cache="trimmed")
    finite = want.isfinite()  # suppressed tokens
    assert torch.equal(tokens, others) and float((logits - want)[finite].abs().max()) <= 1e-5
    full = recorded(vlm, enc, word, None, "static")[1]
    assert float((logits - full)[finite].abs().max()) > 1e-3


def test_remapped_positions_and_what_is_counted():
    vlm = build()
    enc = tiny.encoded(vlm, 1)
    with prune(vlm, method_for("fastv", 0.3), 3, cache="trimmed", positions="remap") as state:
        run(vlm, enc, steps=4)
    n = enc.layouts[0].n
    counted = {"keep_n": len(state.selections[0].indices), "layer": 3, "new_tokens": 4, "cache": "trimmed"}
    assert state.kv_lengths() == kv_entries(vlm.model.config.text_config, n, enc.last + 1 - n, **counted)


def test_rows_of_generated_tokens_are_there_from_k_on():
    vlm = build()
    enc = tiny.encoded(vlm, 2)
    with capture(vlm, [3, 5], queries="generated") as rows, prune(vlm, method_for("fastv", 0.3), 3, cache="trimmed"):
        run(vlm, enc)
    assert rows[3].values.shape[2] == 5
    refused = pytest.raises(UnsupportedError, match="layer 2 has lost tokens")
    with refused, capture(vlm, [2], queries="generated"), prune(vlm, method_for("fastv", 0.3), 3, cache="trimmed"):
        run(vlm, enc)
    with capture(vlm, [2], queries="generated") as rows:  # another prefill, without a block
        run(vlm, enc)
    assert rows[2].values.shape[2] == 5


def test_what_is_refused_before_any_work():
    vlm = build()
    for arguments, error, match in (
        ({"cache": "short"}, InputError, "cache must be 'full' or 'trimmed'"),
        ({"positions": "renumber"}, UnsupportedError, "renumbered positions differ"),
        ({"schedule": "swiftvlm@0.5@1+swiftvlm@0.2@3"}, UnsupportedError, "tokens that come back"),
    ):
        given = {"schedule": "fastv@0.3@3", "cache": "trimmed", **arguments}
        with pytest.raises(error, match=match) as told, prune(vlm, **given):
            pytest.fail("was not refused before any work")
        assert "\n" not in str(told.value)
    windowed = tiny.windowed("fsff", 9)
    with pytest.raises(UnsupportedError, match="sliding_attention"), prune(windowed, "fastv", 2, cache="trimmed"):
        pass
    with prune(windowed, method_for("fastv"), 2):
        run(windowed, tiny.encoded(windowed, 1))
    enc = tiny.encoded(vlm, 1)
    kind = {"max_new_tokens": 2, "do_sample": False, **words_only(vlm)}
    with prune(vlm, method_for("fastv"), 3, cache="trimmed"), vlm.running(enc) as inputs:
        with pytest.raises(UnsupportedError, match="offloaded cache"):
            vlm.model.generate(**inputs, cache_implementation="offloaded", **kind)
        with pytest.raises(UnsupportedError, match="static cache cannot hold"):
            vlm.model.generate(**inputs, cache_implementation="static", **kind)
    for cache, match in (
        (SimpleNamespace(offloading=True, layers=[]), "offloaded"),
        (SimpleNamespace(layers=[DynamicLayer(), DynamicSlidingWindowLayer(9)]), "a DynamicSlidingWindowLayer of"),
    ):
        with pytest.raises(UnsupportedError, match=match):
            check_layers(cache, 2)
