"""Prompts with several images: layouts, capture, profiles and pruning are each image's own."""

from __future__ import annotations

import pytest
import tiny
import torch
from eager import eager_attention
from pruned import dropped_positions, generate, method_for, oracle, run

from biaslab.attention.capture import capture
from biaslab.errors import InputError, UnsupportedError
from biaslab.maps.collect import collect
from biaslab.pruning import METHODS, budget, prune

FAMILIES = pytest.mark.parametrize("family", tiny.CROSSED)
LAYER = 3


def encoded(vlm, groups=(2, 1, 3)):
    """One prompt per entry, with that many images of different shapes."""
    pictures = iter(tiny.images(sum(groups), seed=3))
    batch = [[next(pictures) for _ in range(n)] for n in groups]
    return vlm.encode(batch, tiny.texts(len(groups)), sample_ids=[f"s{i}" for i in range(len(groups))])


@FAMILIES
def test_every_image_has_its_own_columns(family):
    vlm = tiny.vlm(family)
    enc = encoded(vlm)
    assert enc.owners == [0, 0, 1, 2, 2, 2] and len(enc) == 3 and len(enc.layouts) == len(enc.resized) == 6
    assert all(last - first == layout.n for (first, last), layout in zip(enc.spans, enc.layouts, strict=True))
    for row in range(3):
        own = [span for span, owner in zip(enc.spans, enc.owners, strict=True) if owner == row]
        assert own[0][0] == 0 and all(a[1] == b[0] for a, b in zip(own, own[1:], strict=False))
        assert own[-1][1] == int(enc.visual_mask[row].sum())
        at = enc.visual[row, : own[-1][1]]
        assert (at.diff() > 0).all() and (enc.inputs["input_ids"][row, at] == vlm.image_token_id).all()


@FAMILIES
def test_rows_are_those_of_eager_attention(family):
    vlm = tiny.vlm(family)
    enc = encoded(vlm)
    plain = vlm.forward(enc).logits
    with capture(vlm) as rows:
        assert torch.equal(vlm.forward(enc).logits, plain)
    for layer, attention in enumerate(eager_attention(vlm, enc)):
        for owner, (first, last) in zip(enc.owners, enc.spans, strict=True):
            want = attention[owner, :, -1, enc.visual[owner, first:last]]
            torch.testing.assert_close(rows[layer].values[owner, :, 0, first:last], want, atol=1e-5, rtol=0)


@FAMILIES
@pytest.mark.parametrize("name", ["d2pruner", "random"])
def test_pruned_generation_equals_masked_recompute(family, name):
    vlm = tiny.vlm(family)
    enc = encoded(vlm)
    with prune(vlm, method_for(name, 0.3), LAYER) as state:
        answer, logits = run(vlm, enc)
    assert [len(s.indices) for s in state.selections] == [budget(0.3, layout.n) for layout in enc.layouts]
    assert state.counts == [layout.n for layout in enc.layouts]
    want = oracle(vlm, enc.inputs, answer, dropped_positions(enc, state.selections), LAYER)
    assert (logits - want).abs().max() <= 1e-4


@pytest.mark.parametrize("name", sorted(METHODS))
def test_an_image_does_not_depend_on_other_prompts(name):
    vlm = tiny.vlm("internvl")
    enc = encoded(vlm)
    with prune(vlm, method_for(name), LAYER) as state:
        vlm.forward(enc)
        together = [s.indices.tolist() for s in state.selections]
    pictures = tiny.images(6, seed=3)
    alone = vlm.encode([pictures[3:]], tiny.texts(3)[2:], sample_ids=["s2"])
    with prune(vlm, method_for(name), LAYER) as state:
        vlm.forward(alone)
    assert [s.indices.tolist() for s in state.selections] == together[3:]


def test_two_equal_images_of_a_prompt_get_different_random_tokens():
    vlm = tiny.vlm("internvl")
    (image,) = tiny.images(1)
    enc = vlm.encode([[image, image]], tiny.texts(1))
    with prune(vlm, "random", LAYER) as state:
        vlm.forward(enc)
    a, b = (s.indices.tolist() for s in state.selections)
    assert len(a) == len(b) and a != b


def test_beams_keep_every_image():
    vlm = tiny.vlm("internvl")
    enc = encoded(vlm, (2, 1))
    with prune(vlm, method_for("fastv", 0.5), LAYER) as state:
        vlm.generate(enc, max_new_tokens=3, num_beams=3)
    assert [len(s.indices) for s in state.selections] == [budget(0.5, layout.n) for layout in enc.layouts]


@pytest.mark.parametrize("stored", [False, True])
def test_maps_hold_every_image_of_a_prompt(stored, tmp_path):
    vlm = tiny.vlm("internvl")
    pictures = tiny.images(3, seed=3)
    source = [pictures[:2], pictures[2]]
    out = tmp_path / "maps" if stored else None
    maps = collect(vlm, source, batch_size=2, ids=["pair", "single"], out=out, progress=False)
    assert maps.n == 3
    enc = vlm.encode([source[0]], ["Please describe the provided image."])
    with capture(vlm, heads="mean") as rows:
        vlm.forward(enc)
    key = enc.layouts[1].key
    assert key != enc.layouts[0].key
    mean = maps.moments(2, key).mean
    first, last = enc.spans[1]
    torch.testing.assert_close(torch.as_tensor(mean).float(), rows[2].values[0, :, 0, first:last], atol=1e-5, rtol=0)
    if stored:
        again = collect(vlm, source, batch_size=1, ids=["pair", "single"], out=out, progress=False)
        assert again.n == 3


@FAMILIES
@pytest.mark.parametrize("groups", [(1,), (1, 1), (2,), (2, 1)], ids=str)
def test_a_plain_generate_keeps_what_an_announced_one_keeps_or_is_refused(family, groups):
    vlm = tiny.vlm(family)
    enc = encoded(vlm, groups)
    with prune(vlm, method_for("fastv", 0.3), LAYER) as state:
        run(vlm, enc)
        want = [s.indices.tolist() for s in state.selections]
    newlines = any(layout.placeholders != layout.n for layout in enc.layouts)
    parts = family == "idefics3" and any(layout.tiles != (1, 1) for layout in enc.layouts)
    with prune(vlm, method_for("fastv", 0.3), LAYER) as state:
        if max(groups) > 1 or newlines or parts:
            with pytest.raises(UnsupportedError, match="may be several images"):
                generate(vlm, dict(enc.inputs))
            assert state.selections == []
        else:
            generate(vlm, dict(enc.inputs))
            assert [s.indices.tolist() for s in state.selections] == want
    if family in ("llava", "paligemma"):  # whose images may follow each other
        assert not vlm.family.is_one_image(vlm.model.config, 2 * enc.layouts[0].n)


def test_boxes_need_one_image_and_prompts_at_least_one():
    vlm = tiny.vlm("internvl")
    with pytest.raises(InputError, match="one image per expression"):
        vlm.locate([tiny.images(2)], ["cat"])
    with pytest.raises(InputError, match="without an image"):
        vlm.encode([[]], ["what?"])
    assert len(vlm.ask([tiny.images(2), tiny.images(1)], tiny.texts(2), max_new_tokens=2)) == 2
