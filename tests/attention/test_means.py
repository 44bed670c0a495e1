"""Rows averaged while the model runs: the maps are those of all rows bit by bit, and only the mean is held."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import tiny
import torch
from devices import checked, spread

from biaslab.attention.capture import capture
from biaslab.attention.means import capture_means
from biaslab.attention.scores import SCORES
from biaslab.errors import InputError
from biaslab.maps import batch_maps
from biaslab.maps.collect import collect
from biaslab.pruning.engine.prune import prune

FAMILIES = pytest.mark.parametrize("family", tiny.CROSSED)
QUERIES = pytest.mark.parametrize("queries", ["last", "text", torch.tensor([-1, 0, -4])], ids=["last", "text", "some"])


def prompts(vlm, groups=(2, 1, 3)):
    """One prompt per entry, with that many images of different shapes and questions of different lengths."""
    pictures = iter(tiny.images(sum(groups), seed=3))
    return vlm.encode([[next(pictures) for _ in range(n)] for n in groups], tiny.texts(len(groups)))


def assert_same_maps(means, rows, enc):
    assert means.layers == rows.layers
    for (layout, found), (other, want) in zip(means.per_image(enc), rows.per_image(enc), strict=True):
        assert layout == other and want.abs().sum() > 0
        assert torch.equal(found, want)


@FAMILIES
@QUERIES
@pytest.mark.parametrize("heads", ["mean", "all"])
@pytest.mark.parametrize("score", sorted(SCORES))
def test_the_maps_are_those_of_all_rows(family, queries, heads, score):
    vlm = tiny.vlm(family)
    enc, kw = prompts(vlm), {"queries": queries, "heads": heads, "score": score}
    assert not enc.inputs["attention_mask"].all(), "the batch is padded"
    with capture(vlm, [0, 2], **kw) as rows, capture_means(vlm, [0, 2], **kw) as means:
        vlm.forward(enc)
    assert_same_maps(means, rows, enc)
    assert torch.equal(means.prompt.queries, rows.prompt.queries)
    assert torch.equal(means.prompt.query_mask, rows.prompt.query_mask)


@FAMILIES
@QUERIES
def test_under_pruning(family, queries):
    vlm = tiny.vlm(family)
    enc = prompts(vlm)
    with prune(vlm, "random", layer=2), capture(vlm, queries=queries) as rows:
        vlm.forward(enc)
    with prune(vlm, "random", layer=2), capture_means(vlm, queries=queries) as means:
        vlm.forward(enc)
    assert rows[2].kept is not None and torch.equal(means[2].kept, rows[2].kept)
    assert_same_maps(means, rows, enc)


def test_beams_and_a_query_that_was_padding():
    vlm = tiny.vlm("internvl")
    enc = prompts(vlm)
    with capture(vlm, [1], queries="text") as rows, capture_means(vlm, [1], queries="text") as means:
        vlm.generate(enc, max_new_tokens=2, num_beams=3)
    assert_same_maps(means, rows, enc)
    padding = enc.inputs["attention_mask"][:, 0] == 0
    assert padding.any() and not padding.all()
    with (
        capture(vlm, [1], queries=torch.tensor([0])) as rows,
        capture_means(vlm, [1], queries=torch.tensor([0])) as means,
    ):
        vlm.forward(enc)
    assert torch.equal(means[1].query_mask[:, 0], ~padding) and (means[1].values[padding] == 0).all()
    for (_, found), (_, want) in zip(means.per_image(enc), rows.per_image(enc), strict=True):
        assert torch.equal(found, want)


@pytest.mark.parametrize("heads", ["mean", "all"])
def test_what_is_held_does_not_grow_with_the_query_rows(heads):
    vlm = tiny.vlm("internvl")
    enc = prompts(vlm)
    with capture(vlm, queries="text", heads=heads) as rows, capture_means(vlm, queries="text", heads=heads) as means:
        vlm.forward(enc)

    def held(captured):
        return sum(captured[layer].values.untyped_storage().nbytes() for layer in captured.layers)

    n_queries, n_heads = rows.prompt.queries.shape[1], 1 if heads == "mean" else 4
    assert n_queries > 5
    assert held(means) == 4 * vlm.n_layers * n_heads * enc.visual.numel()
    assert held(rows) == n_queries * held(means)


def test_rows_of_layers_on_several_devices_are_averaged_there():
    vlm = tiny.vlm("internvl")
    enc = prompts(vlm)
    with capture(vlm, queries="text") as rows:
        vlm.forward(enc)
    with spread(vlm) as devices, checked(), capture_means(vlm, queries="text") as means:
        vlm.forward(enc)
        maps = means.per_image(enc, device="cpu")
        assert [means[layer].values.device for layer in means.layers] == devices
    for (_, found), (_, want) in zip(maps, rows.per_image(enc), strict=True):
        torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-4)


def test_arguments_are_checked_before_the_block():
    vlm = tiny.vlm("internvl")
    for kw in ({"heads": "max"}, {"layers": [9]}, {"queries": "first"}, {"score": "cosine"}):
        with pytest.raises(InputError), capture_means(vlm, **kw):
            raise AssertionError("the block must not run")


def test_collect_holds_means_alone(monkeypatch):
    """Of all layers together no more than their means, when the forward is over."""
    vlm, seen = tiny.vlm("internvl"), []
    prefill, means = batch_maps._prefill, batch_maps.capture_means

    @contextmanager
    def kept(*args, **options):
        with means(*args, **options) as rows:
            seen.append(rows)
            yield rows

    def watched(*args):
        prefill(*args)
        seen.append([seen[0][layer].values.shape for layer in seen[0].layers])

    monkeypatch.setattr(batch_maps, "capture_means", kept)
    monkeypatch.setattr(batch_maps, "_prefill", watched)
    collect(vlm, tiny.images(3), queries="text", heads="all", prompt=tiny.texts(3), progress=False)
    rows, shapes = seen
    assert rows.prompt.queries.shape[1] > 5 and {shape[2] for shape in shapes} == {1}
