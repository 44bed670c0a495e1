"""A stand-in for the FlashAttention kernel under its name."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "flash_attention_2"
SEEN = []


def kernel(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kw):
    """What FlashAttention computes: causal, aligned at the bottom right, padded keys left out, padded rows empty."""
    SEEN.append(None if attention_mask is None else attention_mask.ndim)
    groups, n_query, n_key = query.shape[1] // key.shape[1], query.shape[2], key.shape[2]
    order = torch.arange(n_key)
    look = (order[None] <= order[n_key - n_query :, None])[None, None]
    if attention_mask is not None:
        look = look & attention_mask[:, None, None, -n_key:].bool()
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    out = scaled_dot_product_attention(query, key, value, attn_mask=look | ~look.any(-1, keepdim=True), scale=scaling)
    return (out * look.any(-1, keepdim=True)).transpose(1, 2).contiguous(), None


@contextmanager
def flash(vlm):
    """The decoder under the name of FlashAttention (set behind transformers' check for the package)."""
    stock, config = AttentionInterface()[NAME], vlm.decoder.config
    before = config._attn_implementation
    AttentionInterface.register(NAME, kernel)
    config._attn_implementation_internal = NAME
    SEEN.clear()
    try:
        yield
        assert AttentionInterface()[NAME] is kernel  # whatever watched has put it back
        assert config._attn_implementation == NAME
    finally:
        config._attn_implementation_internal = before
        AttentionInterface.register(NAME, stock)
