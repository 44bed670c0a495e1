"""Layers with a sliding window below K: against recomputation without cache, hooks or pruning.

Where all layers below K have one, layer K is the one by which transformers measures the masks of later steps.
"""

from __future__ import annotations

import pytest
import tiny
import torch
from pruned import STEPS, dropped_positions, generate, oracle, run, second_turn_error
from transformers import DynamicCache

from biaslab import cost
from biaslab.attention.capture import capture
from biaslab.errors import UnsupportedError
from biaslab.pruning import FastV, Random, prune
from biaslab.pruning.engine.pruned_index import whole

WINDOW = 9  # shorter than every prompt here
#: layer K is the first with full attention, or not
KINDS = pytest.mark.parametrize(("kinds", "layer"), [("ssff", 2), ("ssff", 3), ("sfff", 1), ("sssf", 3), ("fsff", 2)])
ATTN = pytest.mark.parametrize("attn", ["sdpa", "eager"])


def check(vlm, enc, method, layer, positions="original"):
    """Pruned cached generation is the masked recompute, and pruning changes what the model says."""
    plain = run(vlm, enc)[1]
    with prune(vlm, method, layer, positions=positions) as state:
        answer, logits = run(vlm, enc)
    gone = dropped_positions(enc, state.selections)
    want = oracle(vlm, enc.inputs, answer, gone, layer, positions == "renumber")
    assert (logits - want).abs().max() <= 1e-4
    assert (logits - plain).abs().max() > 1e-2
    return state


@ATTN
@KINDS
@pytest.mark.parametrize("batch", [1, 3])
def test_cached_generation_equals_masked_recompute(kinds, layer, attn, batch):
    vlm = tiny.windowed(kinds, WINDOW, attn=attn)
    enc = tiny.encoded(vlm, batch)
    assert batch == 1 or enc.inputs["attention_mask"].min() == 0
    check(vlm, enc, Random(keep=0.3), layer)


@pytest.mark.parametrize("window", [4, 45, 500])
def test_windows_of_any_length(window):
    """Within every prompt, within some, and beyond them all: the cache's layers are of the same kind in each case."""
    vlm = tiny.windowed("ssff", window)
    enc = tiny.encoded(vlm, 3)
    assert 4 < min(enc.inputs["attention_mask"].sum(1).tolist()) < 45 < enc.last + 1 < 500
    check(vlm, enc, Random(keep=0.3), 2)


@pytest.mark.parametrize(
    ("family", "text"),
    [("internvl", "qwen3"), ("qwen2_vl", None), ("qwen2_5_vl", None), ("llava_onevision", None)],
)
def test_other_decoders(family, text):
    vlm = tiny.windowed("ssff", WINDOW, family=family, **({"text": text} if text else {}))
    check(vlm, tiny.encoded(vlm, 3), FastV(keep=0.3, queries="text"), 2)


def test_renumbered_positions():
    vlm = tiny.windowed("ssff", WINDOW)
    check(vlm, tiny.encoded(vlm, 3), Random(keep=0.3), 2, "renumber")


@ATTN
def test_several_images_in_a_prompt(attn):
    vlm = tiny.windowed("ssff", WINDOW, attn=attn)
    pictures = tiny.images(6, seed=3)
    enc = vlm.encode([pictures[:2], pictures[2:3], pictures[3:]], tiny.texts(3), sample_ids=["a", "b", "c"])
    state = check(vlm, enc, Random(keep=0.3), 2)
    assert len(state.selections) == 6


@ATTN
@KINDS
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("asked", [4, 60])  # 60: more than were dropped
def test_second_turn(kinds, layer, attn, batch, asked):
    vlm = tiny.windowed(kinds, WINDOW, attn=attn)
    enc = tiny.encoded(vlm, batch)
    question = torch.randint(10, 200, (batch, asked), generator=torch.Generator().manual_seed(0))
    assert second_turn_error(vlm, enc, question, Random(keep=0.3), layer) <= 1e-4


def without_padding(vlm):
    """Two prompts of equal length, without padding, of 12 and of 4 visual tokens: the second needs fillers."""
    enc = vlm.encode(tiny.images(2), ["Where is it?", "x"])
    a, b = enc.inputs["input_ids"]
    b = b[enc.inputs["attention_mask"][1] == 1]
    ids = torch.stack([a, torch.cat([b, a[-6:].repeat(20)[: len(a) - len(b)]])])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": enc.inputs["pixel_values"]}


@ATTN
def test_fillers_without_padding(attn):
    vlm, layer = tiny.windowed("ssff", WINDOW, attn=attn), 2
    inputs = without_padding(vlm)
    with prune(vlm, FastV(keep=0.5), layer) as state:
        answer, logits = generate(vlm, inputs)
    n = inputs["input_ids"].shape[1]
    assert state.kv_lengths() == [WINDOW - 1] * 2 + [n - 2 + STEPS - 1] * 2
    is_image = inputs["input_ids"] == vlm.image_token_id
    gone = is_image.clone()
    for row, selection in enumerate(state.selections):
        gone[row, is_image[row].nonzero()[selection.indices, 0]] = False
    want = oracle(vlm, inputs, answer, gone, layer)
    assert (logits - want).abs().max() <= 1e-4


