"""Decoding by a static step: the tokens and logits of the dynamic way and of a masked recompute."""

from __future__ import annotations

import warnings

import commands
import pruned
import pytest
import tiny
import torch
import toy_grounding as toy
from decoded import recorded
from sweeps import shared_runs, untouched
from test_sweep import FEW

from biaslab.datasets.calibration import Calibration
from biaslab.errors import InputError
from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.decoding import static_state
from biaslab.evaluation.decoding.static_loop import StaticDecoding
from biaslab.evaluation.run_once import GenerationOptions, run_once
from biaslab.evaluation.sweep.kv_cache import RoomyLayer
from biaslab.pruning.engine.hooks import Engine
from biaslab.workflows.bench import bench

LAST = tiny.TEXT["layers"] - 1


@pytest.fixture(autouse=True)
def no_other_way():
    """A decoding that went the dynamic way would equal itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "decode=")
        yield


def check_logits(vlm, enc, method, layer, positions="original", tolerance=1e-5, **kw):
    """Tokens and selections are the dynamic way's, logits too and the oracle's."""
    tokens, logits, selections = recorded(vlm, enc, method, layer, "static", positions, **kw)
    others, want, kept = recorded(vlm, enc, method, layer, "dynamic", positions, **kw)
    assert torch.equal(tokens, others)
    assert all(torch.equal(a.indices, b.indices) for a, b in zip(selections, kept, strict=True))
    finite = want.isfinite()  # suppressed tokens
    assert torch.equal(finite, logits.isfinite())
    assert float((logits - want)[finite].abs().max()) <= tolerance
    gone = pruned.dropped_positions(enc, selections)
    slow = pruned.oracle(vlm, enc.inputs, tokens, gone, layer, renumber=positions == "renumber")
    # the oracle's whole sequence rounds otherwise: the dynamic way may be no nearer
    assert float((logits - slow)[finite].abs().max()) <= 2 * tolerance + float((want - slow)[finite].abs().max())
    assert float((logits - slow)[finite].abs().max()) <= 1e-4
    assert untouched(vlm)


@pytest.mark.parametrize("family", tiny.CROSSED)
def test_every_family(family):
    """A padded batch, images of unequal sizes, K at the lowest, in the middle and at the last layer."""
    vlm = tiny.vlm(family)
    enc = tiny.encoded(vlm, 3)
    lowest = pruned.lowest_layer(vlm)
    for layer in sorted({max(lowest, 1), max(lowest, 2), LAST}):
        check_logits(vlm, enc, pruned.method_for("fastv"), layer)
    if lowest == 0:
        check_logits(vlm, enc, pruned.method_for("random"), 0)


@pytest.mark.parametrize("options", [{}, {"attn": "eager"}, {"text": "llama"}, {"text": "qwen3"}], ids=str)
@pytest.mark.parametrize("n", [1, 4])
def test_one_prompt_and_several_in_other_decoders(n, options):
    vlm = tiny.vlm("internvl", **options)
    check_logits(vlm, tiny.encoded(vlm, n), pruned.method_for("random"), 2)


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_renumbered_positions(layer, attn):
    vlm = tiny.vlm("llava_next", attn=attn)
    check_logits(vlm, tiny.encoded(vlm, 3), pruned.method_for("random"), layer, "renumber")


def test_prompts_with_two_images():
    vlm, images = tiny.vlm("qwen2_5_vl"), tiny.images(4)
    enc = vlm.encode([images[:2], images[2:]], tiny.texts(2), sample_ids=["a", "b"])
    check_logits(vlm, enc, pruned.method_for("random"), 2)


@pytest.mark.slow
def test_an_answer_longer_than_any_room():
    """32 steps are the room of one state: the next one goes on with what it has written. Rounding adds up."""
    vlm = tiny.vlm("internvl")
    check_logits(vlm, tiny.encoded(vlm, 3), pruned.method_for("fastv"), 2, steps=150, tolerance=5e-5)


def test_a_rotary_embedding_that_changes_with_the_length():
    """As InternLM2's (type dynamic): the same below its limit, decoded dynamically beyond it."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    vlm = tiny.vlm("internvl", text="llama", rope_parameters=_Frozen(rope), max_position_embeddings=64)
    enc = tiny.encoded(vlm, 1)
    check_logits(vlm, enc, pruned.method_for("random"), 2)
    with pytest.warns(UserWarning, match="rotary embedding changes beyond 64 positions"):
        recorded(vlm, enc, pruned.method_for("random"), 2, "static", steps=65 - enc.last)


