"""Rater rows: captured, collected, and read by any attention method, against raters by hand and eager attention."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from eager import eager_attention

from biaslab.attention.capture import capture
from biaslab.attention.means import capture_means
from biaslab.attention.raters import raters
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, ProfileMismatchError, UnsupportedError
from biaslab.maps.collect import collect
from biaslab.profiles import MeanProfile
from biaslab.pruning import METHODS, FastV, Relative, SparseVLM, TokenContext, parse, parse_schedule, prune
from biaslab.pruning.methods.attention_method import AttentionMethod

LAYER = 2


def slow_raters(visual, text):
    """As the paper has it, token by token in double precision."""
    rates = [0.0] * len(text)
    for v in visual.double():
        weights = [math.exp(float(v @ t)) for t in text.double()]
        for i, weight in enumerate(weights):
            rates[i] += weight / sum(weights) / len(visual)
    chosen = [rate > sum(rates) / len(rates) for rate in rates]
    return chosen if any(chosen) else [True] * len(text)


def by_hand(vlm, enc):
    """Of each prompt of one image or of frames: positions of its raters and of its visual tokens, number of words."""
    given = []
    handle = vlm.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    vlm.forward(enc)
    handle.remove()
    out = []
    for row in range(len(enc)):
        own = enc.visual[row][enc.visual_mask[row]]
        first = int(enc.inputs["input_ids"][row].eq(vlm.image_token_id).nonzero().max()) + 1
        rate = slow_raters(given[0][row, own], given[0][row, first : enc.last + 1])
        out.append(([first + i for i, rates in enumerate(rate) if rates], own, len(rate)))
    return out


@pytest.mark.parametrize("family", tiny.CROSSED)
def test_rows_that_rate_are_recorded_and_averaged(family):
    """Prompts of unequal length; what does not rate counts as a filler."""
    vlm = tiny.vlm(family)
    enc = tiny.encoded(vlm, 3)
    maps, chosen = eager_attention(vlm, enc)[LAYER], by_hand(vlm, enc)
    with capture(vlm, [LAYER], queries="raters") as rows, capture_means(vlm, [LAYER], queries="raters") as means:
        vlm.forward(enc)
    asked, mask = rows.prompt.queries, rows[LAYER].query_mask
    assert [asked[row][mask[row]].tolist() for row in range(3)] == [words for words, _, _ in chosen]
    assert any(len(words) < total for words, _, total in chosen)
    assert (rows[LAYER].values.transpose(1, 2)[~mask] == 0).all()
    for row, (words, own, _) in enumerate(chosen):
        want = maps[row, :, words][..., own].mean(1)
        assert want.sum() > 1e-3
        found = rows.per_image(enc)[row][1][0]
        torch.testing.assert_close(found, want, atol=1e-4, rtol=0)
        assert torch.equal(found, means.per_image(enc)[row][1][0])


@pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl"])
def test_fastv_by_raters_is_sparsevlm(family):
    vlm = tiny.vlm(family)
    enc = tiny.encoded(vlm, 3)
    words = "fastv:queries=raters@0.5@1+fastv:queries=raters@0.2@3"
    single = [{"method": rule, "layer": LAYER} for rule in (FastV(keep=0.3, queries="raters"), SparseVLM(keep=0.3))]
    for one, other in (
        single,
        ({"schedule": words}, {"schedule": words.replace("fastv:queries=raters", "sparsevlm")}),
    ):
        with prune(vlm, **one) as mine:
            vlm.forward(enc)
        with prune(vlm, **other) as theirs:
            vlm.forward(enc)
        for stage, reference in zip(mine.stages, theirs.stages, strict=True):
            for a, b in zip(stage, reference, strict=True):
                assert torch.equal(a.indices, b.indices) and torch.equal(a.scores, b.scores)
    with prune(vlm, FastV(keep=0.3, queries="text"), LAYER) as text:
        vlm.forward(enc)
    assert any((s.scores - t.scores).abs().max() > 1e-6 for s, t in zip(mine.selections, text.selections, strict=True))


def test_each_image_has_its_own_raters_and_frames_have_them_together():
    vlm = tiny.vlm("internvl")
    pictures = tiny.images(2, sizes=[(60, 60)])
    two = vlm.encode([pictures], tiny.texts(1))
    with prune(vlm, FastV(keep=0.3, queries="raters"), LAYER) as run:
        vlm.forward(two)
    assert len(run.selections) == 2
    with capture(vlm, queries="raters"), pytest.raises(UnsupportedError, match="chosen for each image of a prompt"):
        vlm.forward(two)
    enc = vlm.encode([pictures], tiny.texts(1), frames=True)
    ((words, own, _),) = by_hand(vlm, enc)
    want = eager_attention(vlm, enc)[LAYER - 1][0, :, words][..., own].mean((0, 1))
    with prune(vlm, FastV(keep=0.3, queries="raters"), LAYER, budget="joint") as run:
        vlm.forward(enc)
    torch.testing.assert_close(torch.cat([s.scores for s in run.selections]), want, atol=1e-4, rtol=0)
    maps = collect(
        vlm, [pictures], prompt=tiny.texts(1), layers=[LAYER - 1], queries="raters", frames=True, progress=False
    )
    ((key, _),) = maps.layouts.items()
    np.testing.assert_allclose(maps.moments(LAYER - 1, key).mean[0], want.numpy(), atol=1e-4)


def test_a_profile_of_raters_serves_methods_of_raters():
    vlm, pictures = tiny.vlm("internvl"), tiny.images(6, sizes=[(60, 60)])
    same = {"layers": [1], "progress": False}
    by = {kind: MeanProfile().fit(collect(vlm, pictures, queries=kind, **same)) for kind in ("raters", "text")}
    assert by["raters"].provenance_["queries"] == "raters"
    enc = vlm.encode(pictures[:1], tiny.texts(1))
    for word in ("d2pruner:queries=raters", "mmr:by=relative:queries=raters", "relative:queries=raters"):
        with prune(vlm, replace(parse(word), profile=by["raters"]), LAYER) as run:
            vlm.forward(enc)
        assert len(run.selections[0].indices)
    for queries, profile in (("raters", by["text"]), ("text", by["raters"])):
        method = Relative(queries=queries, profile=profile)
        with pytest.raises(ProfileMismatchError, match="fitted for query rule"), prune(vlm, method, LAYER):
            pytest.fail("was not refused before any work")


def test_every_attention_method_reads_raters_or_refuses():
    refused = {}
    for name, cls in METHODS.items():
        if not issubclass(cls, AttentionMethod):
            continue
        try:
            method = parse(f"{name}:queries=raters")
        except InputError as error:
            refused[name] = str(error)
            continue
        if "attention" in method.needs:
            assert {"text", "embeddings"} <= method.needs, name
    assert "chooses raters among all words" in refused.pop("sparsevlm")
    assert all("queries does nothing without by=attention" in why for why in refused.values())
    for word in ("protected:rule=ivc:method=fastv:queries=raters", "mmr:by=attention:queries=raters"):
        assert {"text", "embeddings"} <= parse(word).needs
    assert [stage.rule.queries for stage in parse_schedule("fastv:queries=raters@0.5@1+divprune@0.2@3")[:1]] == [
        "raters"
    ]


def test_a_context_without_the_words_is_refused():
    layout, rows = TokenLayout.raster(2, 2, size=(200, 200), family="toy"), torch.rand(3, 5, 4)
    visual, words = torch.randn(4, 6), torch.randn(5, 6)
    ctx = TokenContext(layout, 2, attention=rows, text=words, embeddings=visual, text_embeddings=words)
    rate = raters(visual, words)
    assert rate.tolist() == slow_raters(visual, words)
    torch.testing.assert_close(FastV(queries="raters").importance(ctx), rows[:, rate].mean((0, 1)))
    short = TokenContext(layout, 2, attention=rows[:, :3], text=words, embeddings=visual, text_embeddings=words)
    with pytest.raises(InputError, match="need one row of attention per token of text, got 3 rows and embeddings of 5"):
        FastV(queries="raters").select(short)
    with pytest.raises(InputError, match="needs"):
        FastV(queries="raters").select(TokenContext(layout, 2, attention=rows))


def test_under_a_cut_before_the_decoder_raters_are_those_of_the_whole_prompt_or_refused():
    vlm = tiny.vlm("internvl")
    enc = vlm.encode(tiny.images(1, sizes=[(60, 60)]), ["Where is it?"])
    ((words, _, _),) = by_hand(vlm, enc)
    with capture(vlm, [2], queries="raters") as rows, prune(vlm, "divprune", 0):
        vlm.forward(enc)
    assert rows.prompt.queries[rows.prompt.query_mask].tolist() == words and rows[2].kept is not None
    said = pytest.raises(UnsupportedError, match="what the decoder is given of the whole prompt")
    with prune(vlm, "divprune", 0), capture(vlm, [2], queries="raters"), said:
        vlm.forward(enc)
