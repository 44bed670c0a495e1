"""Positions of kept tokens stretched over those that their image had."""

from __future__ import annotations

import pytest
import tiny
import torch
from pruned import dropped_positions, lowest_layer, method_for, oracle, prompt_positions, run
from sweeps import check

from biaslab.errors import UnsupportedError
from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.run_once import GenerationOptions
from biaslab.pruning import FastV, Random, Uniform, prune

ONE_AXIS = [family for family in tiny.FAMILIES if not family.startswith("qwen")]


def stretched(vlm, enc, selections):
    """Position ids (B, N) with those of kept tokens moved, one by one."""
    at = prompt_positions(vlm, enc.inputs).clone()
    for row, (first, last), chosen in zip(enc.owners, enc.spans, selections, strict=True):
        own = enc.visual[row, first:last]
        ids, m = at[row, own].clone(), len(chosen.indices)
        for j, token in enumerate(chosen.indices.tolist()):
            at[row, own[token]] = ids[int(j * (len(own) - 1) / (m - 1) + 0.5)] if m > 1 else ids[token]
    return at


@pytest.mark.parametrize(("family", "later"), [tiny.quick(f, late) for f in ONE_AXIS for late in (False, True)])
def test_cached_generation_equals_masked_recompute(family, later):
    vlm = tiny.vlm(family)
    enc = tiny.encoded(vlm, 3)
    layer = 2 if later else lowest_layer(vlm)
    with prune(vlm, method_for("d2pruner" if later else "random", 0.3), layer, positions="remap") as state:
        answer, logits = run(vlm, enc)
    gone, places = dropped_positions(enc, state.selections), stretched(vlm, enc, state.selections)
    want = oracle(vlm, enc.inputs, answer, gone, layer, places=places)
    assert (logits - want).abs().max() <= 1e-4
    assert (logits - oracle(vlm, enc.inputs, answer, gone, layer)).abs().max() > 1e-3


def test_several_images_each_over_its_own_positions():
    vlm = tiny.vlm("internvl")
    enc = vlm.encode([tiny.images(2), tiny.images(1)], tiny.texts(2))
    for layer in (0, 2):
        with prune(vlm, Random(keep=0.6), layer, positions="remap") as state:
            answer, logits = run(vlm, enc)
        places = stretched(vlm, enc, state.selections)
        own = enc.visual[0, slice(*enc.spans[1])]
        moved = places[0, own[state.selections[1].indices]]
        assert moved[0] == prompt_positions(vlm, enc.inputs)[0, own[0]]
        assert moved[-1] == prompt_positions(vlm, enc.inputs)[0, own[-1]] and (moved.diff() > 0).all()
        want = oracle(vlm, enc.inputs, answer, dropped_positions(enc, state.selections), layer, places=places)
        assert (logits - want).abs().max() <= 1e-4


@pytest.mark.parametrize("layer", [0, 2])
def test_keeping_all_and_keeping_ends_apart(layer):
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 2)
    tokens, plain = run(vlm, enc)
    with prune(vlm, Uniform(keep=1.0), layer, positions="remap"):
        same = run(vlm, enc)
    assert torch.equal(same[0], tokens) and (same[1] - plain).abs().max() == 0
    with prune(vlm, Random(keep=1), layer, positions="remap"):
        one = run(vlm, enc)
    with prune(vlm, Random(keep=1), layer):
        assert torch.equal(run(vlm, enc)[1], one[1])  # a single token stays where it is


def test_beams_and_a_sweep_do_the_same():
    vlm = tiny.vlm("internvl")
    enc = vlm.vision(tiny.encoded(vlm, 3))
    options = GenerationOptions(max_new_tokens=4, positions="remap")
    check(vlm, enc, configurations(["none", "random", "divprune"], [0.5, 0.2], [0, 2]), options)
    with prune(vlm, FastV(keep=0.3), 2, positions="remap"):
        both = vlm.generate(enc, max_new_tokens=4, num_beams=3)
        assert vlm.generate(tiny.encoded(vlm, 1), max_new_tokens=4, num_beams=3) == both[:1]


def test_what_is_refused():
    for family, layer in (("qwen2_vl", 0), ("qwen2_5_vl", 2), ("qwen3_vl", 3)):
        with (
            pytest.raises(UnsupportedError, match="remapping along one axis would destroy"),
            prune(tiny.vlm(family), Random(), layer, positions="remap"),
        ):
            pass
    with (
        pytest.raises(UnsupportedError, match="positions are remapped once"),
        prune(tiny.vlm("internvl"), schedule="random@0.5@0+random@0.2@2", positions="remap"),
    ):
        pass