class _Frozen(dict):
    """A dict that may stand in a key of the cache of tiny models."""

    def __hash__(self):
        return hash(tuple(self.items()))


# -- one run, and a sweep -------------------------------------------------------------------------------------------


def same_runs(vlm, encoded, configs, options, **kw):
    """Answers of a static sweep and of static single runs are those of dynamic single runs."""
    static = GenerationOptions(options.seed, options.max_new_tokens, options.positions, decode="static")
    shared = shared_runs(vlm, encoded, configs, static, **kw)
    for i, config in enumerate(configs):
        plain = run_once(vlm, encoded, config, options)
        for ours in (shared[i], run_once(vlm, encoded, config, static)):
            assert ours.answers == plain.answers, config.describe()
            assert ours.truncated == plain.truncated and ours.kept == plain.kept
    assert untouched(vlm)
    return shared


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny.CROSSED)
def test_sweeps_of_unequal_budgets(family):
    """Two keep ratios and two K in one wide batch: rows of unequal lengths from either K on."""
    vlm = tiny.vlm(family)
    encoded = vlm.vision(tiny.encoded(vlm, 3))
    layers = [3] if family == "qwen3_vl" else [3, 1]
    configs = configurations(["none", "random", "fastv"], [0.5, 0.2], layers)
    same_runs(vlm, encoded, configs, GenerationOptions(max_new_tokens=5))


@pytest.mark.slow
def test_rows_end_early(monkeypatch):
    """One token of eight ends an answer."""
    vlm = tiny.vlm("internvl")
    vocabulary = vlm.model.config.text_config.vocab_size
    encoded, widths = vlm.vision(tiny.encoded(vlm, 3)), []
    run = static_state.StaticState.run
    monkeypatch.setattr(static_state.StaticState, "run", lambda s: (widths.append(len(s.tokens)), run(s))[1])
    configs = configurations(FEW, [0.5, 0.2], 2)
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", list(range(3, vocabulary, 8)))
    runs = same_runs(vlm, encoded, configs, GenerationOptions(max_new_tokens=20), width=500)
    assert len({len(text) for run in runs.values() for text in run.answers}) > 3
    assert 18 <= max(widths) <= 27 and len(set(widths)) > 3  # 9 configurations of 3 prompts, narrower as rows end


@pytest.mark.slow
def test_a_repetition_penalty_and_long_answers(monkeypatch):
    """The penalty reads all that was said, of rows that are left as well; some answers outgrow two states."""
    vlm = tiny.vlm("internvl")
    vocabulary = vlm.model.config.text_config.vocab_size
    encoded = vlm.vision(tiny.encoded(vlm, 3))
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", list(range(3, vocabulary, 200)))
    monkeypatch.setattr(vlm.model.generation_config, "repetition_penalty", 1.3)
    configs = configurations(["none", "random"], 0.5, 2)
    runs = same_runs(vlm, encoded, configs, GenerationOptions(max_new_tokens=90))
    assert max(len(vlm.processor.tokenizer(run.answers[0])["input_ids"]) for run in runs.values()) > 64


def test_nothing_of_ours_is_on_the_model_while_it_decodes(monkeypatch):
    vlm, seen = tiny.vlm("internvl"), []
    encoded = vlm.vision(tiny.encoded(vlm, 2))
    run = static_state.StaticState.run

    def look(state):
        hooks = [
            h
            for m in vlm.decoder.layers.modules()
            for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())
            if h.__module__.startswith("biaslab")  # transformers leaves some of its own
        ]
        seen.append((len(hooks), vlm.decoder.config._attn_implementation, len(vlm.decoder.layers)))
        run(state)

    monkeypatch.setattr(static_state.StaticState, "run", look)
    options = GenerationOptions(max_new_tokens=4, decode="static")
    once = run_once(vlm, encoded, configurations("fastv", 0.2, 2)[0], options, timed=True)
    assert seen == [(0, "sdpa", 4)] * 3
    timer = once.timer
    assert timer.prefill_ms > 0 and timer.decode_ms > 0 and once.selection_times["select_ms"] > 0


