"""Decoding by a graph that repeats a static step, on a CPU by a stand-in as strict as CUDA's, and what is refused."""

from __future__ import annotations

import warnings
from functools import wraps

import pruned
import pytest
import tiny
import torch
from decoded import recorded
from devices import spread
from sweeps import shared_runs, untouched
from tape import StrictGraph

from biaslab.errors import InputError
from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.decoding.step_graph import GraphedStates
from biaslab.evaluation.decoding.ways import check_way
from biaslab.evaluation.run_once import GenerationOptions, run_once

pytestmark = pytest.mark.slow

LAST = tiny.TEXT["layers"] - 1


@pytest.fixture(autouse=True)
def no_other_way():
    """A decoding that went the dynamic way would equal itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "decode=")
        yield


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
    """Prompts of other lengths with other images; what the cache held before is gone."""
    vlm = tiny.vlm("internvl")
    graphs, method, lengths = graphed(), pruned.method_for("fastv", 8), set()
    for seed in range(3):
        questions = ["left", "the cup", "red" + seed * " x"]
        enc = vlm.encode(tiny.images(3, seed=seed), questions, sample_ids=["a", "b", "c"])
        lengths.add(enc.last)
        tokens, logits, _ = recorded(vlm, enc, method, 2, "graph", steps=9, graphs=graphs)
        others, want, _ = recorded(vlm, enc, method, 2, "dynamic", steps=9)
        assert torch.equal(tokens, others) and float((logits - want)[want.isfinite()].abs().max()) <= 1e-5
        state, _ = next(iter(graphs._held.values()))
        for layer in state.fixed:  # as an overflow would leave it
            layer._all_keys.fill_(float("nan")), layer._all_values.fill_(float("inf"))
    (graph,) = StrictGraph.made
    assert (graph.warmed, graph.replayed) == (3, 3 * 8 - 3) and len(lengths) == 3


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
