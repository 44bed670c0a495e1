"""Every way to generate: rows of the last prompt token and the selection of the plain greedy run, or a refusal.

The table of `docs/generation-modes.md` has the rows of `MODES`, word for word.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from eager import eager_attention
from transformers import CompileConfig, DynamicCache, GenerationConfig, StaticCache, WatermarkingConfig

from biaslab.attention.capture import capture
from biaslab.errors import UnsupportedError
from biaslab.pruning import FastV, budget, prune

RIGHT = "right"
LAYER, KEEP = 2, 0.4
DOC = Path(__file__).parents[2] / "docs" / "generation-modes.md"


@dataclass(frozen=True)
class Mode:
    """A way to generate; ``capture`` and ``prune`` are "right" or what the refusal says."""

    name: str
    capture: str
    prune: str
    options: Any = None  # of generate; a function where they have to be made anew
    batch: int = 1

    def made(self) -> dict[str, Any]:
        return dict(self.options() if callable(self.options) else self.options or {})


UNCACHED = "every step would be a new prefill with a new selection: drop use_cache=False"
STATIC = "cannot hold layers of different lengths"
ASSISTED = "would prune its candidates along with the prompt"
REMOTE = "is no part of transformers but code from elsewhere"
CONTINUOUS = "packs prompts together"
GUIDED = "mixes in a second prompt, which is not pruned"
EARLY = "transformers cannot leave a multimodal model early"
CHUNKED = "has no single forward"
EMBEDS = "hide where the image is: give input_ids"
HEALED = "rewrites the end of the prompt"
HELPER = "runs as the assistant of another"
ELSEWHERE = "runs code from elsewhere instead of generate"
FOREIGN = "does not start with its prompt"


def assistant():
    return {"assistant_model": tiny.build("internvl", layers=1)}


def other_tokens():
    """An assistant with words of its own (universal assisted decoding)."""
    words = tiny.tokenizer("llava")
    config = transformers.LlamaConfig(
        vocab_size=len(words) + 8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model = transformers.LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = words.eos_token_id, words.pad_token_id
    return {"assistant_model": model, "tokenizer": tiny.tokenizer("internvl"), "assistant_tokenizer": words}


def decode_by_hand(model, input_ids, **kw):
    return type(model)._sample(model, input_ids, **kw)


def other_prompt(model, input_ids, **kw):
    return model(input_ids.flip(1))


MODES = [
    Mode("greedy", RIGHT, RIGHT, batch=3),
    Mode("do_sample", RIGHT, RIGHT, {"do_sample": True}, 3),
    Mode("num_return_sequences", RIGHT, RIGHT, {"do_sample": True, "num_return_sequences": 3}, 3),
    Mode("num_beams", RIGHT, RIGHT, {"num_beams": 3}, 3),
    Mode("num_beams, do_sample", RIGHT, RIGHT, {"num_beams": 2, "do_sample": True}, 3),
    Mode("streamer", RIGHT, RIGHT, lambda: {"streamer": Quiet()}),
    Mode("watermarking_config", RIGHT, RIGHT, lambda: {"watermarking_config": WatermarkingConfig()}),
    Mode("guidance_scale", RIGHT, GUIDED, {"guidance_scale": 2.0}),
    Mode(
        "guidance_scale, negative_prompt_ids", RIGHT, GUIDED,
        lambda: {"guidance_scale": 2.0, "negative_prompt_ids": torch.tensor([[5, 6, 7]])},
    ),
    Mode("use_cache=False", RIGHT, UNCACHED, {"use_cache": False}, 3),
    Mode("use_cache=False, num_beams", RIGHT, UNCACHED, {"use_cache": False, "num_beams": 2}, 3),
    Mode("assistant_model", RIGHT, ASSISTED, assistant),
    Mode("assistant_model: the model itself", RIGHT, ASSISTED, lambda: {"assistant_model": model().model}),
    Mode("assistant_model, assistant_tokenizer", RIGHT, ASSISTED, other_tokens),
    Mode("prompt_lookup_num_tokens", RIGHT, ASSISTED, {"prompt_lookup_num_tokens": 4}),
    Mode("assistant_early_exit", EARLY, EARLY, {"assistant_early_exit": 2}),
    Mode("generation_config", RIGHT, ASSISTED, lambda: {"generation_config": lookup()}),
    Mode("prefill_chunk_size", CHUNKED, CHUNKED, {"prefill_chunk_size": 8}),
    Mode("cache_implementation='dynamic'", RIGHT, RIGHT, {"cache_implementation": "dynamic"}, 3),
    Mode("cache_implementation='offloaded'", RIGHT, RIGHT, {"cache_implementation": "offloaded"}, 3),
    Mode(
        "cache_implementation='quantized'", RIGHT, STATIC,
        {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}}, 3,
    ),
    Mode("cache_implementation='hybrid'", RIGHT, RIGHT, {"cache_implementation": "hybrid"}, 3),
    *(
        Mode(f"cache_implementation='{name}'", RIGHT, STATIC, {"cache_implementation": name}, 3)
        for name in (
            "static", "sliding_window", "hybrid_chunked",
            "offloaded_static", "offloaded_hybrid", "offloaded_hybrid_chunked",
        )
    ),
    Mode("cache_implementation='paged'", CONTINUOUS, CONTINUOUS, {"cache_implementation": "paged"}),
    Mode("compile_config", RIGHT, RIGHT, lambda: {"compile_config": CompileConfig()}),
    Mode("compile_config, cache_implementation='static'", RIGHT, STATIC, lambda: compiled(), 3),
    Mode("an empty DynamicCache", RIGHT, RIGHT, lambda: given(DynamicCache(config=model().decoder.config))),
    Mode(
        "an empty StaticCache", RIGHT, STATIC,
        lambda: given(StaticCache(config=model().decoder.config, max_cache_len=99)),
    ),
    Mode(
        "a filled cache", "start without a filled cache", "not filled in this prune block",
        lambda: given(model().forward(prompts(1)).past_key_values),
    ),
    Mode("inputs_embeds", EMBEDS, EMBEDS, lambda: {"inputs_embeds": torch.zeros(1, 4, 64)}),
    Mode("logits_to_keep", RIGHT, RIGHT, {"logits_to_keep": 3}),
    Mode("output_attentions", RIGHT, RIGHT, {"output_attentions": True, "return_dict_in_generate": True}),
    Mode("output_hidden_states", RIGHT, RIGHT, {"output_hidden_states": True, "return_dict_in_generate": True}),
    Mode("token_healing", HEALED, HEALED, {"token_healing": True}),
    Mode("is_assistant", HELPER, HELPER, lambda: {"generation_config": helper()}),
    Mode("contrastive search", REMOTE, REMOTE, {"penalty_alpha": 0.6, "top_k": 4}),
    Mode("group beam search", REMOTE, REMOTE, {"num_beams": 4, "num_beam_groups": 2}),
    Mode("constrained beam search", REMOTE, REMOTE, {"num_beams": 2, "force_words_ids": [[5]]}),
    Mode("dola_layers", REMOTE, REMOTE, {"dola_layers": "low"}),
    Mode("custom_generate: a repository", ELSEWHERE, ELSEWHERE, {"custom_generate": "owner/name"}),
    Mode("custom_generate: a function", RIGHT, RIGHT, lambda: {"custom_generate": decode_by_hand}),
    Mode(
        "custom_generate: a function with a prompt of its own", FOREIGN, FOREIGN,
        lambda: {"custom_generate": other_prompt},
    ),
]  # fmt: skip


SLOW = {"compile_config, cache_implementation='static'"}
EACH = pytest.mark.parametrize(
    "mode", [pytest.param(m, id=m.name, marks=[pytest.mark.slow] if m.name in SLOW else []) for m in MODES]
)


class Quiet(transformers.generation.streamers.BaseStreamer):
    def put(self, value):
        pass

    def end(self):
        pass


def compiled():
    config = CompileConfig(backend="eager", mode=None)
    config._compile_all_devices = True  # also on a CPU
    return {"compile_config": config, "cache_implementation": "static"}


def lookup():
    config = copy.deepcopy(model().model.generation_config)
    config.prompt_lookup_num_tokens = 4
    return config


def helper():
    config = GenerationConfig()
    config.is_assistant = True
    return config


def given(cache):
    from biaslab.models.transformers_versions import NEWEST_TESTED

    new = transformers.__version__.startswith(NEWEST_TESTED)
    return {"cache" if new else "past_key_values": cache}


def model():
    return tiny.vlm("internvl")


@cache
def prompts(batch):
    return tiny.encoded(model(), batch)


@cache
def reference(batch):
    """Eager attention of the prompts (layers) of (B, H, N, N)."""
    return eager_attention(model(), prompts(batch))


def generate(vlm, enc, announced=False, **options):
    words = {"suppress_tokens": [vlm.image_token_id], "max_new_tokens": 4, "min_new_tokens": 4}
    if "generation_config" not in options:
        words["do_sample"] = False
    inputs = {} if "inputs_embeds" in options else {k: copy.copy(v) for k, v in enc.inputs.items()}
    with torch.no_grad():
        vlm.model.generate(**inputs, **{**words, **options})


class Stream(AbstractContextManager):
    """Streams of a device without any: work is done in the order in which it is written."""

    def __exit__(self, *error):
        return None

    def wait_stream(self, other):
        pass


@pytest.fixture(autouse=True)
def offloading(monkeypatch):
    """Let the caches that offload run where there is no GPU."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "default_stream", lambda device=None: Stream())


