"""Capture inside a pruned forward: rows of the short sequence, mapped to the original visual tokens."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import tiny
import torch
from eager import assert_rows_equal, eager, text_after

from biaslab.attention.capture import capture
from biaslab.errors import UnsupportedError
from biaslab.models.prefill import PrunedSequence
from biaslab.pruning.engine.prune import prune

each_family = pytest.mark.parametrize("family", tiny.FAMILIES)


@contextmanager
def cut(vlm, layer, positions, valid=None):
    """A bare pruner: from ``layer`` on, only ``positions`` (B, M) of the prompt are there."""

    def gather(x, dim):
        shape = list(x.shape)
        shape[0], shape[dim] = positions.shape
        view = [1] * x.ndim
        view[0], view[dim] = positions.shape
        return x.expand(positions.shape[0], *x.shape[1:]).gather(dim, positions.view(view).expand(shape))

    def enter(at):
        def hook(module, args, kwargs):
            if at == layer:
                args = (gather(args[0], 1), *args[1:])
                vlm.prefill.clear()
                vlm.prefill.cut(PrunedSequence(layer, positions, valid))
            kwargs = {**kwargs, "position_ids": None}
            kwargs["position_embeddings"] = tuple(gather(t, 1) for t in kwargs["position_embeddings"])
            mask = kwargs["attention_mask"]
            if mask is not None:
                mask = gather(gather(mask, 2), 3)
                if valid is not None:
                    seen = valid[:, None, None, :]
                    low = torch.finfo(torch.float32).min
                    mask = mask & seen if mask.dtype == torch.bool else mask.masked_fill(~seen, low)
                kwargs["attention_mask"] = mask
            return args, kwargs

        return hook

    layers = list(vlm.decoder.layers)[layer:]
    handles = [m.register_forward_pre_hook(enter(layer + i), with_kwargs=True) for i, m in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        vlm.prefill.clear()


@each_family
@pytest.mark.parametrize("ragged", [False, True])
def test_rows_of_a_pruned_sequence(family, ragged):
    vlm = tiny.vlm(family)
    enc = tiny.encoded(vlm, 3)
    n = enc.last + 1
    text = text_after(vlm, enc)
    # sample b keeps every second visual token; some text before the image goes as well, to shift the columns
    keep = torch.ones(3, n, dtype=torch.bool)
    for b in range(3):
        keep[b, enc.visual[b][enc.visual_mask[b]][b % 2 :: 2]] = False
        keep[b, text[0][b, 3]] = False
    width = int(keep.sum(1).max())
    rows, valid = [], []
    for b in range(3):
        stay = keep[b].nonzero().flatten()
        seen = int(stay[torch.isin(stay, enc.visual[b])][0])  # fillers repeat a visual token: worst case
        rows.append(torch.cat([stay, stay.new_full((width - len(stay),), seen)]))
        valid.append(torch.arange(width) < len(stay))
    positions, valid = torch.stack(rows), torch.stack(valid)
    if not ragged:  # equal lengths: drop from the front, where there is padding or template
        width = int(keep.sum(1).min())
        positions = torch.stack([r[v][-width:] for r, v in zip(positions, valid, strict=True)])
        valid = None

    with cut(vlm, 2, positions, valid), capture(vlm, None, queries="text") as got:
        vlm.forward(enc, use_cache=False)
    with eager(vlm), cut(vlm, 2, positions, valid):
        attention = vlm.forward(enc, output_attentions=True, use_cache=False).attentions
    assert attention[1].shape[-1] == n and attention[2].shape[-1] == width

    assert got[1].kept is None
    assert_rows_equal(got[1], attention[1], *text, enc.visual, enc.visual_mask)
    for layer in (2, 3):
        r = got[layer]
        for b in range(3):
            stay = positions[b] if valid is None else positions[b][valid[b]]
            short = {int(p): j for j, p in enumerate(stay)}
            visual = enc.visual[b][enc.visual_mask[b]].tolist()
            kept = [v for v, p in enumerate(visual) if p in short]
            assert r.kept[b][r.mask[b]].tolist() == kept
            for j in range(text[0].shape[1]):
                p = int(text[0][b, j])
                alive = bool(text[1][b, j]) and p in short
                assert bool(r.query_mask[b, j]) == alive
                if alive:
                    columns = [short[visual[v]] for v in kept]
                    expected = attention[layer][b, :, short[p]][:, columns]
                    assert (r.values[b, :, j][:, r.mask[b]] - expected).abs().max() <= 1e-4


@each_family
def test_capture_around_and_inside_prune(family):
    """The engine's own selection is the map of the captured columns, whichever block is entered first."""
    vlm = tiny.vlm(family)
    enc = tiny.encoded(vlm, 3)
    with capture(vlm, None, queries="last") as outer, prune(vlm, "random", layer=2) as pruned:
        with capture(vlm, None, queries="last") as inner:
            vlm.generate(enc, max_new_tokens=3)
        selections = pruned.selections
    assert vlm.prefill.pruned == ()
    with capture(vlm, [1], queries="last") as free:
        vlm.generate(enc, max_new_tokens=3)
    for rows in (outer, inner):
        assert torch.equal(rows[1].values, free[1].values) and rows[1].kept is None
        for layer in (2, 3):
            assert torch.equal(rows[layer].values, outer[layer].values)
            for b, selection in enumerate(selections):
                assert rows[layer].kept[b][rows[layer].mask[b]].tolist() == selection.indices.tolist()
                assert 0 < len(selection.indices) < enc.layouts[b].n


def test_a_short_sequence_nobody_announced_is_refused():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 1)
    keep = torch.arange(4, enc.last + 1)[None]
    with cut(vlm, 1, keep), capture(vlm, [2]):
        vlm.decoder.layers[1].register_forward_pre_hook(lambda *_: vlm.prefill.clear())
        with pytest.raises(UnsupportedError, match="vlm.prefill"):
            vlm.forward(enc, use_cache=False)
    vlm.decoder.layers[1]._forward_pre_hooks.clear()
