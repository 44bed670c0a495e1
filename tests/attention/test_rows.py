"""One map per image of captured rows, against a loop over samples, heads, columns and queries."""

from __future__ import annotations

import pytest
import tiny
import torch
from devices import spread
from eager import text_after

from biaslab.attention.capture import capture
from biaslab.errors import InputError
from biaslab.pruning.engine.prune import prune

FAMILIES = pytest.mark.parametrize("family", tiny.CROSSED)
QUERIES = pytest.mark.parametrize("queries", ["last", "text", torch.tensor([-1, 0, -4])], ids=["last", "text", "some"])


def prompts(vlm, groups):
    """One prompt per entry, with that many images of different shapes and questions of different lengths."""
    pictures = iter(tiny.images(sum(groups), seed=3))
    return vlm.encode([[next(pictures) for _ in range(n)] for n in groups], tiny.texts(len(groups)))


def looped(rows, enc, layer):
    """[(H, N)] of every image, number by number."""
    r, maps = rows[layer], []
    values, mask, query_mask = r.values.tolist(), r.mask.tolist(), r.query_mask.tolist()
    columns = len(mask[0])
    kept = [list(range(columns))] * len(mask) if r.kept is None else r.kept.tolist()
    used = [0] * len(enc)
    for layout, owner in zip(enc.layouts, enc.owners, strict=True):
        image = torch.zeros(len(values[owner]), layout.n, dtype=torch.float64)
        queries = [q for q, real in enumerate(query_mask[owner]) if real]
        for h, head in enumerate(values[owner]):
            for v in range(columns):
                token = kept[owner][v] - used[owner]
                if mask[owner][v] and 0 <= token < layout.n:
                    image[h, token] = sum(head[q][v] for q in queries) / max(len(queries), 1)
        used[owner] += layout.n
        maps.append(image)
    return maps


def assert_looped(rows, enc):
    maps = rows.per_image(enc)
    assert [layout for layout, _ in maps] == enc.layouts
    for place, layer in enumerate(rows.layers):
        for (_, found), want in zip(maps, looped(rows, enc, layer), strict=True):
            assert found.dtype == torch.float32 and found.shape[0] == len(rows.layers)
            torch.testing.assert_close(found[place].double(), want, rtol=1e-5, atol=1e-9)
            assert want.abs().sum() > 0


@FAMILIES
@QUERIES
@pytest.mark.parametrize("heads", ["mean", "all"])
def test_a_map_is_the_mean_over_the_real_queries(family, queries, heads):
    vlm = tiny.vlm(family)
    for enc in (tiny.encoded(vlm, 3), prompts(vlm, (2, 1, 3))):
        assert not enc.inputs["attention_mask"].all(), "the batch is padded"
        with capture(vlm, [0, 2], queries=queries, heads=heads) as rows:
            vlm.forward(enc)
        assert_looped(rows, enc)


@FAMILIES
@QUERIES
def test_tokens_pruned_before_a_layer_are_zero_at_their_place(family, queries):
    vlm = tiny.vlm(family)
    enc = prompts(vlm, (2, 1, 3))
    with prune(vlm, "random", layer=2) as pruned, capture(vlm, None, queries=queries) as rows:
        vlm.forward(enc)
    assert rows[1].kept is None and rows[2].kept is not None
    assert not rows[1].mask.all() and not rows[2].mask.all(), "prompts differ in their visual tokens"
    assert_looped(rows, enc)
    for (layout, found), selection in zip(rows.per_image(enc), pruned.selections, strict=True):
        gone = torch.ones(layout.n, dtype=torch.bool)
        gone[selection.indices] = False
        assert gone.any() and (found[2:, :, gone] == 0).all()
        assert (found[2:, :, ~gone] != 0).any(dim=(1, 2)).all() and (found[:2, :, gone] != 0).any()


def test_equal_to_the_last_bit_to_one_sample_at_a_time():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 3)
    with capture(vlm, [1, 3], queries="text") as rows:
        vlm.forward(enc)
    for b, (layout, found) in enumerate(rows.per_image(enc)):
        for place, layer in enumerate((1, 3)):
            r = rows[layer]
            weight = r.query_mask[b].to(r.values.dtype)[None, :, None]
            want = (r.values[b] * weight).sum(1) / weight.sum(1).clamp(min=1)
            assert torch.equal(found[place], want[:, : layout.n])


def test_layers_come_in_the_order_asked_for():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 2)
    with capture(vlm, [0, 1, 3]) as rows:
        vlm.forward(enc)
    for (_, every), (_, some) in zip(rows.per_image(enc), rows.per_image(enc, [3, 0]), strict=True):
        assert torch.equal(some, every[[2, 0]])
    with pytest.raises(InputError, match="layer 2 was not captured"):
        rows.per_image(enc, [2])


def test_beams_give_one_map_per_image():
    vlm = tiny.vlm("internvl")
    enc = prompts(vlm, (2, 1))
    with capture(vlm, [1]) as once:
        vlm.forward(enc)
    with capture(vlm, [1]) as beams:
        vlm.generate(enc, max_new_tokens=2, num_beams=3)
    assert beams[1].values.shape[0] == 3 * once[1].values.shape[0]
    for (_, found), (_, want) in zip(beams.per_image(enc), once.per_image(enc), strict=True):
        torch.testing.assert_close(found, want, atol=1e-5, rtol=0)


def test_other_prompts_are_refused():
    vlm = tiny.vlm("internvl")
    enc, other, longer = tiny.encoded(vlm, 2), tiny.encoded(vlm, 3), prompts(vlm, (3, 1))
    with capture(vlm, [1]) as rows:
        for read in (lambda: rows.per_image(enc), lambda: rows.prompt):
            with pytest.raises(InputError, match="nothing captured yet"):
                read()
        vlm.forward(enc)
    for wrong in (other, longer):
        with pytest.raises(InputError, match="the latest prefill had 2 prompts"):
            rows.per_image(wrong)


@FAMILIES
def test_positions_are_those_of_the_prompt(family):
    vlm = tiny.vlm(family)
    enc = prompts(vlm, (2, 1))
    with capture(vlm, [1], queries="text") as rows:
        vlm.forward(enc)
    queries, query_mask = text_after(vlm, enc)
    assert torch.equal(rows.prompt.is_image, enc.inputs["input_ids"] == vlm.image_token_id)
    assert torch.equal(rows.prompt.queries, queries) and torch.equal(rows.prompt.query_mask, query_mask)
    assert torch.equal(rows.prompt.visual, enc.visual) and torch.equal(rows.prompt.visual_mask, enc.visual_mask)


@pytest.mark.parametrize("queries", ["last", "text"])
def test_maps_of_layers_on_several_devices_meet_on_one(queries):
    vlm = tiny.vlm("internvl")
    enc = prompts(vlm, (2, 1))
    with capture(vlm, None, queries=queries) as rows:
        vlm.forward(enc)
    want = rows.per_image(enc)
    with spread(vlm) as devices, capture(vlm, None, queries=queries) as rows:
        vlm.forward(enc)
        here, on_cpu = rows.per_image(enc), rows.per_image(enc, device="cpu")
    assert len(set(devices)) == 3
    for (_, found), (_, moved), (_, expected) in zip(here, on_cpu, want, strict=True):
        assert found.device == devices[0] and moved.device == torch.device("cpu")
        torch.testing.assert_close(moved, expected, atol=1e-5, rtol=1e-4)
