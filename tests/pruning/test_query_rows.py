"""Which rows of a prompt are read: the one behind each image, and several kinds in one forward."""

from __future__ import annotations

import pytest
import tiny
import torch
from eager import eager_attention
from pruned import run

from biaslab.errors import InputError, UnsupportedError
from biaslab.models.encoded import first_behind
from biaslab.pruning import FastV, prune
from biaslab.pruning.engine.query_rows import query_rows
from biaslab.pruning.methods.priortr import PriorTR

LAYER = 2
CAUSAL = [family for family in tiny.FAMILIES if family != "paligemma"]


def behind(vlm, enc):
    """Position of the first token behind each image that is none, by walking through the ids; image after image."""
    ids, out = enc.inputs["input_ids"], []
    at = {row: iter((ids[row] == vlm.image_token_id).nonzero().flatten().tolist()) for row in range(len(enc))}
    for owner, layout in zip(enc.owners, enc.layouts, strict=True):
        end = [next(at[owner]) for _ in range(layout.placeholders)][-1]
        while ids[owner, end] == vlm.image_token_id:
            end += 1
        out.append(end)
    return out


@pytest.mark.parametrize("family", [tiny.quick(family) for family in CAUSAL])
def test_the_null_row_is_the_token_behind_its_own_image(family):
    """Prompts of two images and one, of different length: eager attention of that row, at that image's tokens."""
    vlm = tiny.vlm(family)
    pictures = tiny.images(3, seed=3)
    enc = vlm.encode([pictures[:2], pictures[2:]], tiny.texts(2), sample_ids=["a", "b"])
    maps, rows = eager_attention(vlm, enc)[LAYER - 1], behind(vlm, enc)
    columns = [enc.visual[owner, first:last] for owner, (first, last) in zip(enc.owners, enc.spans, strict=True)]
    want = [maps[owner, :, row, own].mean(0) for owner, row, own in zip(enc.owners, rows, columns, strict=True)]
    assert all(
        row > own.max() and attention.sum() > 1e-4 for row, own, attention in zip(rows, columns, want, strict=True)
    )
    with prune(vlm, FastV(keep=0.4, queries="null"), LAYER) as state:
        run(vlm, enc)
    for selection, attention in zip(state.selections, want, strict=True):
        torch.testing.assert_close(selection.scores, attention, atol=1e-5, rtol=0)
    last = [maps[owner, :, enc.last, own].mean(0) for owner, own in zip(enc.owners, columns, strict=True)]
    with prune(vlm, PriorTR(keep=0.4, rule="ratio"), LAYER) as state:
        run(vlm, enc)
    for selection, said, prior in zip(state.selections, last, want, strict=True):
        torch.testing.assert_close(selection.scores, said / said.sum() * prior.sum() / prior, atol=0, rtol=1e-3)


@pytest.mark.parametrize("queries", ["text", (-1, -3)])
def test_any_rows_can_be_read_beside_the_null_row(queries):
    """Rows of unequal number, in a padded batch."""
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 3)
    scores = {}
    for method in (FastV(queries=queries), FastV(queries="null"), PriorTR(queries=queries, rule="ratio")):
        with prune(vlm, method, LAYER) as state:
            vlm.forward(enc)
        scores[method.label] = [s.scores for s in state.selections]
    said, prior, both = scores.values()
    for a, b, ratio in zip(said, prior, both, strict=True):
        torch.testing.assert_close(ratio, a / a.sum() * b.sum() / b, atol=0, rtol=1e-5)


def test_the_null_row_does_not_hear_the_question():
    vlm = tiny.vlm("qwen2_5_vl")
    picture = tiny.images(1)
    scores = {}
    for queries in ("null", "last"):
        for text in tiny.texts(2):
            with prune(vlm, FastV(queries=queries), LAYER) as state:
                vlm.forward(vlm.encode(picture, [text]))
            scores[queries, text] = state.selections[0].scores
    one, two = tiny.texts(2)
    assert torch.equal(scores["null", one], scores["null", two])
    assert (scores["last", one] - scores["last", two]).abs().max() > 1e-3


def test_a_prompt_without_such_a_row_is_refused():
    is_image = torch.tensor([[False, True, True, False, True]])
    assert first_behind(is_image[:, :4], [[2]]).tolist() == [[3]]
    assert first_behind(is_image[:, :4], [[1, 1]]).tolist() == [[3, 3]]  # nothing stands between these two
    with pytest.raises(InputError, match="needs a token behind every image: put the image before the text"):
        first_behind(is_image, [[2, 1]])
    with pytest.raises(InputError, match="needs an image in every prompt"):
        first_behind(is_image[:, :4].repeat(2, 1), [[2], []])
    rows, kinds = query_rows(["null", "last"], is_image[:, :4], None, [[2]])
    assert rows.tolist() == [[3, 3]] and [k.of(0, 0) for k in kinds] == [slice(0, 1), slice(1, 2)]
    vlm = tiny.vlm("paligemma")
    for method in (FastV(queries="null"), PriorTR()):
        with pytest.raises(UnsupportedError, match="has not seen the question"), prune(vlm, method, LAYER):
            pytest.fail("was not refused before any work")
