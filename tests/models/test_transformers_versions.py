"""What holds on every transformers version that biaslab admits: `make compat` runs this file under the floor, the pin
and the newest release. What is checked at length on the pinned version is checked shortly here.
"""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import tiny
import torch
import transformers
from eager import eager_attention
from pruned import dropped_positions, lowest_layer, method_for, oracle, run

import biaslab as bl
from biaslab.errors import UnsupportedError
from biaslab.evaluation.configurations import Config
from biaslab.evaluation.run_once import GenerationOptions, run_once
from biaslab.models import transformers_versions as versions
from biaslab.pruning import FastV, budget, prune


@pytest.fixture(params=tiny.FAMILIES)
def vlm(request):
    window = {"sliding_window": None} if request.param == "llava_next" else {}
    return tiny.vlm(request.param, layers=6, **window)


def test_generate(vlm):
    answers = vlm.ask(tiny.images(2), tiny.texts(2), max_new_tokens=3)
    assert len(answers) == 2 and all(isinstance(a, str) for a in answers)


def test_capture_equals_eager(vlm):
    enc = tiny.encoded(vlm, 2)
    tokens, logits = run(vlm, enc)
    with bl.capture(vlm) as rows:
        captured_tokens, captured_logits = run(vlm, enc)
    assert torch.equal(captured_tokens, tokens) and torch.equal(captured_logits, logits)
    for index, attention in enumerate(eager_attention(vlm, enc)):
        for row in range(len(enc)):
            own = enc.visual[row, enc.visual_mask[row]]
            got = rows[index].values[row, :, 0, rows[index].mask[row]]
            assert (got - attention[row, :, enc.last, own]).abs().max() <= 1e-4


def test_keep_all_equals_unpruned(vlm):
    enc = tiny.encoded(vlm, 2)
    tokens, logits = run(vlm, enc)
    with prune(vlm, FastV(keep=1.0), max(2, lowest_layer(vlm))):
        pruned_tokens, pruned_logits = run(vlm, enc)
    assert torch.equal(pruned_tokens, tokens) and torch.equal(pruned_logits, logits)


def test_fastv_equals_masked_recompute(vlm):
    enc, layer = tiny.encoded(vlm, 2), max(2, lowest_layer(vlm))
    with prune(vlm, method_for("fastv", 0.4), layer) as state:
        answer, logits = run(vlm, enc)
    assert [len(s.indices) for s in state.selections] == [budget(0.4, x.n) for x in enc.layouts]
    reference = oracle(vlm, enc.inputs, answer, dropped_positions(enc, state.selections), layer)
    assert (logits - reference).abs().max() <= 1e-4


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_later_turn_under_either_name(name):
    if name == "cache" and versions._minor(transformers.__version__) < (5, 24):
        pytest.skip("this transformers does not know the new name yet")
    vlm = tiny.vlm("internvl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with prune(vlm, FastV(keep=0.3), 2):
            cache = vlm.forward(tiny.encoded(vlm, 1)).past_key_values
            length = cache.get_seq_length(0)
            vlm.model(input_ids=torch.tensor([[10, 11]]), **{name: cache})
            assert cache.get_seq_length(0) == length + 2 and cache.get_seq_length(2) < length


@pytest.mark.parametrize("options", [{"use_cache": False}, {"prompt_lookup_num_tokens": 4}, {"num_beams": 2}], ids=str)
def test_the_prefill_is_known_under_other_ways_to_generate(options):
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 1)
    with bl.capture(vlm) as rows:
        run(vlm, enc, **options)
    for index, attention in enumerate(eager_attention(vlm, enc)):
        own = enc.visual[0, enc.visual_mask[0]]
        assert (rows[index].values[0, :, 0] - attention[0, :, enc.last, own]).abs().max() <= 1e-4
    with prune(vlm, FastV(keep=0.3), 2) as state:
        if "num_beams" in options:
            run(vlm, enc, **options)
            assert len(state.selections) == 1
        else:
            with pytest.raises(UnsupportedError, match=r"drop (use_cache=False|assistant_model)"):
                run(vlm, enc, **options)


def test_evaluate_on_the_grounder(tmp_path):
    scenes = bl.load_dataset("scenes", split="test", n=4)
    results = bl.evaluate(
        bl.load("grounder"), scenes, methods=["none", "fastv"], keep=[0.4], layer=4, out=tmp_path, progress=False
    )
    summary = results.summary()
    assert list(summary["errors"]) == [0, 0] and list(summary["n"]) == [4, 4]


