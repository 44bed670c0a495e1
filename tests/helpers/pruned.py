"""Shared by the tests of the pruning engine: runs of tiny models, and what they must agree with."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny
import torch
from foreseen import Foresees

from biaslab.errors import ProfileMismatchError, UnsupportedError
from biaslab.pruning import METHODS, Random, make, prune
from biaslab.pruning.engine.checks import check_setup

STEPS = 5


class FlatProfile(Foresees):
    """An uneven map for any layout, that remembers what it was asked."""

    def __init__(self):
        self.checks = []

    def expected(self, layout, layer, device=None):
        return torch.linspace(1.0, 2.0, layout.n, dtype=torch.float32, device=device)[None]

    def check(self, **asked):
        self.checks.append(asked)
        if asked["layer"] == 0:
            raise ProfileMismatchError("not fitted for layer 0")


def method_for(name, keep=0.4):
    """A method ready to run, merging nothing: what the oracle removes is gone."""
    options = {"profile": FlatProfile()} if "profile" in METHODS[name].needs else {}
    method = make(name, keep=keep, **options)
    return replace(method, merge=False) if method.merges else method


def words_only(vlm):
    """Options of generate under which random weights cannot answer with an image: `oracle` reads the answer."""
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    ids = [getattr(vlm.model.config, name, None) for name in names]
    return {"suppress_tokens": [i for i in ids if i is not None], "eos_token_id": -1, "pad_token_id": 0}


def generate(vlm, inputs, steps=STEPS, **kw):
    """Greedy tokens (B, steps) and the raw logits (B, steps, vocabulary) at their places."""
    with torch.no_grad():
        out = vlm.model.generate(
            **inputs, max_new_tokens=steps, do_sample=False, return_dict_in_generate=True, output_logits=True,
            **words_only(vlm), **kw,
        )  # fmt: skip
    return out.sequences[:, -steps:], torch.stack(out.logits, 1)


def run(vlm, enc, **kw):
    with vlm.running(enc) as inputs:
        return generate(vlm, inputs, **kw)


def lowest_layer(vlm):
    """Lowest K at which the model can be pruned, by what its family and its configuration say."""
    vision = getattr(vlm.model.config, "vision_config", None)
    return max(vlm.family.lowest_layer, len(getattr(vision, "deepstack_visual_indexes", None) or ()))


def refused(vlm, layer):
    """Whether the model cannot be pruned at ``layer``; then that it says so."""
    if layer >= lowest_layer(vlm):
        return False
    with pytest.raises(UnsupportedError, match="use K >="), prune(vlm, Random(), layer):
        pytest.fail("was not refused before any work")
    return True


def serves(vlm, method, layer):
    """Whether a method can be run on a model; if not, that it says why in one line before any work."""
    try:
        check_setup(vlm, method, layer, "original")
    except UnsupportedError as error:
        assert method.name in str(error) and "\n" not in str(error)
        return False
    return True


def dropped_positions(enc, selections):
    """(B, N) True where a visual token was dropped."""
    gone = torch.zeros_like(enc.inputs["input_ids"], dtype=torch.bool)
    for row, (first, last), selection in zip(enc.owners, enc.spans, selections, strict=True):
        own = enc.visual[row, first:last]
        gone[row, own] = True
        gone[row, own[selection.indices]] = False
    return gone


def prompt_positions(vlm, inputs):
    """Position ids that a stock ``generate`` hands to the decoder at the prefill, (..., B, N)."""
    found = []

    def look(module, args, kwargs):
        found.append(kwargs["position_ids"])

    handle = vlm.decoder.register_forward_pre_hook(look, with_kwargs=True)
    try:
        generate(vlm, {k: copy.copy(v) for k, v in inputs.items()}, steps=1)
    finally:
        handle.remove()
    return found[0].expand(*found[0].shape[:-2], *inputs["input_ids"].shape)


def oracle(vlm, inputs, answer, gone, layer, renumber=False, merge=None, places=None, states=None, trimmed=False):
    """Logits of every answer token from one forward over the whole sequence: no cache, no token removed.

    Keys of dropped tokens are hidden from layer ``layer`` on by a full attention mask, built here and handed to
    every layer; everything else is the stock model. Of a schedule ``gone`` and ``layer`` are lists, a stage each.
    ``merge(hidden)`` changes what enters the last of these, ``states(index, hidden)`` what enters any layer; ``places``
    (B, N) are the positions of prompt tokens from ``layer`` on. ``trimmed`` hides what the last stage has dropped from
    the answer's rows in every layer.
    """
    gones, layers = (gone, layer) if isinstance(layer, list) else ([gone], [layer])
    model, dec = vlm.model, vlm.decoder
    n, at = inputs["input_ids"].shape[1], prompt_positions(vlm, inputs)
    whole = {k: copy.copy(v) for k, v in inputs.items()}
    whole["input_ids"] = torch.cat([inputs["input_ids"], answer], 1)
    whole["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(answer)], 1)
    whole["position_ids"] = torch.cat([at, at[..., -1:] + 1 + torch.arange(answer.shape[1])], -1)
    for name, kind in (("mm_token_type_ids", 0), ("token_type_ids", 1)):  # of text, and of an answer
        if name in inputs:
            whole[name] = torch.cat([inputs[name], torch.full_like(answer, kind)], 1)
    real = whole["attention_mask"].bool()
    gones = [torch.cat([gone, torch.zeros_like(answer, dtype=torch.bool)], 1) for gone in gones]
    order = torch.arange(real.shape[1])
    causal = ((order[None] <= order[:, None]) & real[:, None])[:, None]
    alone = torch.eye(real.shape[1], dtype=torch.bool)  # a hidden row may see itself: no row is empty

    def hand_over(index):
        stage = sum(layer <= index for layer in layers)

        def hook(module, args, kwargs):
            given, eager = kwargs.get("attention_mask"), dec.config._attn_implementation == "eager"
            look = causal if given is None else given if given.dtype == torch.bool else given == 0
            look = look & ~gones[stage - 1][:, None, None] if stage else look.clone()
            if trimmed:
                look[:, :, n:] &= ~gones[-1][:, None, None]
            mask = look | alone
            if eager:
                mask = torch.zeros(mask.shape).masked_fill(~mask, -1e30)
            kwargs = {**kwargs, "attention_mask": mask}
            hidden = args[0] if args else kwargs["hidden_states"]
            if states is not None or (merge is not None and index == layers[-1]):
                hidden = merge(hidden) if states is None else states(index, hidden)
                args, kwargs = ((hidden, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": hidden})
            if (renumber or places is not None) and stage:
                moved = whole["position_ids"] - gones[stage - 1].long().cumsum(1) if renumber else whole["position_ids"]
                if places is not None:
                    moved = torch.cat([places, moved[..., places.shape[1] :]], -1)
                kwargs["position_embeddings"] = dec.rotary_emb(hidden, moved)
            return args, kwargs

        return hook

    handles = [b.register_forward_pre_hook(hand_over(i), with_kwargs=True) for i, b in enumerate(dec.layers)]
    try:
        with torch.no_grad():
            return model(**whole, use_cache=False).logits[:, n - 1 : -1]
    finally:
        for handle in handles:
            handle.remove()


def unpadded(vlm):
    """Two prompts of one length without padding, of which one drops more: its row is filled up with dropped tokens.

    What `dropped_positions` and the like read of an ``Encoded``: nobody announces these prompts.
    """
    enc = vlm.encode(tiny.images(2), ["Where is it?", "x"])
    a, b = enc.inputs["input_ids"]
    b = b[enc.inputs["attention_mask"][1] == 1]
    ids = torch.stack([a, torch.cat([b, a[-6:].repeat(20)[: len(a) - len(b)]])])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": enc.inputs["pixel_values"]}
    visual = [row.nonzero()[:, 0] for row in ids == vlm.image_token_id]
    return SimpleNamespace(
        inputs=inputs,
        owners=[0, 1],
        spans=[(0, len(own)) for own in visual],
        visual=torch.nn.utils.rnn.pad_sequence(visual, batch_first=True),
    )


def second_turn_error(vlm, enc, question, method, layer, steps=3):
    """Largest difference between the logits of a second turn on a pruned cache and those of the oracle.

    ``question`` (B, Q) token ids follow the first answer.
    """
    with prune(vlm, method, layer) as state, vlm.running(enc) as inputs, torch.no_grad():
        options = {"do_sample": False, "return_dict_in_generate": True, "max_new_tokens": steps, **words_only(vlm)}
        first = vlm.model.generate(**inputs, **options)
        kept = state.selections
        ids = torch.cat([first.sequences, question], 1)
        more = torch.ones(len(ids), steps + question.shape[1], dtype=torch.long)
        mask = torch.cat([inputs["attention_mask"], more], 1)
        turn = {"input_ids": ids, "attention_mask": mask, "past_key_values": first.past_key_values}
        second = vlm.model.generate(**turn, output_logits=True, **options)
        assert state.selections is kept
    answer = torch.cat([ids[:, enc.last + 1 :], second.sequences[:, -steps:]], 1)
    want = oracle(vlm, enc.inputs, answer, dropped_positions(enc, kept), layer)[:, -steps:]
    return float((torch.stack(second.logits, 1) - want).abs().max())
