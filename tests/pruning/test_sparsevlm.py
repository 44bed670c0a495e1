"""SparseVLM: raters and scores by loops, heads, and what it reads of real models."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from eager import eager_attention
from methods import RASTER, context
from pruned import run

from biaslab.attention.raters import raters
from biaslab.errors import InputError
from biaslab.pruning import SparseVLM, parse_schedule, prune


def slow_raters(visual, text):
    """As the paper has it, token by token in double precision."""
    rates = [0.0] * len(text)
    for v in visual.double():
        weights = [math.exp(float(v @ t)) for t in text.double()]
        for i, weight in enumerate(weights):
            rates[i] += weight / sum(weights) / len(visual)
    return [rate > sum(rates) / len(rates) for rate in rates]


def test_raters_and_scores_by_loops():
    ctx = context(RASTER, 0.2)
    ctx.attention = torch.rand(3, 7, RASTER.n)
    ctx.embeddings, ctx.text_embeddings = ctx.embeddings[:, :4], ctx.text_embeddings[:, :4]
    rate = slow_raters(ctx.embeddings, ctx.text_embeddings)
    assert raters(ctx.embeddings, ctx.text_embeddings).tolist() == rate and 0 < sum(rate) < 7
    rows = ctx.attention[:, [i for i, r in enumerate(rate) if r]]
    torch.testing.assert_close(SparseVLM().importance(ctx), rows.mean((0, 1)))
    mass = rows.sum((1, 2))
    best = sorted(range(3), key=lambda h: -mass[h])[:2]
    torch.testing.assert_close(SparseVLM(heads="top", head_share=0.6).importance(ctx), rows[best].mean((0, 1)))
    torch.testing.assert_close(SparseVLM(heads="top").importance(ctx), rows[best[0]].mean(0))  # round(14 / 32 * 3) = 1
    assert slow_raters(ctx.features, ctx.text) == raters(ctx.features, ctx.text).tolist() != rate
    rows = ctx.attention[:, raters(ctx.features, ctx.text)]
    torch.testing.assert_close(SparseVLM(rate="states").importance(ctx), rows.mean((0, 1)))


def test_where_no_word_stands_out_all_rate():
    assert raters(torch.randn(5, 3), torch.randn(1, 3)).tolist() == [True]
    assert raters(torch.randn(5, 3), torch.ones(4, 3)).all()


@pytest.mark.parametrize("family", tiny.CROSSED)
@pytest.mark.parametrize("reads", ["previous", "own"])
def test_it_reads_what_the_decoder_is_given_and_the_layer_attends_to(family, reads):
    """Prompts of unequal length: raters from the embeddings by hand, rows from eager attention."""
    vlm, layer, given = tiny.vlm(family), 3, []
    enc = tiny.encoded(vlm, 3)
    maps = eager_attention(vlm, enc)[layer if reads == "own" else layer - 1]
    handle = vlm.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with prune(vlm, SparseVLM(keep=0.4, reads_layer=reads), layer) as state:
        run(vlm, enc, steps=1)
    handle.remove()
    some = False
    for row, (selection, layout) in enumerate(zip(state.selections, enc.layouts, strict=True)):
        own = enc.visual[row, : layout.n]
        first = int(enc.inputs["input_ids"][row].eq(vlm.image_token_id).nonzero().max()) + 1
        rate = slow_raters(given[0][row, own], given[0][row, first : enc.last + 1])
        some |= 0 < sum(rate) < len(rate)
        words = [first + i for i, rates in enumerate(rate) if rates]
        want = maps[row, :, words][..., own].mean((0, 1))
        torch.testing.assert_close(selection.scores, want, atol=1e-4, rtol=0)
    assert some


def test_options():
    assert SparseVLM(rate="states").needs == {"attention", "text", "features"}
    for wrong in ({"queries": "last"}, {"rate": "words"}, {"heads": "best"}, {"head_share": 0.5},
                  {"heads": "top", "head_share": 0}):  # fmt: skip
        with pytest.raises(InputError):
            SparseVLM(**wrong)


def test_three_stages_choose_raters_anew_and_for_each_prompt_alone():
    vlm = tiny.vlm("internvl", layers=6)
    word = "sparsevlm@0.7@1+sparsevlm:heads=top@0.5@3+sparsevlm:score=rope_corrected@0.3@4"
    pictures, questions = tiny.images(3), tiny.texts(3)

    def kept(rows):
        enc = vlm.encode([pictures[i] for i in rows], [questions[i] for i in rows])
        with prune(vlm, schedule=parse_schedule(word)) as state:
            run(vlm, enc, steps=1)
        return dict(zip(rows, zip(*state.stages, strict=True), strict=True))

    together = kept([0, 1, 2])
    for i in range(3):
        for ours, alone in zip(together[i], kept([i])[i], strict=True):
            assert torch.equal(ours.indices, alone.indices)
        first, _, last = together[i]
        assert set(last.indices.tolist()) < set(first.indices.tolist())
