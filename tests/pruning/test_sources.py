"""Keys, values, embeddings and positions that methods read: what the stock model holds, at each image's tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import tiny
import torch
from pruned import lowest_layer, run

from biaslab.pruning import Method, Random, Stage, prune
from biaslab.pruning.base import descending

NEEDS = frozenset({"keys", "values", "embeddings", "rotary", "text", "features"})


@dataclass(frozen=True, eq=False, kw_only=True)
class Spy(Method):
    """Keeps the first tokens, and what it was shown."""

    own: bool = False
    raw: bool = False

    name: ClassVar[str] = "spy"
    needs: ClassVar[frozenset[str]] = NEEDS
    seen: ClassVar[list] = []

    def layer_read(self, layer):
        return layer if self.own else layer - 1

    @property
    def raw_values(self):
        return self.raw

    def pick(self, ctx, scores):
        self.seen.append(ctx)
        return descending(torch.zeros(ctx.n))[: ctx.budget], {}


def stock(vlm, enc):
    """Keys and values of every layer after an unpruned generate, and the arguments of the decoder's first call."""
    calls = []
    handle = vlm.decoder.register_forward_pre_hook(lambda m, a, k: calls.append(k), with_kwargs=True)
    with vlm.running(enc) as inputs, torch.no_grad():
        out = vlm.model.generate(**inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True)
    handle.remove()
    return out.past_key_values, calls[0]


@pytest.mark.parametrize("family", tiny.CROSSED)
def test_they_are_what_the_stock_model_holds(family):
    """Two images in one prompt and one in another, of unequal length; own layer and the one before."""
    vlm = tiny.vlm(family)
    pictures = tiny.images(3, seed=3)
    enc = vlm.encode([pictures[:2], pictures[2:]], tiny.texts(2), sample_ids=["a", "b"])
    layer, (cache, given) = max(1, lowest_layer(vlm)), stock(vlm, enc)
    is_image = enc.inputs["input_ids"] == vlm.image_token_id
    for own in (False, True):
        Spy.seen.clear()
        with prune(vlm, Spy(keep=0.5, own=own), layer):
            run(vlm, enc, steps=1)
        held = cache.layers[layer if own else layer - 1]
        assert len(Spy.seen) == 3
        for ctx, row, (first, last) in zip(Spy.seen, enc.owners, enc.spans, strict=True):
            at = enc.visual[row, first:last]
            text = slice(int(is_image[row].nonzero().max()) + 1, enc.last + 1)
            close = {"atol": 1e-4, "rtol": 1e-4}
            torch.testing.assert_close(ctx.keys, held.keys[row][:, at], **close)
            torch.testing.assert_close(ctx.values, held.values[row][:, at], **close)
            torch.testing.assert_close(ctx.text_keys, held.keys[row][:, text], **close)
            torch.testing.assert_close(ctx.text_values, held.values[row][:, text], **close)
            assert torch.equal(ctx.embeddings, given["inputs_embeds"][row, at])
            assert torch.equal(ctx.text_embeddings, given["inputs_embeds"][row, text])
            positions = given["position_ids"]
            positions = positions[-3:, row] if positions.ndim == 3 else positions[row % len(positions)][None]
            assert torch.equal(ctx.rotary.positions, positions[:, at])
            assert torch.equal(ctx.rotary.theta, vlm.decoder.rotary_emb.inv_freq)


@pytest.mark.parametrize("first", [0, 1])
def test_behind_a_cut_they_are_those_of_what_is_left(first):
    """The layer that cuts sees of each token that is left what it would see of it without a cut."""
    vlm = tiny.vlm("qwen2_5_vl")
    enc = tiny.encoded(vlm, 3)
    cache, given = stock(vlm, enc)
    Spy.seen.clear()
    with prune(vlm, schedule=[Stage(first, Random(), 0.6), Stage(first + 1, Spy(), 0.3)]) as state:
        run(vlm, enc, steps=1)
    for row, ctx in enumerate(Spy.seen):
        left = enc.visual[row, : enc.layouts[row].n][state.stages[0][row].indices]
        assert torch.equal(ctx.embeddings, given["inputs_embeds"][row, left])
        assert torch.equal(ctx.rotary.positions, given["position_ids"][-3:, row, left])
        torch.testing.assert_close(ctx.values, cache.layers[first].values[row][:, left], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ctx.keys, cache.layers[first].keys[row][:, left], atol=1e-4, rtol=1e-4)
        n = len(ctx.text)
        for ours, theirs in ((ctx.text_values, cache.layers[first].values), (ctx.text_keys, cache.layers[first].keys)):
            torch.testing.assert_close(ours, theirs[row][:, enc.last + 1 - n : enc.last + 1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layer", [1, 2])
def test_raw_values_are_projected_without_the_norm(layer):
    vlm, entered = tiny.vlm("internvl"), []
    enc = tiny.encoded(vlm, 2)
    before = vlm.decoder.layers[layer - 1]
    handle = before.register_forward_pre_hook(lambda m, args, kw: entered.append(args[0]), with_kwargs=True)
    tokens = run(vlm, enc, steps=1)[0]
    handle.remove()
    want = before.self_attn.v_proj(entered[0]).unflatten(-1, (-1, before.self_attn.head_dim)).transpose(1, 2)
    Spy.seen.clear()
    with prune(vlm, Spy(keep=1.0, raw=True), layer):
        assert torch.equal(run(vlm, enc, steps=1)[0], tokens)
    for row, ctx in enumerate(Spy.seen):
        at = enc.visual[row, : enc.layouts[row].n]
        torch.testing.assert_close(ctx.values, want[row][:, at], atol=1e-5, rtol=1e-4)
        assert (ctx.keys - ctx.values).abs().max() > 0.1
    assert not before._forward_pre_hooks
