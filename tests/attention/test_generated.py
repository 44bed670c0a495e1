"""Rows of generated tokens equal what the stock model attends to at its decode steps, under eager attention."""

from __future__ import annotations

import pytest
import tiny
import torch
from eager import eager

import biaslab as bl
from biaslab.attention.capture import capture
from biaslab.errors import InputError, UnsupportedError
from biaslab.pruning import make

each_family = pytest.mark.parametrize("family", tiny.FAMILIES)


def steps(vlm, enc, tokens=4, **kw):
    """What ``generate`` itself returns of its attention: [step][layer] of (B, H, rows, keys), and the sequences."""
    with eager(vlm), vlm.running(enc) as inputs, torch.no_grad():
        out = vlm.model.generate(
            **inputs, max_new_tokens=tokens, do_sample=False, output_attentions=True, return_dict_in_generate=True, **kw
        )
    return out.attentions, out.sequences


def assert_equal(rows, attentions, layer, columns, column_mask, open_):
    for b in range(len(columns)):
        cols = columns[b][column_mask[b]]
        for t, of_step in enumerate(attentions):
            assert bool(rows.query_mask[b, t]) == bool(open_[b, t])
            got = rows.values[b, :, t][:, rows.mask[b]]
            if open_[b, t]:
                assert (got - of_step[layer][b, :, -1][:, cols]).abs().max() <= 1e-4
            else:
                assert (got == 0).all()


@each_family
def test_equals_the_attention_that_generate_returns(family):
    vlm = tiny.vlm(family)
    enc = tiny.encoded(vlm, 3)
    free = tiny.sequences(vlm, enc, 4)
    attentions, _ = steps(vlm, enc, min_new_tokens=4)
    with capture(vlm, [0, 3], queries="generated") as rows:
        assert torch.equal(tiny.sequences(vlm, enc, 4), free)  # nothing changes
    open_ = torch.ones(3, 4, dtype=torch.bool)
    for layer in (0, 3):
        assert rows[layer].values.shape[2] == 4
        assert_equal(rows[layer], attentions, layer, enc.visual, enc.visual_mask, open_)
        assert rows[layer] is rows[layer]  # put together once


def test_rows_behind_the_end_of_an_answer_are_fillers():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 3)
    tokens = tiny.sequences(vlm, enc, 5)[:, enc.last + 1 :]
    end = int(tokens[1, 1])  # the answer of the second prompt ends with its second token
    attentions, sequences = steps(vlm, enc, tokens=5, eos_token_id=end, pad_token_id=0)
    with capture(vlm, [2], queries="generated") as rows:
        vlm.generate(enc, max_new_tokens=5, eos_token_id=end, pad_token_id=0)
    made = sequences[:, enc.last + 1 :]
    open_ = torch.ones(made.shape, dtype=torch.bool)
    open_[:, 1:] = (made[:, :-1] == end).cumsum(1) == 0  # the row behind the end has nothing to choose
    assert not bool(open_.all()) and bool(open_[:, 1].any())
    assert_equal(rows[2], attentions, 2, enc.visual, enc.visual_mask, open_)
    (_, mean), *_ = rows.per_image(enc)
    assert torch.allclose(mean[0], rows[2].values[0].sum(1)[:, : mean.shape[-1]] / open_[0].sum())


@pytest.mark.parametrize("kinds", ["ssff", "fsfs"])
def test_sliding_windows_and_static_caches(kinds):
    vlm = tiny.windowed(kinds)
    enc = tiny.encoded(vlm, 2)
    with capture(vlm, queries="generated") as rows:
        tiny.sequences(vlm, enc, 4)
    # without a cache nothing slides: every step is a whole forward, whose last row is the one
    sequence = tiny.sequences(vlm, enc, 4)
    for t in range(4):
        with vlm.running(enc) as inputs, capture(vlm, queries="last") as last, torch.no_grad():
            ids = sequence[:, : enc.last + 1 + t]
            mask = torch.cat([inputs["attention_mask"], inputs["attention_mask"].new_ones(2, t)], 1)
            vlm.model.generate(
                **{**inputs, "input_ids": ids, "attention_mask": mask}, max_new_tokens=1, do_sample=False
            )
        for layer in range(4):
            assert (rows[layer].values[:, :, t] - last[layer].values[:, :, 0]).abs().max() < 1e-4
    if kinds == "ssff":
        plain = tiny.vlm("internvl")
        enc = tiny.encoded(plain, 2)
        with capture(plain, [1], queries="generated") as dynamic:
            tiny.sequences(plain, enc, 4)
        with capture(plain, [1], queries="generated") as static:
            tiny.sequences(plain, enc, 4, cache_implementation="static")
        assert (dynamic[1].values - static[1].values).abs().max() < 1e-5


def test_under_pruning_the_kept_tokens_alone_have_columns():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 2)
    with bl.prune(vlm, make("uniform", keep=0.5), layer=2), capture(vlm, [1, 3], queries="generated") as rows:
        tiny.sequences(vlm, enc, 4)
    with bl.prune(vlm, make("uniform", keep=0.5), layer=2), eager(vlm), vlm.running(enc) as inputs, torch.no_grad():
        out = vlm.model.generate(
            **inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False, output_attentions=True,
            return_dict_in_generate=True,
        )  # fmt: skip
    assert rows[1].kept is None and rows[1].values.shape[2] == rows[3].values.shape[2] == 4
    for t, of_step in enumerate(out.attentions):
        for b in range(2):
            cols = enc.visual[b][enc.visual_mask[b]]
            assert (rows[1].values[b, :, t][:, rows[1].mask[b]] - of_step[1][b, :, -1][:, cols]).abs().max() < 1e-4
            # of the short sequence: as much attention as the visual tokens in it get
            if t:
                total = of_step[3][b, :, -1].sum(-1)
                assert (rows[3].values[b, :, t].sum(-1) <= total + 1e-5).all() and rows[3].values[b, :, t].sum() > 0


def test_what_has_no_decode_step_per_token_is_refused():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 2)
    with capture(vlm, [1], queries="generated") as rows:
        with pytest.raises(UnsupportedError, match="beam search has not"):
            vlm.generate(enc, num_beams=2)
        with pytest.raises(UnsupportedError, match="without a cache"):
            vlm.generate(enc, use_cache=False)
        vlm.forward(enc)  # nothing is generated: the last row of the prompt alone
        assert rows[1].values.shape[2] == 1
    with pytest.raises(InputError, match="'generated'"), capture(vlm, queries="answers"):
        pass
