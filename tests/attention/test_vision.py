"""The vision tower's attention and features: right values, at the right decoder tokens, in every family."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import tiny
import torch
from flash import NAME
from meter import brightest, whole_pixels
from sweeps import untouched
from towers import attention_meter, eager_tower, grey, recorded
from transformers import AttentionInterface

from biaslab.attention.received import received_attention
from biaslab.attention.vision import tower_shape, watch_tower
from biaslab.attention.vision_record import VisionRequest
from biaslab.errors import InputError, UnsupportedError
from biaslab.models import wrap
from biaslab.models.towers import find_tower

EVERYTHING = VisionRequest(cls=(0, -1), received=(0, -1), features=(0, -1), keys=(0, -1))
each_family = pytest.mark.parametrize("family", tiny.FAMILIES)


@cache
def meter(family, max_tiles=6):
    if max_tiles == 6:
        return attention_meter(tiny.vlm(family))
    model = tiny.build(family, max_tiles=max_tiles)
    return attention_meter(wrap(model, tiny.processor(family, max_tiles=max_tiles)))


def values_of(record):
    """Every tensor of a record that has one value per token, as (N,)."""
    given = {("cls", layer): x.mean(0) for layer, x in (record.cls or {}).items()}
    given |= {("received", layer): x for layer, x in record.received.items()}
    return given | {("features", layer): x.mean(1) for layer, x in record.features.items()}


def check_planted(vlm, size, n=6, seed=0, tokens=None):
    """A token's pixels made white: it is the maximum of everything that is recorded, among those of its kind."""
    layout = vlm.encode([grey(size)], ["?"]).layouts[0]
    sides = np.clip(layout.boxes, 0, 1)[:, 2:] - np.clip(layout.boxes, 0, 1)[:, :2]
    whole = sides.prod(1) > 0.8 * (layout.boxes[:, 2:] - layout.boxes[:, :2]).prod(1)  # most of it is no padding
    order = np.random.default_rng(seed).permutation(np.flatnonzero(whole)) if tokens is None else tokens
    cells = [(k, r) for k in order if (r := whole_pixels(layout, k))][:n]
    assert len(cells) == n
    encoded = vlm.encode([grey(size), *(grey(size, r) for _, r in cells)], ["?"] * (n + 1))
    (dark, *light), _ = recorded(vlm, encoded, EVERYTHING)
    for (k, _), after in zip(cells, light, strict=True):
        for name, values in values_of(after).items():
            own = torch.from_numpy(layout.thumbnail == layout.thumbnail[k])
            gain = (values - values_of(dark)[name])[own]
            first, second = gain.topk(2).values
            assert own.nonzero()[gain.argmax(), 0] == k and second < 0.75 * first, name
            if layout.in_image.all():  # padding draws the queries of padding
                assert values[own].max() == values[k], name
    return layout


@each_family
def test_a_bright_patch_is_the_maximum_at_its_own_token(family):
    for seed, size in enumerate(((250, 150), (150, 310))):
        layout = check_planted(meter(family), size, seed=seed)
        assert layout.n > 4 and (family not in ("internvl", "idefics3", "llava_next") or layout.thumbnail.any())


def test_windows_that_do_not_divide_the_raster():
    """Windows of 4 x 4 tokens, of a raster of 5 x 7: four windows of four different sizes."""
    layout = check_planted(meter("qwen2_5_vl"), (196, 140), n=35, tokens=range(35))
    assert layout.grid == (5, 7)


def test_a_raster_that_the_model_scales_down():
    """More than 9 tiles: 16 x 24 patches become 9 x 14 tokens, by interpolation as the features do."""
    layout = check_planted(meter("llava_onevision", 36), (336, 224), n=6)
    assert layout.grid == (9, 14)


