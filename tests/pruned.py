"""Shared by the tests of the pruning engine: runs of tiny models, and what they must agree with."""

from __future__ import annotations

import torch

from biaslab.errors import ProfileMismatchError
from biaslab.pruning import METHODS, make

STEPS = 5


class FlatProfile:
    """An uneven map for any layout, that remembers what it was asked."""

    def __init__(self):
        self.checks = []

    def expected(self, layout, layer, device=None):
        return torch.linspace(1.0, 2.0, layout.n, device=device)[None]

    def check(self, **asked):
        self.checks.append(asked)
        if asked["layer"] == 0:
            raise ProfileMismatchError("not fitted for layer 0")


def method_for(name, keep=0.4):
    options = {"profile": FlatProfile()} if "profile" in METHODS[name].needs else {}
    return make(name, keep=keep, **options)


def generate(vlm, inputs, steps=STEPS, **kw):
    """Greedy tokens (B, steps) and the logits (B, steps, vocabulary) they were taken from."""
    with torch.no_grad():
        out = vlm.model.generate(
            **inputs, max_new_tokens=steps, do_sample=False, eos_token_id=-1, pad_token_id=0,
            return_dict_in_generate=True, output_logits=True, **kw,
        )  # fmt: skip
    return out.sequences[:, -steps:], torch.stack(out.logits, 1)


def run(vlm, enc, **kw):
    with vlm.running(enc) as inputs:
        return generate(vlm, inputs, **kw)


def dropped_positions(enc_visual, selections, counts, length):
    """(B, N) True where a visual token was dropped."""
    gone = torch.zeros(len(counts), length, dtype=torch.bool)
    for row, (selection, n) in enumerate(zip(selections, counts, strict=True)):
        gone[row, enc_visual[row, :n]] = True
        gone[row, enc_visual[row, selection.indices]] = False
    return gone


def oracle(vlm, inputs, answer, gone, layer, renumber=False):
    """Logits of every answer token, layer by layer over the whole sequence: no cache, no hook, none removed.

    Keys of dropped tokens are hidden from layer ``layer`` on.
    """
    model, dec = vlm.model, vlm.decoder
    batch, n = inputs["input_ids"].shape
    ids = torch.cat([inputs["input_ids"], answer], 1)
    real = torch.cat([inputs["attention_mask"].bool(), torch.ones_like(answer, dtype=torch.bool)], 1)
    gone = torch.cat([gone, torch.zeros_like(answer, dtype=torch.bool)], 1)
    names = ("pixel_values", "image_grid_thw")
    seen = {k: inputs[k] for k in names if k in inputs}
    features = model.get_image_features(**seen, return_dict=True).pooler_output
    features = torch.cat(list(features)) if not isinstance(features, torch.Tensor) else features
    hidden = model.get_input_embeddings()(ids)
    spots = (ids == vlm.image_token_id)[..., None]
    hidden = hidden.masked_scatter(spots, features.reshape(-1, hidden.shape[-1]).to(hidden.dtype))
    if "image_grid_thw" in inputs:
        at, _ = model.model.get_rope_index(
            inputs["input_ids"], inputs["mm_token_type_ids"], inputs["image_grid_thw"],
            attention_mask=inputs["attention_mask"],
        )  # fmt: skip
        new = at[:, :, -1:].amax(0) + 1 + torch.arange(answer.shape[1])
        at = torch.cat([at, new.expand(3, -1, -1)], 2)
    else:
        at = (real.long().cumsum(1) - 1).clamp(min=0)
    order = torch.arange(ids.shape[1])
    look = (order[None] <= order[:, None]) & real[:, None]
    short = look & ~gone[:, None]
    for i, block in enumerate(dec.layers):
        if i in (0, layer):
            where = at - (gone.long().cumsum(1) if renumber and i >= layer else 0)
            rope = dec.rotary_emb(hidden, where)
        mask = ((short if i >= layer else look) | torch.eye(ids.shape[1], dtype=torch.bool))[:, None]
        if dec.config._attn_implementation == "eager":
            mask = torch.zeros(mask.shape).masked_fill(~mask, -1e30)
        hidden = block(hidden, attention_mask=mask, position_embeddings=rope, position_ids=None)
        hidden = hidden if isinstance(hidden, torch.Tensor) else hidden[0]
    return model.lm_head(dec.norm(hidden))[:, n - 1 : -1]