def test_decoding_by_a_static_step(vlm):
    enc, options = tiny.encoded(vlm, 2), {"max_new_tokens": 4, "seed": 0}
    config = Config(FastV(keep=0.3), max(lowest_layer(vlm), 2))
    dynamic = run_once(vlm, enc, config, GenerationOptions(**options))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "decode=")
        static = run_once(vlm, enc, config, GenerationOptions(**options, decode="static"))
    assert static.answers == dynamic.answers


# ---------------------------------------------------------------- a version that nobody has seen
class _Renamed(torch.nn.Module):
    """A layer of a transformers to come."""

    def forward(self, hidden_states, attention_mask=None, rope=None, kv=None, **kwargs):
        return hidden_states


def test_unknown_layer_arguments_name_the_version(monkeypatch):
    monkeypatch.setattr(versions, "_installed", lambda: "5.99.1")
    layer, hidden, cache = _Renamed(), torch.zeros(1, 7, 4), transformers.DynamicCache()
    versions.check_layer_arguments(layer, (hidden,), {"cache": cache, "attention_mask": None}, 7)
    pattern = r"transformers 5\.99\.1 is new to biaslab.*5\.20 to 5\.24.*transformers<5\.25"
    with pytest.raises(UnsupportedError, match="no KV cache under a known name.*kv.*" + pattern) as caught:
        versions.check_layer_arguments(layer, (hidden,), {"kv": cache}, 7)
    assert "use_cache" not in str(caught.value)
    with pytest.raises(UnsupportedError, match="no hidden_states.*" + pattern):
        versions.check_layer_arguments(layer, (), {"cache": cache}, 7)
    with pytest.raises(UnsupportedError, match="given rope as long as the prompt.*" + pattern):
        rope = (torch.zeros(1, 7, 2), torch.zeros(1, 7, 2))
        versions.check_layer_arguments(layer, (hidden,), {"cache": cache, "rope": rope}, 7)
    passed_through = {"cache": cache, "mm_token_type_ids": torch.zeros(1, 7)}
    versions.check_layer_arguments(layer, (hidden,), passed_through, 7)


def test_engine_checks_the_layers_at_the_first_prefill(monkeypatch):
    vlm = tiny.vlm("internvl")
    monkeypatch.setattr(versions, "_CACHE_NAMES", ("kv",))
    expected = pytest.raises(UnsupportedError, match="no KV cache under a known name")
    with prune(vlm, FastV(keep=0.3), 2), expected as error:
        run(vlm, tiny.encoded(vlm, 1))
    assert "use_cache=False" not in str(error.value)


def test_a_newer_minor_warns_once(monkeypatch):
    monkeypatch.setattr(versions, "_installed", lambda: "5.25.0.dev0")
    versions.warn_if_untested.cache_clear()
    with pytest.warns(UserWarning, match=r"5\.25\.0\.dev0 is new to biaslab"):
        tiny.wrap(tiny.build("internvl"), tiny.processor("internvl"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny.wrap(tiny.build("internvl"), tiny.processor("internvl"))
    versions.warn_if_untested.cache_clear()
    monkeypatch.setattr(versions, "_installed", lambda: f"{versions.NEWEST_TESTED}.9")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        versions.warn_if_untested()


def test_what_a_layer_is_given_at_every_step():
    rope, cache = (torch.ones(1), torch.ones(1)), object()
    kwargs = {
        "attention_mask": torch.ones(2),
        "position_embeddings": rope,
        "cache": cache,
        "use_cache": True,
        "x": None,
    }
    assert versions.constant_arguments((0,), kwargs) == {"cache": cache, "use_cache": True, "x": None}
    for args, wrong, why in (
        ((0,), {"steering": torch.ones(1)}, "given steering at"),
        ((0,), {"position_embeddings": None}, "given no cosines and sines"),
        ((0, 1), {}, "given positional arguments"),
    ):
        with pytest.raises(UnsupportedError, match=why):
            versions.constant_arguments(args, {**kwargs, **wrong})


@pytest.mark.parametrize(
    ("parameters", "limit"),
    [
        (None, None),
        ({"rope_type": "default"}, None),
        ({"rope_type": "yarn", "original_max_position_embeddings": 64}, None),
        ({"rope_type": "dynamic", "factor": 2.0}, 512),
        ({"rope_type": "longrope", "original_max_position_embeddings": 64}, 64),
        ({"full_attention": {"rope_type": "default"}, "sliding_attention": {"rope_type": "dynamic"}}, 512),
    ],
    ids=str,
)
def test_a_rotary_embedding_that_changes_with_the_length_has_a_limit(parameters, limit):
    decoder = SimpleNamespace(
        config=SimpleNamespace(rope_parameters=parameters), rotary_emb=SimpleNamespace(original_max_seq_len=512)
    )
    assert versions.rope_limit(decoder) == limit