def test_the_cache_is_a_dynamic_one_before_and_after(monkeypatch):
    from transformers import DynamicCache

    vlm, states = tiny.vlm("internvl"), []
    made = static_state.StaticState.__init__
    monkeypatch.setattr(static_state.StaticState, "__init__", lambda s, *a: (states.append(s), made(s, *a))[1])
    enc = tiny.encoded(vlm, 1)
    _, _, (selection,) = recorded(vlm, enc, pruned.method_for("random"), 2, "static", steps=6)
    (state,) = states
    cache, dropped = state.rows.cache, enc.layouts[0].n - len(selection.indices)
    assert type(cache) is DynamicCache and cache is not state.cache and dropped > 0
    low, high = (cache.layers[i].keys.shape[2] for i in (1, 2))
    assert low == enc.last + 1 + 5 and high == low - dropped  # the sixth token was not run
    more = torch.zeros(1, *cache.layers[2].keys.shape[1:2], 3, cache.layers[2].keys.shape[3])
    assert cache.update(more, more, 2)[0].shape[2] == high + 3


@pytest.mark.parametrize("positions", ["original", "renumber"])
def test_rows_whose_tokens_were_dropped_before_the_decoder(positions, monkeypatch):
    """Without a hook that says so: a wide cache whose layers count what they do not hold, as those of a sweep do."""
    vlm, found = tiny.vlm("llava"), []
    begun = StaticDecoding.__init__

    def unhooked(self, vlm, generation, cuts, positions, *, shown):
        (cache,) = (value for name, value in generation.kwargs.items() if name == "cache")
        cache.layers = [RoomyLayer(x.keys, x.values, shown.kept, shown.length - shown.kept) for x in cache.layers]
        engines[0].detach()
        found.append(shown.kept)
        begun(self, vlm, generation, [(0, shown)], positions)

    engines, attach = [], Engine.attach
    monkeypatch.setattr(Engine, "attach", lambda self, stack: (engines.append(self), attach(self, stack))[1])
    monkeypatch.setattr(StaticDecoding, "__init__", unhooked)
    enc, method = tiny.encoded(vlm, 3), pruned.method_for("random")
    tokens, logits, _ = recorded(vlm, enc, method, 0, "static", positions)
    others, want, _ = recorded(vlm, enc, method, 0, "dynamic", positions)
    assert found and torch.equal(tokens, others)
    assert float((logits - want)[want.isfinite()].abs().max()) <= 1e-5


# -- evaluate, bench, the command line ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("plain", [False, True])
def test_an_evaluation_by_static_steps_is_the_same(tmp_path, monkeypatch, plain):
    """The same lines, shared and plain; a run begun in one way goes on in another."""
    vlm, steps = tiny.vlm("internvl"), []
    monkeypatch.setattr(vlm.family, "parse_box", toy.hashed_box)
    take = static_state.StaticState.run
    monkeypatch.setattr(static_state.StaticState, "run", lambda s: (steps.append(len(s.tokens)), take(s))[1])
    dynamic = toy.run(vlm=vlm, plain=plain).samples
    assert not steps
    begun = toy.run(tmp_path, vlm, n=3, plain=plain, decode="static")
    assert steps and begun.run["settings"]["decode"] == "static"
    toy.same(toy.run(tmp_path, vlm, plain=plain).samples, dynamic)


@pytest.mark.slow
def test_bench_times_a_static_decoding():
    images = Calibration("noise", tiny.images(2), tiny.texts(2), ["a", "b"])
    result = bench(
        tiny.vlm("internvl"), images, methods=["random"], keep=0.5, layer=2, repeats=1, warmup=0, new_tokens=4,
        memory=False, progress=False, decode="static",
    )  # fmt: skip
    assert result.settings["decode"] == "static" and not result.settings["failed"]
    assert (result.runs["decode_ms"] > 0).all() and (result.runs["prefill_ms"] > 0).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="here graphs are possible")
def test_graphs_are_refused_in_one_line_where_there_is_no_cuda(capsys, tmp_path):
    for decode, why in (("graph", "needs a CUDA device"), ("fast", "must be one of dynamic, static, graph")):
        for verb in (["bench"], ["evaluate", "--out", tmp_path / "run"]):
            status, out, err = commands.run(capsys, *verb, "--decode", decode)
            assert status == 2 and not out and why in err and len(err.strip().splitlines()) == 1
        with pytest.raises(InputError, match=why):
            toy.run(decode=decode)
        with pytest.raises(InputError, match=why):
            bench(tiny.vlm("internvl"), None, methods=["random"], keep=0.5, layer=2, decode=decode)
    assert not (tmp_path / "run").exists()