@each_family
def test_several_images_of_a_prompt(family):
    vlm, sizes = meter(family), [(120, 60), (90, 150)]
    plain = [grey(size) for size in sizes]
    second = vlm.encode([plain, plain[:1]], ["?", "?"]).layouts[1]
    k, rectangle = next((k, r) for k in np.flatnonzero(second.in_image) if (r := whole_pixels(second, k)))
    each = []
    for picture in (plain[1], grey(sizes[1], rectangle)):
        encoded = vlm.encode([[plain[0], picture], plain[:1]], ["?", "?"])
        each.append(recorded(vlm, encoded, EVERYTHING)[0])
        assert [r.n for r in each[-1]] == [layout.n for layout in encoded.layouts]
    for name, before in values_of(each[0][1]).items():
        assert brightest(second, k, before.numpy(), values_of(each[1][1])[name].numpy()) == k
    for i in (0, 2):
        for name, before in values_of(each[0][i]).items():
            torch.testing.assert_close(values_of(each[1][i])[name], before)


@each_family
def test_equals_the_eager_attention_of_the_tower(family, monkeypatch):
    vlm = tiny.vlm(family)
    encoded = tiny.encoded(vlm, 3)
    plain = vlm.forward(encoded).logits
    maps, outputs = eager_tower(vlm, encoded)
    skip = find_tower(vlm.model).class_tokens
    mapping = type(vlm.family).tower_tokens
    monkeypatch.setattr(type(vlm.family), "tower_tokens", lambda *given: [given[-1]] * 3)  # rows of patches as they are
    (record, *_), logits = recorded(vlm, encoded, EVERYTHING)
    assert torch.equal(logits, plain)  # nothing changes, to the last bit
    assert (record.cls is None) == (skip == 0)
    for layer in (0, 1):
        received = torch.cat([a.mean((0, 1))[skip:] for a in maps[layer]])
        assert received.std() > 1e-4 * received.mean()
        assert (record.received[layer] - received).abs().max() <= 1e-6
        keys = torch.cat([k[:, skip:].transpose(0, 1).flatten(1) for k in maps[layer, "keys"]])
        assert (record.keys[layer] - keys).abs().max() <= 1e-5
        states = outputs[layer]
        states = states[:, skip:].flatten(0, 1) if states.ndim == 3 else states
        assert torch.equal(record.features[layer], states)
        if skip:
            cls = torch.cat([a[:, 0, skip:] for a in maps[layer]], 1)
            assert (record.cls[layer] - cls).abs().max() <= 1e-6
    monkeypatch.setattr(type(vlm.family), "tower_tokens", mapping)
    assert untouched(vlm)


