"""Rows of the first token behind the image, against eager attention: captured, averaged, collected, in profiles."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from eager import eager_attention

from biaslab.attention.capture import capture
from biaslab.attention.means import capture_means
from biaslab.errors import InputError, ProfileMismatchError, UnsupportedError
from biaslab.maps.collect import collect
from biaslab.profiles import FactorisedProfile, MeanProfile
from biaslab.pruning import FastV, Relative, prune

CAUSAL = [family for family in tiny.FAMILIES if family != "paligemma"]
LAYERS = [1, 2]


def prompts(vlm, groups=(2, 1, 3)):
    """One prompt per entry, with that many images of different shapes and questions of different lengths."""
    pictures = iter(tiny.images(sum(groups), seed=3))
    return vlm.encode([[next(pictures) for _ in range(n)] for n in groups], tiny.texts(len(groups)))


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


def eager_maps(vlm, enc, rows):
    """[(L, H, N)] of every image: what the row that belongs to it gives its tokens under eager attention."""
    attention = eager_attention(vlm, enc)
    images = zip(enc.owners, enc.spans, rows, strict=True)
    return [
        torch.stack([attention[layer][owner, :, row, enc.visual[owner, first:last]] for layer in LAYERS])
        for owner, (first, last), row in images
    ]


@pytest.mark.parametrize("family", [tiny.quick(family) for family in CAUSAL])
def test_each_image_is_read_by_the_token_behind_it(family):
    vlm = tiny.vlm(family)
    enc = prompts(vlm)
    want = eager_maps(vlm, enc, behind(vlm, enc))
    with capture(vlm, LAYERS, queries="null") as rows, capture_means(vlm, LAYERS, queries="null") as means:
        vlm.forward(enc)
    assert rows.prompt.query_mask.sum(1).tolist() == [2, 1, 3] and rows[1].values.shape[2] == 3
    assert means[1].values.shape[2] == 1
    for captured in (rows, means):
        for (layout, found), expected in zip(captured.per_image(enc), want, strict=True):
            assert layout.n == expected.shape[-1] and expected.sum() > 1e-3
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl"])
def test_under_pruning_and_beams(family):
    vlm = tiny.vlm(family)
    enc = prompts(vlm)
    with capture(vlm, [1], queries="null") as plain:
        vlm.forward(enc)
    with prune(vlm, "random", layer=2) as run, capture(vlm, [1, 2], queries="null") as rows:
        vlm.forward(enc)
    assert rows[2].kept is not None
    for (_, found), selection, (_, before) in zip(
        rows.per_image(enc), run.selections, plain.per_image(enc), strict=True
    ):
        gone = torch.ones(found.shape[-1], dtype=torch.bool)
        gone[selection.indices] = False
        assert (found[1][:, gone] == 0).all() and (found[1][:, ~gone] > 0).any()
        assert torch.equal(found[0], before[0])
    with capture(vlm, [1], queries="null") as beams:
        vlm.generate(enc, max_new_tokens=2, num_beams=2)
    for (_, found), (_, want) in zip(beams.per_image(enc), plain.per_image(enc), strict=True):
        torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-4)


def test_it_has_not_seen_the_question():
    vlm, picture = tiny.vlm("qwen2_5_vl"), tiny.images(1)
    maps = {queries: [] for queries in ("null", "last")}
    for queries, found in maps.items():
        for text in tiny.texts(2):
            enc = vlm.encode(picture, [text])
            with capture(vlm, queries=queries) as rows:
                vlm.forward(enc)
            found.append(rows.per_image(enc)[0][1])
    assert torch.equal(*maps["null"])
    assert (maps["last"][0] - maps["last"][1]).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["internvl", "llava"])
def test_frames_are_read_by_the_token_behind_the_last(family):
    vlm, frames = tiny.vlm(family), tiny.images(3, sizes=[(60, 60)], seed=5)
    enc = vlm.encode([frames], ["What moves?"], frames=True)
    last = behind(vlm, enc)[-1]
    want = torch.cat(eager_maps(vlm, enc, [last] * 3), dim=-1)
    same = {"prompt": "What moves?", "layers": LAYERS, "queries": "null", "frames": True, "progress": False}
    maps = collect(vlm, [frames], heads="all", **same)
    ((key, _),) = maps.layouts.items()
    found = np.stack([maps.moments(layer, key).mean for layer in LAYERS])
    np.testing.assert_allclose(found, want.numpy(), atol=1e-4)
    with prune(vlm, FastV(keep=0.3, queries="null"), 2, budget="joint") as run:
        vlm.forward(enc)
    scores = torch.cat([selection.scores for selection in run.selections])
    torch.testing.assert_close(scores, want[0].mean(0), atol=1e-4, rtol=0)


def test_maps_and_profiles_know_their_rows(tmp_path):
    vlm = tiny.vlm("internvl")
    groups = [tiny.images(2, sizes=[(60, 60)], seed=1), tiny.images(1, sizes=[(60, 60)], seed=2)] * 3
    maps = collect(vlm, groups, queries="null", layers=[1], out=tmp_path / "maps", progress=False)
    assert maps.settings["queries"] == "null" and maps.n == 9
    enc = vlm.encode(groups[:2], ["?", "?"])
    ends = [int(enc.visual[owner, last - 1]) for owner, (_, last) in zip(enc.owners, enc.spans, strict=True)]
    far = [row - end for row, end in zip(behind(vlm, enc), ends, strict=True)]
    assert [maps.record(i).query_distance for i in range(3)] == far
    profile = MeanProfile().fit(maps)
    assert profile.provenance_["queries"] == "null"
    one = vlm.encode(groups[1], ["Where is it?"])
    with prune(vlm, Relative(keep=0.3, queries="null", profile=profile), 2) as run:
        vlm.forward(one)
    assert len(run.selections[0].indices) == FastV(keep=0.3).budget_of(one.layouts[0].n)
    other = FactorisedProfile().fit(collect(vlm, groups, layers=[1], progress=False))
    for queries, own, said in (("last", profile, "'null', not 'last'"), ("null", other, "'last', not 'null'")):
        method = Relative(keep=0.3, queries=queries, profile=own)
        with pytest.raises(ProfileMismatchError, match=f"fitted for query rule {said}"), prune(vlm, method, 2):
            pytest.fail("was not refused before any work")


def test_where_there_is_no_such_token_it_is_refused():
    seeing_all = tiny.vlm("paligemma")
    for call in (
        lambda: capture(seeing_all, queries="null").__enter__(),
        lambda: collect(seeing_all, tiny.images(1), queries="null", progress=False),
    ):
        with pytest.raises(UnsupportedError, match="queries='null' reads a row that has not seen the question"):
            call()
    vlm = tiny.vlm("internvl")
    enc = vlm.encode(tiny.images(1, sizes=[(60, 60)]), ["?"])
    ids = enc.inputs["input_ids"]
    last = int(enc.visual.max())
    with capture(vlm, [1], queries="null") as rows:
        vlm.model(**enc.inputs)  # nobody announces it: one image, which the ids say
        nobody = rows[1].values
        vlm.forward(enc)
        assert torch.equal(rows[1].values, nobody)
        with pytest.raises(InputError, match="needs a token behind every image: put the image before the text"):
            vlm.model(input_ids=ids[:, : last + 1], pixel_values=enc.inputs["pixel_values"])
        two = vlm.encode([tiny.images(2, sizes=[(60, 60)])], ["?"])
        with pytest.raises(UnsupportedError, match="may be several images"):
            vlm.model(**two.inputs)
