"""Where pruning stops: what it refuses and when, and calls that say less than `vlm.generate` does."""

from __future__ import annotations

import pytest
import tiny
import torch
from pruned import FlatProfile, generate, method_for, run

from biaslab.errors import InputError, ProfileMismatchError, UnsupportedError
from biaslab.models.loading import wrap
from biaslab.pruning import METHODS, D2Pruner, FastV, Random, Relative, Uniform, budget, prune
from biaslab.pruning.base import Method


def test_times_are_measured_on_request():
    vlm = tiny.vlm("internvl")
    with prune(vlm, FastV(keep=0.3), 2, timed=True) as state:
        run(vlm, tiny.encoded(vlm, 2))
    assert set(state.times) == {"attention_ms", "select_ms"} and min(state.times.values()) > 0
    with prune(vlm, Random(), 2) as state:
        run(vlm, tiny.encoded(vlm, 2))
    assert state.times == {}


def test_raw_calls_work_where_the_layout_is_known_or_not_needed():
    vlm = tiny.vlm("llava")
    enc = tiny.encoded(vlm, 2)
    with prune(vlm, FastV(keep=0.3), 2) as state:
        want = run(vlm, enc)
        kept = [s.indices.tolist() for s in state.selections]
        got = generate(vlm, dict(enc.inputs))
        assert torch.equal(got[0], want[0]) and [s.indices.tolist() for s in state.selections] == kept
    with prune(vlm, Uniform(keep=0.25), 0) as state:
        generate(vlm, dict(enc.inputs))  # 16 tokens of a square image: one raster
        assert state.selections[0].indices.numel() == 4
    qwen = tiny.vlm("qwen2_5_vl")
    with prune(qwen, Uniform(keep=0.25), 2), pytest.raises(UnsupportedError, match="where the .* tokens lie"):
        generate(qwen, dict(tiny.encoded(qwen, 1).inputs))
    with prune(qwen, FastV(keep=0.25), 2) as state:
        generate(qwen, dict(tiny.encoded(qwen, 1).inputs))
        assert len(state.selections) == 1


def test_profiles_are_asked_once_per_layout_before_work():
    vlm, profile = tiny.vlm("internvl"), FlatProfile()
    enc = tiny.encoded(vlm, 3)
    with prune(vlm, Relative(keep=0.3, profile=profile), 2):
        for _ in range(2):
            run(vlm, enc)
    asked = {"model": "tiny-internvl", "revision": "0", "family": "internvl", "layer": 1, "queries": "last"}
    assert all(asked.items() <= check.items() and check["heads"] == "mean" for check in profile.checks)
    layouts = [check["layout"] for check in profile.checks]
    assert layouts[0] is None and len(layouts) == 1 + len({layout.key for layout in enc.layouts})
    with pytest.raises(ProfileMismatchError), prune(vlm, Relative(keep=0.3, profile=profile), 1):
        pass


class Vague(Method):
    """Asks for attention, and does not tell of which rows."""

    name = "vague"
    needs = frozenset({"attention"})


# -- refusals ------------------------------------------------------------------------------------------------
def refused(vlm, method, layer, match, error=UnsupportedError, **options):
    with pytest.raises(error, match=match), prune(vlm, method, layer, **options):
        pytest.fail("was not refused before any work")


def test_bad_arguments_are_refused():
    vlm = tiny.vlm("internvl")
    for layer in (-5, 4, True, 1.0):  # -1 is the last, None the default: tests/models/test_prune_layer.py
        refused(vlm, Random(), layer, "layer must be", InputError)
    refused(vlm, "fastw", 2, "unknown pruning method", InputError)
    refused(vlm, 0.1, 2, "method must be", InputError)
    refused(vlm, Random(), 2, "positions must be", InputError, positions="new")
    refused(vlm, Relative(), 2, "needs a profile", InputError)
    for name in sorted(n for n, cls in METHODS.items() if "attention" in cls.needs):
        if getattr(cls := METHODS[name], "reads_layer", "previous") == "previous":
            refused(vlm, method_for(name), 0, "at K = 0 there is none")
        else:
            assert cls().attention_layers(0) == (0,)
    refused(vlm, Vague(), 2, "derive its class from AttentionMethod", InputError)
    with prune(vlm, "random", 2):
        refused(vlm, Random(), 2, "already")
    refused(tiny.vlm("qwen2_5_vl"), Random(), 2, "M-RoPE", positions="renumber")


