"""Attention rows as a pure function against an obvious loop."""

from __future__ import annotations

import pytest
import torch

from biaslab.attention.hook import attention_rows


def reference(q, k, keep, scaling, softcap=None):
    """Full attention, one head at a time, in float64."""
    out = torch.zeros(q.shape[0], q.shape[1], q.shape[2], k.shape[2], dtype=torch.float64)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            s = q[b, h].double() @ k[b, h * k.shape[1] // q.shape[1]].double().T * scaling
            s = torch.tanh(s / softcap) * softcap if softcap else s
            out[b, h] = s.masked_fill(~keep[b], float("-inf")).softmax(-1)
    return out


@pytest.mark.parametrize("kv", [1, 2, 4])
@pytest.mark.parametrize("mask", ["none", "padding", "bool", "additive", "cached", "window", "free", "softcap"])
def test_attention_rows_against_a_loop(kv, mask):
    torch.manual_seed(0)
    past = 5 if mask == "cached" else 0
    n_query, n_key = 12, 12 + past
    q, k = torch.randn(2, 4, n_query, 8), torch.randn(2, kv, n_key, 8)
    at = torch.arange(n_query)[:, None] + past
    keep = (torch.arange(n_key)[None] <= at).expand(2, -1, -1).clone()
    given, kw = None, {}
    pad = torch.ones(2, n_key, dtype=torch.long)
    pad[1, :3] = 0
    if mask == "padding":
        given = pad
        keep &= pad[:, None].bool()
    elif mask in ("bool", "additive"):
        keep &= pad[:, None].bool()
        keep |= torch.eye(n_query, dtype=torch.bool)
        given = keep[:, None]
        if mask == "additive":
            given = torch.zeros(2, 1, n_query, n_key).masked_fill(~given, torch.finfo(torch.float32).min)
    elif mask == "window":
        kw["sliding_window"] = 4
        keep &= torch.arange(n_key)[None] > at - 4
    elif mask == "free":
        kw["is_causal"] = False
        keep[:] = True
    elif mask == "softcap":
        kw["softcap"] = 0.5
    full = reference(q, k, keep, 0.4, kw.get("softcap"))
    rows = torch.tensor([[11, 4, 7], [5, 11, 3]])
    cols = torch.tensor([[0, 2, 9], [3, 8, 5]])
    wanted = torch.stack([full[b][:, rows[b]] for b in range(2)])
    for chunk in (1, 2**20):
        got = attention_rows(q, k, rows, scaling=0.4, attention_mask=given, max_scores=chunk, **kw)
        assert got.dtype == torch.float32 and (got - wanted).abs().max() < 1e-5
        got = attention_rows(q, k, rows, scaling=0.4, attention_mask=given, cols=cols, max_scores=chunk, **kw)
        assert (got - torch.stack([wanted[b][:, :, cols[b]] for b in range(2)])).abs().max() < 1e-5
    shared = attention_rows(q, k, torch.tensor([11]), scaling=0.4, attention_mask=given, **kw)
    assert (shared[:, :, 0] - full[:, :, 11]).abs().max() < 1e-5


def test_masks_shared_by_the_batch():
    q, k = torch.randn(3, 2, 6, 4), torch.randn(3, 2, 6, 4)
    keep = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
    rows = torch.tensor([2, 5])
    assert torch.allclose(
        attention_rows(q, k, rows, scaling=1.0, attention_mask=keep), attention_rows(q, k, rows, scaling=1.0)
    )
