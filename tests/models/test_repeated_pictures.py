"""Images that come several times in a batch: the tower sees each once, the features are those of seeing all."""

from __future__ import annotations

import pytest
import tiny
import torch

ORDER = [0, 1, 0, 0, 2]


def prompts(vlm, order=ORDER):
    pictures = tiny.images(3)
    return vlm.encode([pictures[i] for i in order], tiny.texts(len(order)))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family(family, monkeypatch):
    vlm = tiny.vlm(family)
    encoded, seen, tower = prompts(vlm), [], vlm.model.get_image_features
    monkeypatch.setattr(
        vlm.model, "get_image_features", lambda **kw: seen.append(len(kw["pixel_values"])) or tower(**kw)
    )
    whole, once = vlm.vision(encoded), vlm.vision(encoded, pictures=ORDER)
    alone = prompts(vlm, [0, 1, 2]).inputs["pixel_values"]
    assert seen == [len(encoded.inputs["pixel_values"]), len(alone)] and seen[1] < seen[0]
    torch.testing.assert_close(vlm.forward(once).logits, vlm.forward(whole).logits, rtol=1e-5, atol=1e-5)
    assert vlm.generate(once, max_new_tokens=4) == vlm.generate(whole, max_new_tokens=4)


def test_a_name_alone_is_not_believed(monkeypatch):
    """Two images under one name, and one image under two names."""
    vlm = tiny.vlm("internvl")
    encoded, seen, tower = prompts(vlm, [0, 1, 0]), [], vlm.model.get_image_features
    monkeypatch.setattr(
        vlm.model, "get_image_features", lambda **kw: seen.append(len(kw["pixel_values"])) or tower(**kw)
    )
    n = len(encoded.inputs["pixel_values"])
    features = vlm.vision(encoded).inputs["mm_encoder_outputs"]["image"].pooler_output
    for pictures in (["a", "a", "b"], ["a", "b", "c"]):
        once = vlm.vision(encoded, pictures=pictures).inputs["mm_encoder_outputs"]["image"].pooler_output
        torch.testing.assert_close(once, features)
    assert seen == [n, n, n]


def test_the_states_of_the_tower_are_let_go():
    vlm = tiny.vlm("internvl")
    out = vlm.vision(prompts(vlm)).inputs["mm_encoder_outputs"]["image"]
    assert list(out.keys()) == ["pooler_output"] and out.last_hidden_state is None