def test_a_method_as_a_word_with_options():
    vlm = tiny.vlm("internvl")
    enc, selections = tiny.encoded(vlm, 2), []
    for method in (
        "d2pruner:keep=0.25:debias=none:pivots_suppress=true",
        D2Pruner(keep=0.25, debias="none", pivots_suppress=True),
    ):
        with prune(vlm, method, 2) as state:
            run(vlm, enc)
        selections.append([s.indices.tolist() for s in state.selections])
    assert selections[0] == selections[1] and state.method.label == "d2pruner:debias=none:pivots_suppress=true"
    refused(vlm, "none", 2, "method must be a pruning method", InputError)


def test_models_that_cannot_be_pruned_are_refused():
    windowed = tiny.vlm("internvl", use_sliding_window=True, sliding_window=8, max_window_layers=2)
    assert windowed.decoder.config.layer_types[1:3] == ["full_attention", "sliding_attention"]
    refused(windowed, Random(), 1, "sliding_attention")
    vlm = tiny.vlm("internvl", layers=2)
    vlm.model.config.vision_config.deepstack_visual_indexes = [0, 1]
    try:
        refused(vlm, Random(), 1, "use K >= 2")
    finally:
        del vlm.model.config.vision_config.deepstack_visual_indexes


def test_uncached_and_static_generation_is_refused():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 1)
    with prune(vlm, FastV(), 2) as state:
        with pytest.raises(UnsupportedError, match="drop use_cache=False"):
            run(vlm, enc, use_cache=False)
        with pytest.raises(UnsupportedError, match="drop use_cache=False"):
            vlm.forward(enc, use_cache=False)
        with pytest.raises(UnsupportedError, match="static cache cannot"):
            run(vlm, enc, cache_implementation="static")
        with pytest.raises(UnsupportedError, match="drop prefill_chunk_size"):
            run(vlm, enc, prefill_chunk_size=8)
        assert state.selections == []
        run(vlm, enc)  # and the block is still usable
        assert len(state.selections) == 1


def test_later_turns_that_cannot_be_right_are_refused():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 1)
    ids = enc.inputs["input_ids"]
    foreign = vlm.forward(enc).past_key_values
    with prune(vlm, Random(keep=0.3), 0), torch.no_grad():
        cache = vlm.forward(enc).past_key_values
        with pytest.raises(UnsupportedError, match="K = 0"):
            vlm.model(input_ids=ids[:, :2], past_key_values=cache)
        with pytest.raises(UnsupportedError, match="generate"):
            vlm.model(input_ids=ids[:, :1], past_key_values=cache)
    with prune(vlm, Random(keep=0.3), 2), torch.no_grad():
        with pytest.raises(UnsupportedError, match="not filled in this prune block"):
            vlm.model(input_ids=ids[:, :1], past_key_values=foreign)
        cache = vlm.forward(enc).past_key_values
        with pytest.raises(UnsupportedError, match="later turn"):
            vlm.model(input_ids=ids, past_key_values=cache)
        talk = vlm.model(input_ids=torch.arange(10, 16)[None]).past_key_values
        with pytest.raises(UnsupportedError, match="later turn"):
            vlm.model(input_ids=ids, past_key_values=talk)
        cache.layers[0].crop(-1)
        with pytest.raises(UnsupportedError, match="changed since"):
            vlm.model(input_ids=ids[:, :1], past_key_values=cache)
        with pytest.raises(UnsupportedError, match="token ids"):
            vlm.model(inputs_embeds=vlm.model.get_input_embeddings()(ids))
        with pytest.raises(UnsupportedError, match="not its decoder"):
            vlm.decoder(input_ids=ids)


def test_bfloat16_is_scored_in_float32():
    half = wrap(tiny.build("internvl").bfloat16(), tiny.processor("internvl"), name="half", revision="0")
    enc = tiny.encoded(half, 2)
    method = method_for("d2pruner", 0.3)
    with prune(half, method, 2) as state:
        run(half, enc)
    for selection, layout in zip(state.selections, enc.layouts, strict=True):
        assert selection.scores.dtype == torch.float32
        assert len(selection.indices) == budget(0.3, layout.n)
