"""Decoding as on a CUDA device, which is asked only every few steps how many rows still answer: the same in any way."""

from __future__ import annotations

import pruned
import pytest
import tiny
import torch
from decoded import recorded
from sweeps import shared_runs
from tape import StrictGraph

from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.decoding import dynamic_loop, static_loop, static_state
from biaslab.evaluation.decoding.step_graph import GraphedStates
from biaslab.evaluation.run_once import GenerationOptions

GRAPHS = {"graph": lambda: GraphedStates(2, StrictGraph)}


@pytest.fixture
def seldom(monkeypatch):
    """Look every 8 steps, as where a look waits for a device."""
    for module in (dynamic_loop, static_loop):
        monkeypatch.setattr(module, "look_every", lambda device: 8)


@pytest.mark.parametrize("way", ["static", "graph"])
@pytest.mark.parametrize("steps", [1, 8, 9, 26])
def test_no_step_is_taken_behind_the_limit(seldom, monkeypatch, way, steps):
    """As many logits as tokens, and one state for all of them: a second one would be another graph to capture."""
    vlm, taken, made = tiny.vlm("internvl"), [], []
    run, make = static_state.StaticState.run, static_state.StaticState.__init__
    monkeypatch.setattr(static_state.StaticState, "run", lambda s: (taken.append(1), run(s))[1])
    monkeypatch.setattr(static_state.StaticState, "__init__", lambda s, *a: (made.append(1), make(s, *a))[1])
    enc, method = tiny.encoded(vlm, 2), pruned.method_for("random")
    tokens, logits, _ = recorded(vlm, enc, method, 2, way, steps=steps, graphs=GRAPHS.get(way, lambda: None)())
    others, want, _ = recorded(vlm, enc, method, 2, "dynamic", steps=steps)
    assert torch.equal(tokens, others) and logits.shape == want.shape == (2, steps, logits.shape[-1])
    assert len(taken) == steps - 1 and len(made) == min(1, steps - 1)


@pytest.mark.parametrize("way", ["dynamic", "static", "graph"])
@pytest.mark.parametrize("every", [16, 4000])
def test_answers_do_not_depend_on_how_often_rows_are_looked_at(monkeypatch, way, every):
    """Some or no answers end before the limit; padding is an end token, by which a cut answer would seem to end."""
    vlm = tiny.vlm("internvl")
    ends = list(range(3, vlm.model.config.text_config.vocab_size, every))
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", ends)
    monkeypatch.setattr(vlm.model.generation_config, "pad_token_id", ends[0])
    encoded = vlm.vision(tiny.encoded(vlm, 3))
    configs, options = configurations(["none", "random"], 0.5, 2), GenerationOptions(max_new_tokens=13, decode=way)
    runs = shared_runs(vlm, encoded, configs, options, graphs=GRAPHS.get(way, lambda: None)())
    for module in (dynamic_loop, static_loop):
        monkeypatch.setattr(module, "look_every", lambda device: 8)
    late = shared_runs(vlm, encoded, configs, options, graphs=GRAPHS.get(way, lambda: None)())
    cut = [one for run in runs.values() for one in run.truncated]
    assert any(cut) and all(cut) == (every == 4000)
    for i, run in runs.items():
        assert late[i].answers == run.answers and late[i].truncated == run.truncated
