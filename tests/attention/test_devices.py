"""``device_map="auto"``: layers on different devices, tensors on the device of the layer they come from."""

from __future__ import annotations

import pytest
import tiny
import torch
from devices import DeviceMix, checked, spread
from pruned import method_for, run

from biaslab.attention.capture import capture
from biaslab.attention.scores import SCORES
from biaslab.pruning import prune

FAMILIES = pytest.mark.parametrize("family", tiny.CROSSED)


def plain(x):
    return getattr(x, "held", x)


def test_mixed_devices_are_noticed():
    here = torch.ones(3)
    with checked():
        there = here.to("meta:1")
        assert there.device == torch.device("meta", 1)
        assert plain(there * 2).tolist() == [2, 2, 2]
        with pytest.raises(DeviceMix, match="meta:1"):
            here + there
        with pytest.raises(DeviceMix):
            there.to("meta:2").gather(0, torch.zeros(3, dtype=torch.long))


@FAMILIES
@pytest.mark.parametrize("score", sorted(SCORES))
def test_captured_rows_stay_with_their_layer(family, score):
    vlm = tiny.vlm(family)
    enc = tiny.encoded(vlm, 2)
    with capture(vlm, score=score) as want:
        vlm.forward(enc)
    with spread(vlm) as devices, capture(vlm, score=score) as rows:
        vlm.forward(enc)
    assert len(set(devices)) == 3
    for layer, device in enumerate(devices):
        values = rows[layer].values
        assert {values.device, rows[layer].mask.device, rows[layer].query_mask.device} == {device}
        torch.testing.assert_close(plain(values), want[layer].values, atol=1e-5, rtol=1e-4)


@FAMILIES
@pytest.mark.parametrize("name", ["d2pruner", "divprune", pytest.param("uniform", marks=pytest.mark.slow)])
@pytest.mark.parametrize("positions", ["original", "renumber"])
def test_pruning_across_devices(family, name, positions):
    """Layer K - 1 and layer K lie on different devices, and so do the layers after them."""
    vlm, layer = tiny.vlm(family), 2
    if positions == "renumber" and "mrope_section" in (vlm.decoder.config.rope_parameters or {}):
        positions = "original"
    enc = tiny.encoded(vlm, 3)
    with prune(vlm, method_for(name, 0.3), layer, positions=positions) as state:
        tokens, logits = run(vlm, enc)
        kept = [s.indices.tolist() for s in state.selections]
    with spread(vlm) as devices, prune(vlm, method_for(name, 0.3), layer, positions=positions) as state:
        got_tokens, got_logits = run(vlm, enc)
        assert [s.indices.tolist() for s in state.selections] == kept
    assert devices[layer - 1] != devices[layer]
    assert torch.equal(plain(got_tokens), tokens)
    torch.testing.assert_close(plain(got_logits), logits, atol=1e-4, rtol=0)
