"""Decoding by a static step: the tokens and logits of the dynamic way and of a masked recompute."""

from __future__ import annotations

import warnings
from functools import wraps

import commands
import pruned
import pytest
import tiny
import torch
import toy_grounding as toy
from devices import spread
from tape import StrictGraph
from test_sweep import FEW, shared_runs, untouched
from transformers import LogitsProcessor

from biaslab.datasets.calibration import Calibration
from biaslab.errors import InputError
from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.decoding import static_state
from biaslab.evaluation.decoding.one_generate import static_options
from biaslab.evaluation.decoding.static_loop import StaticDecoding
from biaslab.evaluation.decoding.step_graph import GraphedStates
from biaslab.evaluation.decoding.ways import check_way
from biaslab.evaluation.run_once import GenerationOptions, run_once
from biaslab.evaluation.sweep.kv_cache import RoomyLayer
from biaslab.pruning.engine.hooks import Engine
from biaslab.pruning.engine.prune import engaged
from biaslab.workflows.bench import bench

LAST = tiny.TEXT["layers"] - 1


@pytest.fixture(autouse=True)
def no_other_way():
    """A decoding that went the dynamic way would equal itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "decode=")
        yield


class Keep(LogitsProcessor):
    """Keeps the scores of every step."""

    def __init__(self):
        self.scores = []

    def __call__(self, ids, scores):
        self.scores.append(scores.clone())
        return scores


def recorded(vlm, enc, method, layer, way, positions="original", steps=pruned.STEPS, graphs=None):
    """Tokens, logits and selections of a greedy answer of ``steps`` tokens."""
    keep = Keep()
    with engaged(vlm, method, layer, positions=positions, seed=0) as engine, vlm.running(enc) as inputs:
        options = static_options(vlm, way, steps, engine, positions, graphs)
        with torch.no_grad():
            ids = vlm.model.generate(
                **inputs, max_new_tokens=steps, do_sample=False, logits_processor=[keep], **pruned.words_only(vlm),
                **options,
            )  # fmt: skip
        return ids[:, enc.last + 1 :], torch.stack(keep.scores, 1), list(engine.run.selections)


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
    """A padded batch, pictures of unequal sizes, K at the lowest, in the middle and at the last layer."""
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


@pytest.mark.parametrize("family", tiny.CROSSED)
def test_sweeps_of_unequal_budgets(family):
    """Two keep ratios and two K in one wide batch: rows of unequal lengths from either K on."""
    vlm = tiny.vlm(family)
    encoded = vlm.vision(tiny.encoded(vlm, 3))
    layers = [3] if family == "qwen3_vl" else [3, 1]
    configs = configurations(["none", "random", "fastv"], [0.5, 0.2], layers)
    same_runs(vlm, encoded, configs, GenerationOptions(max_new_tokens=5))


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


# -- by a graph -----------------------------------------------------------------------------------------------------


def graphed(most=2):
    StrictGraph.made = []
    return GraphedStates(most, StrictGraph)


@pytest.mark.parametrize("family", tiny.CROSSED)
def test_a_step_is_the_same_every_time(family):
    """By a graph as strict as CUDA's: three steps warm up, all others repeat the fourth, tensor by tensor."""
    vlm = tiny.vlm(family)
    enc, graphs = tiny.encoded(vlm, 3), graphed()
    method = pruned.method_for("random")
    tokens, _, _ = recorded(vlm, enc, method, LAST, "graph", steps=9, graphs=graphs)
    assert torch.equal(tokens, recorded(vlm, enc, method, LAST, "dynamic", steps=9)[0])
    (graph,) = StrictGraph.made
    assert (graph.warmed, graph.replayed) == (3, 5) and len(graph.tape) > 40