def runnable(mode):
    if "quantized" in mode.name and not hasattr(transformers.cache_utils, "Fp8QuantizedLayer"):
        pytest.skip("this transformers has no quantised cache without further packages")


def expected(enc):
    """What FastV keeps, from eager attention: the largest means over heads of the last prompt token's row."""
    out = []
    for row, layout in enumerate(enc.layouts):
        own = enc.visual[row, enc.visual_mask[row]]
        scores = reference(len(enc))[LAYER - 1][row, :, enc.last, own].mean(0)
        out.append(scores.topk(budget(KEEP, layout.n)).indices.sort().values.tolist())
    return out


def untouched(vlm):
    return not {"generate", "generate_batch"} & vlm.model.__dict__.keys() and not vlm.prefill.generating


@EACH
def test_captured_rows_are_those_of_the_last_prompt_token(mode):
    vlm, enc = model(), prompts(mode.batch)
    if mode.capture != RIGHT:
        options, ran = mode.made(), []
        hook = vlm.model.register_forward_pre_hook(lambda *_: ran.append(1))
        with pytest.raises(UnsupportedError) as caught, capture(vlm) as rows:
            generate(vlm, enc, **options)
        hook.remove()
        assert mode.capture in str(caught.value) and "\n" not in str(caught.value) and len(rows) == 0
        assert "function" in mode.name or not ran, "refused before any work"
        return
    runnable(mode)
    with capture(vlm) as rows:
        generate(vlm, enc, **mode.made())
    assert untouched(vlm) and len(rows) == vlm.n_layers
    for layer, attention in enumerate(reference(mode.batch)):
        captured = rows[layer]
        repeats = len(captured.values) // mode.batch
        assert captured.values.shape[2] == 1 and len(captured.values) == repeats * mode.batch
        for row in range(len(captured.values)):
            own = enc.visual[row // repeats, enc.visual_mask[row // repeats]]
            want = attention[row // repeats, :, enc.last, own]
            assert (captured.values[row, :, 0, captured.mask[row]] - want).abs().max() <= 1e-4


@EACH
def test_pruning_keeps_what_plain_generation_keeps(mode):
    vlm, enc = model(), prompts(mode.batch)
    options, ran = mode.made(), []
    if mode.prune == RIGHT:
        runnable(mode)
        with prune(vlm, FastV(keep=KEEP), LAYER) as state:
            generate(vlm, enc, **options)
        assert untouched(vlm)
        assert [s.indices.tolist() for s in state.selections] == expected(enc)
        lengths = state.kv_lengths()
        assert lengths[0] == lengths[LAYER - 1] > lengths[LAYER] == lengths[-1]
        return
    hook = vlm.model.register_forward_pre_hook(lambda *_: ran.append(1))
    with pytest.raises(UnsupportedError) as caught, prune(vlm, FastV(keep=KEEP), LAYER) as state:
        generate(vlm, enc, **options)
    hook.remove()
    assert mode.prune in str(caught.value) and "\n" not in str(caught.value) and not state.selections
    assert "function" in mode.name or not ran, "refused before any work"
    assert untouched(vlm)


def test_a_checkpoint_that_says_no_cache_gets_one_from_generate(monkeypatch):
    vlm, enc, seen = model(), prompts(3), []
    chosen = expected(enc)  # before the block: it runs the model under eager attention
    monkeypatch.setattr(vlm.model.generation_config, "use_cache", False)
    with prune(vlm, FastV(keep=KEEP), LAYER) as state:
        vlm.generate(enc, max_new_tokens=3, min_new_tokens=3)
        assert [s.indices.tolist() for s in state.selections] == chosen
        with pytest.raises(UnsupportedError, match="use_cache=False"):
            generate(vlm, enc)
    hook = vlm.model.register_forward_pre_hook(lambda m, a, kw: seen.append(kw["input_ids"].shape[1]), with_kwargs=True)
    with capture(vlm, [1]) as rows:
        generate(vlm, enc)
    hook.remove()
    n = enc.last + 1
    assert seen == [n, n + 1, n + 2, n + 3] and rows.prompt.is_image.shape[1] == n


def test_explicit_and_text_queries_count_within_the_prompt():
    """Whatever generation puts behind it: candidates, or the slots of a static cache."""
    vlm, enc = model(), prompts(1)
    for queries in ("text", torch.tensor([-1, -2])):
        with capture(vlm, [1], queries=queries) as want:
            vlm.forward(enc)
        for options in ({"prompt_lookup_num_tokens": 4}, {"cache_implementation": "static"}, {"use_cache": False}):
            for score in ("attention", "no_rope", "value_norm"):
                with capture(vlm, [1], queries=queries, score=score) as expected_rows:
                    vlm.forward(enc)
                with capture(vlm, [1], queries=queries, score=score) as rows:
                    generate(vlm, enc, **options)
                torch.testing.assert_close(rows[1].values, expected_rows[1].values, atol=1e-5, rtol=0)
                assert torch.equal(rows.prompt.queries, want.prompt.queries)


def test_right_padding_reads_the_last_token_that_is_none():
    vlm, enc = model(), prompts(3)
    ids, mask = enc.inputs["input_ids"].clone(), enc.inputs["attention_mask"].clone()
    pads = (mask == 0).sum(1).tolist()
    assert max(pads) > 0
    for row, n in enumerate(pads):
        ids[row], mask[row] = ids[row].roll(-n), mask[row].roll(-n)
    inputs = {**enc.inputs, "input_ids": ids, "attention_mask": mask}
    for options in ({}, {"cache_implementation": "static"}):
        with capture(vlm, [1]) as rows, torch.no_grad():
            vlm.model.generate(**inputs, max_new_tokens=2, do_sample=False, **options)
        for row in range(3):
            own = enc.visual[row, enc.visual_mask[row]]
            want = reference(3)[1][row, :, enc.last, own]
            assert (rows[1].values[row, :, 0, rows[1].mask[row]] - want).abs().max() <= 1e-4


def test_gradient_checkpointing_changes_nothing_in_evaluation_mode():
    vlm = tiny.wrap(tiny.build("internvl"), tiny.processor("internvl"))
    enc = prompts(3)
    vlm.model.gradient_checkpointing_enable()
    with capture(vlm) as rows, prune(vlm, FastV(keep=KEEP), LAYER) as state:
        generate(vlm, enc)
    assert [s.indices.tolist() for s in state.selections] == expected(enc)
    own = enc.visual[0, enc.visual_mask[0]]
    assert (rows[1].values[0, :, 0, rows[1].mask[0]] - reference(3)[1][0, :, enc.last, own]).abs().max() <= 1e-4


def test_a_block_inside_a_block_sees_the_same_prefill():
    vlm, enc = model(), prompts(3)
    with capture(vlm) as before, prune(vlm, FastV(keep=KEEP), LAYER) as state, capture(vlm) as after:
        generate(vlm, enc)
        with pytest.raises(UnsupportedError, match="drop use_cache=False"):
            generate(vlm, enc, use_cache=False)
    assert [s.indices.tolist() for s in state.selections] == expected(enc) and untouched(vlm)
    for layer in range(vlm.n_layers):
        assert torch.equal(before[layer].values, after[layer].values)


def test_blocks_may_end_in_any_order_and_a_wrapper_of_the_users_comes_back():
    vlm, enc = model(), prompts(1)
    calls, plain = [], vlm.model.generate
    vlm.model.generate = lambda *args, **kw: calls.append(1) or plain(*args, **kw)
    own = vlm.model.generate
    first, second = capture(vlm, [0]), capture(vlm, [1])
    try:
        first.__enter__()
        rows = second.__enter__()
        first.__exit__(None, None, None)
        vlm.generate(enc, max_new_tokens=2)
        second.__exit__(None, None, None)
        assert calls == [1] and len(rows) == 1 and vlm.model.generate is own
        with prune(vlm, "fastv", LAYER), pytest.raises(UnsupportedError, match="drop use_cache=False"):
            generate(vlm, enc, use_cache=False)
        with prune(vlm, "fastv", LAYER), pytest.raises(UnsupportedError, match="drop use_cache=False"):
            vlm.model.generate(enc.inputs["input_ids"], GenerationConfig(use_cache=False))  # by position
        assert calls == [1]
    finally:
        del vlm.model.generate


def test_later_turns_on_a_filled_cache_are_refused_by_capture():
    vlm, enc = model(), prompts(1)
    cache = vlm.forward(enc).past_key_values
    with pytest.raises(UnsupportedError, match="filled cache"), capture(vlm, [1]), torch.no_grad():
        vlm.model(input_ids=torch.tensor([[10, 11]]), **given(cache))


def test_continuous_batching_is_refused():
    vlm = model()
    for block in (capture(vlm, [1]), prune(vlm, "fastv", LAYER)):
        with pytest.raises(UnsupportedError, match=CONTINUOUS), block:
            vlm.model.generate_batch([[1, 2, 3]])
    assert untouched(vlm)


def test_absolute_logits_are_refused_under_pruning():
    vlm, enc = model(), prompts(1)
    with prune(vlm, "fastv", LAYER), pytest.raises(UnsupportedError, match="logits_to_keep"):
        vlm.forward(enc, logits_to_keep=torch.tensor([3]))


def test_the_document_has_these_rows():
    rows = [line.strip("| \n").split(" | ") for line in DOC.read_text().splitlines() if line.startswith("| `")]
    cell = {RIGHT: RIGHT}
    want = [[f"`{m.name}`", *(cell.get(x, f"refused: {x}") for x in (m.capture, m.prune))] for m in MODES]
    assert rows == want
