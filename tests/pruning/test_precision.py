"""Rows, scores and choices are those of float32, whatever autocast, default type or inference mode surrounds them."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import tiny
import torch
from foreseen import said
from methods import further
from pruned import method_for
from torch.nn.functional import normalize

from biaslab.attention.capture import capture
from biaslab.attention.hook import attention_rows, watch
from biaslab.attention.scores import SCORES
from biaslab.core.layout import TokenLayout
from biaslab.pruning import METHODS, make, prune
from biaslab.pruning.base import TokenContext

LAYER = 3


@contextmanager
def default_type(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


AROUND = {
    "autocast bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "default bfloat16": lambda: default_type(torch.bfloat16),
    "default float16": lambda: default_type(torch.float16),
    "default float64": lambda: default_type(torch.float64),
    "inference mode": torch.inference_mode,
}
OPTIONS = {
    "divprune": [{}, {"start": "central"}],
    "d2pruner": [{}, {"spatial": "gaussian", "pivots_suppress": True}, {"quota": "tile", "alpha": 1.0}],
    "relative": [{}, {"debias": "log", "normalise": "mass"}],
    "stagewise": [{"below": 1}],  # the layer that is given beside K - 1
}


def context(seed, dtype):
    """An image of which many tokens say nearly the same, so that half precision ties them."""
    generator = torch.Generator().manual_seed(seed)
    layout = TokenLayout.raster(12, 12, size=(240, 240), family="toy")
    features = torch.randn(1, 48, generator=generator) + 0.1 * torch.randn(layout.n, 48, generator=generator)
    attention = torch.rand(4, 7, layout.n, generator=generator).softmax(-1)
    shallow = torch.rand(4, 7, layout.n, generator=generator).softmax(-1)
    return TokenContext(
        layout,
        30,
        seed=seed,
        layer=LAYER,
        attention=attention,
        features=features.to(dtype),
        earlier={0: shallow},
        text=said(width=features.shape[1]),
        **further(layout, seed, features, kv=2),
    )


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_chooses_alike(name, around):
    for options in OPTIONS.get(name, [{}]):
        profile = {"profile": method_for(name).profile} if "profile" in METHODS[name].needs else {}
        method = make(name, keep=0.2, **options, **profile)
        for seed, dtype in ((0, torch.float32), (1, torch.bfloat16)):
            ctx = context(seed, dtype)
            want = method.select(ctx)
            with AROUND[around]():
                got = method.select(ctx)
            assert torch.equal(got.indices, want.indices) and got.info == want.info
            assert (got.scores is None) == (want.scores is None)
            if want.scores is not None:
                assert got.scores.dtype == want.scores.dtype and torch.equal(got.scores, want.scores)


def test_autocast_would_choose_otherwise():
    """The case that the door is there for."""
    features = normalize(context(0, torch.float32).features, dim=1)
    exact = features @ features.T
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = features @ features.T
    assert rounded.dtype == torch.bfloat16
    assert not torch.equal(exact.topk(2).indices, rounded.topk(2).indices)


@pytest.mark.parametrize("around", AROUND)
def test_rows_called_by_hand(around):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, 20, 8, generator=generator) for heads in (4, 2, 2))
    angles = torch.randn(1, 20, 8, generator=generator)
    asked = {"rows": torch.tensor([19, 3]), "cols": torch.arange(4, 16)[None], "scaling": 0.4}
    for score in SCORES.values():
        want = score(q, k, v, angles.cos(), angles.sin(), **asked)
        with AROUND[around]():
            got = score(q, k, v, angles.cos(), angles.sin(), **asked)
        assert got.dtype == torch.float32 and torch.equal(got, want)


@pytest.mark.slow
@pytest.mark.parametrize("around", [a for a in AROUND if "default" not in a])
def test_capture_and_pruning_inside(around):
    """Given what the model makes of the prompt there, rows and choices are those computed from it outside."""
    vlm = tiny.vlm("internvl")
    enc, given = tiny.encoded(vlm, 3), {}

    def keep(module, query, key, value, attention_mask, scaling, **kw):
        assert not torch.is_autocast_enabled("cpu")
        given.setdefault(LAYER - 1, (query, key, scaling, attention_mask))

    for name in sorted(METHODS):
        method = method_for(name)
        with (
            AROUND[around](),
            capture(vlm, [LAYER - 1]) as rows,
            watch(vlm.model, {LAYER - 1: keep}),
            prune(vlm, method, LAYER) as state,
        ):
            contexts, select = [], type(method).select_batch
            spy = lambda batch, c=contexts, m=method, s=select: c.extend(batch) or s(m, batch)  # noqa: E731
            object.__setattr__(method, "select_batch", spy)
            vlm.forward(enc)
        assert len(contexts) == len(enc.layouts)
        for selection, ctx in zip(state.selections, contexts, strict=True):
            want = method.select(ctx)
            assert torch.equal(selection.indices, want.indices)
            if ctx.attention is not None:
                assert ctx.attention.dtype == torch.float32
        query, key, scaling, mask = given.pop(LAYER - 1)
        last = torch.tensor([enc.last])
        want = attention_rows(query, key, last, scaling=scaling, attention_mask=mask, cols=enc.visual)
        want = want.masked_fill(~enc.visual_mask[:, None, None], 0.0)
        assert rows[LAYER - 1].values.dtype == torch.float32 and torch.equal(rows[LAYER - 1].values, want)


def test_rows_of_inference_mode_can_be_used_after_it():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 3)
    with capture(vlm, [1]) as want:
        vlm.forward(enc)
    with torch.inference_mode(), capture(vlm, [1]) as rows:
        vlm.forward(enc)
    pairs = zip(rows.per_image(enc), want.per_image(enc), strict=True)
    assert all(torch.equal(got, expected) for (_, got), (_, expected) in pairs)
