"""Queries and keys of a layer that has not run: what the layer itself makes of its input, and nothing else runs."""

from __future__ import annotations

import pytest
import tiny
import torch

from biaslab.attention.capture import capture
from biaslab.attention.hook import attention_rows, row_options, watch
from biaslab.attention.projection import project
from biaslab.errors import UnsupportedError
from biaslab.pruning.engine.sources import own_projection


@pytest.mark.parametrize("text", ["qwen2", "llama", "qwen3"])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_what_is_projected_is_what_the_layer_attends_with(text, attn):
    vlm, heard = tiny.vlm("internvl", text=text, attn=attn), []
    encoded, before = tiny.encoded(vlm, 2), vlm.decoder.config._attn_implementation
    found = project(vlm.model, 2, lambda: vlm.model(**encoded.inputs, use_cache=False))
    with watch(vlm.model, {2: lambda *args, **kw: heard.append((args, kw))}, rope=True):
        vlm.forward(encoded)
    (((module, query, key, value, mask, scaling), kw),) = heard
    assert found.module is module and found.options["scaling"] == scaling
    for ours, theirs in zip((found.query, found.key, found.value), (query, key, value), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(found.options["cos"], kw["cos"]) and torch.equal(found.options["sin"], kw["sin"])
    assert (found.options["attention_mask"] is None) == (mask is None)
    assert row_options(module, found.options) == row_options(module, kw)
    assert vlm.decoder.config._attn_implementation == before


def test_nothing_behind_it_runs_and_nobody_hears_of_it():
    vlm, ran = tiny.vlm("internvl"), []
    encoded = tiny.encoded(vlm, 1)
    layer = vlm.decoder.layers[1]
    parts = (layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp, layer)
    handles = [part.register_forward_hook(lambda *_, part=part: ran.append(part)) for part in parts]
    state, seen = (
        {},
        layer.register_forward_pre_hook(
            lambda module, args, kwargs: state.update(args=args, kwargs=kwargs), with_kwargs=True
        ),
    )
    plain = vlm.forward(encoded).logits
    with capture(vlm, [1]) as rows:
        again = vlm.forward(encoded).logits
        want, cache = rows[1].values, state["kwargs"]["cache"]
        length = cache.get_seq_length(1)
        ran.clear()
        found = own_projection(vlm, 1, state["args"], state["kwargs"], state["args"][0])
        assert ran == [layer.self_attn.q_proj]
        assert cache.get_seq_length(1) == length and rows[1].values is want
    last = torch.tensor([encoded.last])
    options = {**row_options(found.module, found.options), "attention_mask": found.options["attention_mask"]}
    got = attention_rows(
        found.query, found.key, last, scaling=found.options["scaling"], cols=encoded.visual, **options
    )  # fmt: skip
    assert torch.equal(got, want) and torch.equal(plain, again)
    for handle in (*handles, seen):
        handle.remove()


def test_a_forward_that_comes_to_its_end_is_an_error():
    vlm = tiny.vlm("internvl")
    with pytest.raises(UnsupportedError, match="does not use transformers' attention interface"):
        project(vlm.model, 1, lambda: None)
    with pytest.raises(RuntimeError, match="on the way"):
        project(vlm.model, 1, lambda: (_ for _ in ()).throw(RuntimeError("on the way")))
    assert not vlm.decoder.layers[1].self_attn._forward_pre_hooks
    assert vlm.decoder.config._attn_implementation == "sdpa"
