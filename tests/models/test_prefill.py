"""The state of a prefill: announced prompts nest, cuts add up, and each is put back or forgotten on its own."""

from __future__ import annotations

import pytest
import tiny
import torch

from biaslab.models.prefill import PrefillState, PrunedSequence


def cut(layer):
    return PrunedSequence(layer, torch.zeros(1, 2, dtype=torch.long))


def test_announced_prompts_nest_and_come_back_after_an_error():
    vlm = tiny.vlm("internvl")
    outer, inner = tiny.encoded(vlm, 1), tiny.encoded(vlm, 2)
    state = PrefillState()
    assert state.encoded is None
    with state.announce(outer):
        with pytest.raises(RuntimeError), state.announce(inner):
            assert state.encoded is inner
            raise RuntimeError
        assert state.encoded is outer
    assert state.encoded is None


def test_a_layer_sees_the_latest_cut_below_it():
    state, early, late = PrefillState(), cut(2), cut(4)
    assert state.pruned == () and state.seen_by(3) is None
    state.cut(early)
    state.cut(late)
    assert state.pruned == (early, late)
    assert [state.seen_by(layer) for layer in range(6)] == [None, None, early, early, late, late]


def test_clearing_the_cuts_leaves_the_prompts():
    state, encoded = PrefillState(), tiny.encoded(tiny.vlm("internvl"), 1)
    with state.announce(encoded):
        state.cut(cut(1))
        state.clear()
        assert state.encoded is encoded and state.pruned == ()


@pytest.mark.parametrize("name", ["encoded", "pruned"])
def test_readers_cannot_write(name):
    with pytest.raises(AttributeError):
        setattr(PrefillState(), name, None)


def test_a_model_announces_what_it_runs():
    vlm = tiny.vlm("internvl")
    enc, seen = tiny.encoded(vlm, 1), []
    handle = vlm.decoder.register_forward_pre_hook(lambda *_: seen.append(vlm.prefill.encoded))
    try:
        vlm.forward(enc)
        vlm.model(**enc.inputs)
    finally:
        handle.remove()
    assert seen == [enc, None]