@each_family
def test_a_batch_gives_what_single_images_give(family):
    vlm = tiny.vlm(family)
    pictures, questions = tiny.images(4), tiny.texts(4)
    together, _ = recorded(vlm, vlm.encode(pictures, questions), EVERYTHING)
    assert len({r.n for r in together}) > 1 or family in ("llava", "paligemma")
    for picture, question, record in zip(pictures, questions, together, strict=True):
        ((alone,), _) = recorded(vlm, vlm.encode([picture], [question]), EVERYTHING)
        for name in ("cls", "received", "features", "keys"):
            held = getattr(record, name) or {}
            assert set(held) == set(getattr(alone, name) or {})
            for layer, x in held.items():
                torch.testing.assert_close(x, getattr(alone, name)[layer], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_generate_runs_the_tower_once_whatever_follows(attn):
    vlm = tiny.vlm("llava_next", attn=attn)
    encoded = tiny.encoded(vlm, 2)
    (want, _), _ = recorded(vlm, encoded, EVERYTHING)
    with watch_tower(vlm, EVERYTHING) as tower, vlm.running(encoded) as inputs:
        vlm.model.generate(**inputs, max_new_tokens=2, num_beams=2, do_sample=False)
        first, second = tower.records(encoded)
    assert (first.n, second.n) == tuple(layout.n for layout in encoded.layouts)
    assert torch.equal(first.received[0], want.received[0])


def packed_kernel(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kw):
    """What FlashAttention computes of sequences that see themselves both ways, one behind the other."""
    ends = kw.get("cu_seq_lens_q")
    lengths = [query.shape[2]] if ends is None else ends.diff().tolist()
    parts = zip(*(x.split(lengths, 2) for x in (query, key, value)), strict=True)
    out = torch.cat([torch.nn.functional.scaled_dot_product_attention(*p, scale=scaling) for p in parts], 2)
    return out.transpose(1, 2).contiguous(), None


@pytest.mark.parametrize("family", tiny.CROSSED)
def test_under_flash_attention_it_is_that_under_sdpa(family):
    """The name stays; towers that pack images hand over the ends of all sequences."""
    vlm, stock = tiny.vlm(family), AttentionInterface()[NAME]
    encoded, config = tiny.encoded(vlm, 3), find_tower(vlm.model).module.config
    want, _ = recorded(vlm, encoded, EVERYTHING)
    before = config._attn_implementation
    AttentionInterface.register(NAME, packed_kernel)
    config._attn_implementation_internal = NAME
    try:
        plain = vlm.forward(encoded).logits
        got, logits = recorded(vlm, encoded, EVERYTHING)
        assert torch.equal(logits, plain)
        assert AttentionInterface()[NAME] is packed_kernel and config._attn_implementation == NAME
    finally:
        config._attn_implementation_internal = before
        AttentionInterface.register(NAME, stock)
    for mine, theirs in zip(got, want, strict=True):
        for name, values in values_of(theirs).items():
            torch.testing.assert_close(values_of(mine)[name], values, rtol=1e-4, atol=1e-5)


def test_only_what_is_asked_is_kept_and_only_of_announced_prompts():
    vlm = tiny.vlm("internvl")
    encoded = tiny.encoded(vlm, 1)
    with watch_tower(vlm, VisionRequest(cls=(-2,))) as tower:
        vlm.vision(encoded)
        assert tower.records(encoded) == []
        vlm.forward(encoded)
        (record,) = tower.records(encoded)
        assert tower.records(encoded) == []  # they are let go
    assert list(record.cls) == [0] and not record.received and not record.features and not record.keys
    with watch_tower(vlm, VisionRequest(features=(1,)), announced=False) as tower:
        vlm.vision(encoded)
        assert list(tower.records(encoded)[0].features) == [1]
    assert untouched(vlm)


def test_what_is_refused():
    vlm = tiny.vlm("internvl")
    with (
        pytest.raises(InputError, match="the vision tower holds layers 0 to 1, not"),
        watch_tower(vlm, VisionRequest(cls=(9,))),
    ):
        pass
    with pytest.raises(UnsupportedError, match="has no vision tower that biaslab can read"):
        tower_shape(torch.nn.Linear(1, 1))
    encoded, other = tiny.encoded(vlm, 2), tiny.encoded(vlm, 1)
    with watch_tower(vlm, EVERYTHING) as tower, pytest.raises(UnsupportedError, match="rows, these images have"):
        vlm.forward(encoded)
        tower.records(other)
    assert untouched(vlm)


@pytest.mark.parametrize("block", [2**25, 700, 1])
def test_received_attention_in_blocks_of_any_size(block):
    g = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 4, 33, 8, generator=g), torch.randn(2, 2, 33, 8, generator=g)
    mask = torch.rand(2, 1, 33, 33, generator=g) > 0.3
    mask |= torch.eye(33, dtype=torch.bool)
    scores = query @ key.repeat_interleave(2, 1).mT * 0.3
    for given, whole in ((None, scores), (mask, scores.masked_fill(~mask, -torch.inf))):
        got = received_attention(query, key, scaling=0.3, attention_mask=given, max_scores=block)
        torch.testing.assert_close(got, whole.softmax(-1).mean((1, 2)))