def test_batches_of_the_same_shapes_share_a_graph():
    """Prompts of another length, other pictures and a shorter answer; what the cache held before is gone."""
    vlm = tiny.vlm("internvl")
    graphs, method = graphed(), pruned.method_for("fastv", 8)
    for seed, steps in ((0, 9), (1, 9), (2, 9)):
        enc = tiny.encoded(vlm, 3, seed=seed)
        tokens, logits, _ = recorded(vlm, enc, method, 2, "graph", steps=steps, graphs=graphs)
        others, want, _ = recorded(vlm, enc, method, 2, "dynamic", steps=steps)
        assert torch.equal(tokens, others) and float((logits - want)[want.isfinite()].abs().max()) <= 1e-5
        state, _ = next(iter(graphs._held.values()))
        for layer in state.fixed:  # as an overflow would leave it
            layer._all_keys.fill_(float("nan")), layer._all_values.fill_(float("inf"))
    (graph,) = StrictGraph.made
    assert (graph.warmed, graph.replayed) == (3, 3 * 8 - 3)


def test_states_that_are_not_used_go():
    vlm, graphs = tiny.vlm("internvl"), graphed(2)
    for n in (1, 2, 3, 3, 2, 1):
        recorded(vlm, tiny.encoded(vlm, n), pruned.method_for("random"), 2, "graph", graphs=graphs)
        assert len(graphs._held) <= 2
    assert len(StrictGraph.made) == 4  # 1, 2, 3, and 1 again
    graphs.clear()
    assert not graphs._held


def test_a_step_that_cannot_be_captured_runs_as_it_is():
    class Refuses(StrictGraph):
        def capture(self, step):
            raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might be ...")

    class Full(StrictGraph):
        def capture(self, step):
            raise torch.OutOfMemoryError("out of memory")

    vlm = tiny.vlm("internvl")
    enc, method = tiny.encoded(vlm, 2), pruned.method_for("random")
    with pytest.warns(
        UserWarning, match=r"could not be captured \(operation not permitted when .* capturing\) and runs"
    ):
        tokens, _, _ = recorded(vlm, enc, method, 2, "graph", steps=9, graphs=GraphedStates(2, Refuses))
    assert torch.equal(tokens, recorded(vlm, enc, method, 2, "dynamic", steps=9)[0])
    with pytest.raises(torch.OutOfMemoryError):
        recorded(vlm, enc, method, 2, "graph", steps=9, graphs=GraphedStates(2, Full))
    assert untouched(vlm)


def test_a_sweep_by_graphs_keeps_its_rows(monkeypatch):
    """Rows that have ended stay: a narrower batch would be another shape. Answers longer than a state get another."""
    vlm = tiny.vlm("internvl")
    vocabulary = vlm.model.config.text_config.vocab_size
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", list(range(3, vocabulary, 40)))
    encoded, graphs = vlm.vision(tiny.encoded(vlm, 2)), graphed()
    configs = configurations(["none", "random", "fastv"], [0.5, 0.2], 2)
    dynamic, graph = (GenerationOptions(max_new_tokens=72, decode=way) for way in ("dynamic", "graph"))
    runs = shared_runs(vlm, encoded, configs, graph, graphs=graphs)
    for i, run in shared_runs(vlm, encoded, configs, dynamic).items():
        assert runs[i].answers == run.answers and runs[i].truncated == run.truncated
    assert {len(state.tokens) for state, _ in graphs._held.values()} == {10}


def test_the_strict_graph_finds_what_a_graph_would_not_see():
    x, at = torch.zeros(4), [0]

    def number():
        x[at[0]] = 1.0
        at[0] += 1

    def shape():
        at[0] += 1
        x[: at[0]].add_(1)

    def other_tensor():
        at.append(torch.zeros(3))
        at[-1].add_(1)

    for step in (number, shape):
        graph = StrictGraph(None)
        graph.capture(step)
        graph.replay()
        with pytest.raises((AssertionError, ValueError)):
            graph.replay()
    with pytest.raises(AssertionError, match="waits"):
        graph = StrictGraph(None)
        graph.capture(lambda: x.sum().item())
        graph.replay()
    graph, held = StrictGraph(None), [torch.zeros(3), torch.zeros(3)]
    graph.capture(lambda: held.pop().add_(1))
    graph.replay()
    with pytest.raises(AssertionError, match="another operation"):
        graph.replay()


