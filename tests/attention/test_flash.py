"""FlashAttention's path without FlashAttention: a stand-in kernel under its name, which gets the 2-D masks that
transformers makes for it. Everything but the kernel is the code that runs on a GPU.
"""

from __future__ import annotations

import pytest
import tiny
import torch
from flash import NAME, SEEN, flash, kernel
from pruned import method_for, run
from transformers import AttentionInterface

from biaslab.attention.capture import capture
from biaslab.attention.hook import attention_rows
from biaslab.attention.scores import SCORES
from biaslab.errors import UnsupportedError
from biaslab.pruning import prune

FAMILIES = pytest.mark.parametrize("family", tiny.CROSSED)


def masks_are_lost(enc):
    """Whether transformers' 2-D masks cannot say what the model's own masks say: then the stock model differs."""
    return "token_type_ids" in enc.inputs


@FAMILIES
@pytest.mark.parametrize("score", sorted(SCORES))
def test_rows_under_flash_attention_are_those_under_sdpa(family, score):
    vlm = tiny.vlm(family)
    enc = tiny.encoded(vlm, 3)
    with capture(vlm, queries="text", score=score) as want:
        vlm.forward(enc)
    with flash(vlm):
        plain = vlm.forward(enc).logits
        with capture(vlm, queries="text", score=score) as rows:
            logits = vlm.forward(enc).logits
        assert set(SEEN) == {2}  # the batch is padded
    assert torch.equal(logits, plain)
    if masks_are_lost(enc):
        assert (plain - vlm.forward(enc).logits).abs().max() > 1e-3
        return
    for layer in want:
        torch.testing.assert_close(rows[layer].values, want[layer].values, atol=1e-5, rtol=0)


@FAMILIES
@pytest.mark.parametrize("batch", [1, 3])
def test_pruned_generation_under_flash_attention_is_that_under_sdpa(family, batch):
    vlm, layer = tiny.vlm(family), 3
    enc = tiny.encoded(vlm, batch)
    if masks_are_lost(enc):
        with flash(vlm), prune(vlm, method_for("d2pruner", 1.0), layer):
            kept_all = run(vlm, enc)
        with flash(vlm):
            assert torch.equal(kept_all[1], run(vlm, enc)[1])
        return
    with prune(vlm, method_for("d2pruner", 0.3), layer) as state:
        tokens, logits = run(vlm, enc)
        kept = [s.indices.tolist() for s in state.selections]
    with flash(vlm), prune(vlm, method_for("d2pruner", 0.3), layer) as state:
        flash_tokens, flash_logits = run(vlm, enc)
        assert [s.indices.tolist() for s in state.selections] == kept
    assert torch.equal(flash_tokens, tokens)
    torch.testing.assert_close(flash_logits, logits, atol=1e-4, rtol=0)


def test_watches_of_two_models_under_flash_attention_end_in_any_order():
    one, two = tiny.vlm("internvl"), tiny.vlm("llava")
    with flash(one), flash(two):
        first, second = capture(one, [1]), capture(two, [1])
        rows = first.__enter__()
        second.__enter__()
        one.forward(tiny.encoded(one, 1))
        first.__exit__(None, None, None)
        assert len(rows) == 1 and AttentionInterface()[NAME] is not kernel
        second.__exit__(None, None, None)


def test_rows_with_a_padding_mask_are_the_dense_softmax():
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 4, 9, 8, generator=g), torch.randn(2, 2, 9, 8, generator=g)
    padding = torch.ones(2, 9, dtype=torch.long)
    padding[1, :4] = 0
    rows = torch.tensor([[8, 5], [8, 6]])
    got = attention_rows(q, k, rows, scaling=0.3, attention_mask=padding)
    scores = q @ k.repeat_interleave(2, 1).transpose(2, 3) * 0.3
    look = torch.ones(9, 9).tril().bool()[None] & padding[:, None].bool()
    want = scores.masked_fill(~look[:, None], float("-inf")).softmax(-1)
    for b in range(2):
        torch.testing.assert_close(got[b], want[b][:, rows[b]], atol=1e-6, rtol=0)


def test_an_attention_that_is_not_there_is_refused(monkeypatch):
    vlm = tiny.vlm("internvl")
    monkeypatch.setattr(vlm.decoder.config, "_attn_implementation_internal", "kernels-community/flash-none")
    with pytest.raises(UnsupportedError, match="attn_implementation='sdpa'"), capture(vlm):
        pass