def test_beams():
    """Copies of a row are reordered in every layer of the cache alike."""
    vlm = tiny.windowed("ssff", WINDOW)
    enc = tiny.encoded(vlm, 2)
    with prune(vlm, FastV(keep=0.3), 2):
        both = vlm.generate(enc, max_new_tokens=4, num_beams=3)
        for i in range(2):
            one = vlm.encode(tiny.images(2)[i : i + 1], tiny.texts(2)[i : i + 1])
            assert vlm.generate(one, max_new_tokens=4, num_beams=3) == [both[i]]


@KINDS
def test_keeping_all_changes_nothing(kinds, layer):
    vlm = tiny.windowed(kinds, WINDOW)
    enc = tiny.encoded(vlm, 3)
    tokens, logits = run(vlm, enc)
    with prune(vlm, FastV(keep=1.0), layer):
        kept = run(vlm, enc)
    assert torch.equal(kept[0], tokens) and torch.equal(kept[1], logits)


def test_entries_are_those_that_the_cache_holds():
    """A windowed layer holds one less than its window, whatever its length says."""
    vlm, layer = tiny.windowed("ssff", WINDOW), 2
    enc = tiny.encoded(vlm, 1)
    n = enc.layouts[0].n
    with prune(vlm, Random(keep=3), layer) as state, vlm.running(enc) as inputs, torch.no_grad():
        cache = vlm.model.generate(**inputs, max_new_tokens=4, return_dict_in_generate=True).past_key_values
        assert state.kv_lengths() == [x.keys.shape[2] for x in cache.layers]
    sizes = (vlm.model.config.text_config, n, enc.last + 1 - n)
    assert state.kv_lengths() == cost.kv_entries(*sizes, keep_n=3, layer=layer, new_tokens=4)


def test_rows_of_pruned_layers():
    vlm, layer = tiny.windowed("ssff", WINDOW), 2
    enc = tiny.encoded(vlm, 3)
    with capture(vlm, range(4)) as rows, prune(vlm, FastV(keep=0.3), layer) as state:
        run(vlm, enc)
    for row, selection in enumerate(state.selections):
        assert int(rows[1].mask[row].sum()) == enc.layouts[row].n
        for i in (2, 3):
            assert rows[i].kept[row, rows[i].mask[row]].tolist() == selection.indices.tolist()


@pytest.mark.parametrize("kinds", ["ssff", "ffff"])
def test_a_cache_that_was_emptied_is_as_good_as_new(kinds):
    """Another prompt in it, and then one without an image, owe nothing to the first."""
    vlm = tiny.windowed(kinds, WINDOW)
    talk = torch.randint(10, 200, (2, 30), generator=torch.Generator().manual_seed(0))
    talk = {"input_ids": talk, "attention_mask": torch.ones_like(talk).index_fill(1, torch.arange(2), 0)}
    prompts = [tiny.encoded(vlm, 3).inputs, tiny.encoded(vlm, 2, seed=1).inputs, talk]
    wanted = generate(vlm, talk)
    with prune(vlm, Random(keep=0.3), 2):
        fresh = [generate(vlm, dict(inputs)) for inputs in prompts]
        cache = DynamicCache(config=vlm.model.config.text_config)
        for inputs, (tokens, logits) in zip(prompts, fresh, strict=True):
            cache.reset()
            again = generate(vlm, dict(inputs), past_key_values=cache)
            assert torch.equal(again[0], tokens) and torch.equal(again[1], logits)
    assert torch.equal(fresh[2][0], wanted[0]) and torch.equal(fresh[2][1], wanted[1])


def test_a_mask_of_another_width_is_refused():
    """What a decoder that measures its masks in another way would hand over."""
    cut = whole(2, 6, torch.device("cpu"))
    wide = torch.ones(2, 1, 1, 9, dtype=torch.bool)
    assert cut.mask(wide, prefill=False, later=3).shape == wide.shape
    for mask, later in ((wide, 2), (wide, 4), (wide[..., :5], None)):
        with pytest.raises(UnsupportedError, match=r"mask of \d columns for 6 \+ \d tokens"):
            cut.mask(mask, prefill=False, later=later)


def test_windows_from_k_on_are_refused():
    for kinds in ("ffsf", "sfsf", "ssss"):
        vlm = tiny.windowed(kinds, WINDOW)
        with pytest.raises(UnsupportedError, match="sliding_attention"), prune(vlm, Random(), 2):
            pytest.fail("was not refused before any work")