# -- what is refused ------------------------------------------------------------------------------------------------


def refusal(vlm, enc, why, layer=2):
    with pytest.warns(UserWarning, match=f"decode='static' is not for {vlm.name}: .*{why}"):
        tokens, _, _ = recorded(vlm, enc, pruned.method_for("random"), layer, "static")
    assert torch.equal(tokens, recorded(vlm, enc, pruned.method_for("random"), layer, "dynamic")[0])
    assert untouched(vlm)


def test_what_a_model_does_beyond_its_modules_is_found_out(monkeypatch):
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 3)
    head = vlm.model.get_output_embeddings()
    with monkeypatch.context() as patch:
        patch.setattr(vlm.model, "get_output_embeddings", lambda: lambda hidden: head(hidden).tanh())
        refusal(vlm, enc, "its logits at a decode step is not")
    embed = vlm.decoder.embed_tokens
    with monkeypatch.context() as patch:
        patch.setattr(embed, "forward", lambda ids, own=embed.forward: own(ids) * (2.0 if ids.shape[1] == 1 else 1.0))
        tokens = recorded(vlm, enc, pruned.method_for("random"), 2, "static")[0]  # seen by both alike
        assert torch.equal(tokens, recorded(vlm, enc, pruned.method_for("random"), 2, "dynamic")[0])
    grown = vlm.model._update_model_kwargs_for_generation

    def more(outputs, kwargs, *args, **kw):
        kwargs = grown(outputs, kwargs, *args, **kw)
        kwargs["attention_mask"] = kwargs["attention_mask"].clone()
        kwargs["attention_mask"][:, -2] = 0
        return kwargs

    with monkeypatch.context() as patch:
        patch.setattr(vlm.model, "_update_model_kwargs_for_generation", more)
        refusal(vlm, enc, "its mask at a decode step")


@pytest.mark.parametrize("layer", [0, 2])
def test_layers_that_are_given_something_unknown(layer, monkeypatch):
    vlm = tiny.vlm("internvl")
    prepare = vlm.model.prepare_inputs_for_generation

    @wraps(prepare)
    def steered(*args, **kwargs):
        return {**prepare(*args, **kwargs), "steering": torch.ones(1)}

    monkeypatch.setattr(vlm.model, "prepare_inputs_for_generation", steered)
    refusal(vlm, tiny.encoded(vlm, 2), "given steering", layer)


def test_sliding_windows_beams_and_several_devices(monkeypatch):
    vlm = tiny.windowed("ssff", 9)
    refusal(vlm, tiny.encoded(vlm, 2), "layers of sliding_attention")
    vlm = tiny.vlm("internvl")
    encoded, config = vlm.vision(tiny.encoded(vlm, 2)), configurations("random", 0.5, 2)[0]
    ways = [GenerationOptions(max_new_tokens=4, decode=way) for way in ("dynamic", "static")]
    with spread(vlm), pytest.warns(UserWarning, match="several devices"):
        plain, ours = (run_once(vlm, encoded, config, options) for options in ways)
    assert plain.answers == ours.answers
    with torch.autocast("cpu", torch.bfloat16), pytest.warns(UserWarning, match="autocast is on"):
        run_once(vlm, encoded, config, ways[1])
    monkeypatch.setattr(vlm.model.generation_config, "num_beams", 2)
    with pytest.warns(UserWarning, match="generates by beam_search"):
        plain, ours = (run_once(vlm, encoded, config, options) for options in ways)
    assert plain.answers == ours.answers and untouched(vlm)


def test_ways_are_checked_before_any_work():
    assert check_way("graph", torch.device("cuda")) == "graph"
    with pytest.raises(InputError, match="decode must be one of dynamic, static, graph, got 'fast'"):
        check_way("fast")
    with pytest.raises(InputError, match="decode='graph' needs a CUDA device .this model is on cpu.: use 'static'"):
        check_way("graph", torch.device("cpu"))
