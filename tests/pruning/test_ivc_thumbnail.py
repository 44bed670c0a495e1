"""The form of IVC for tiled images: by hand on a small tiling, by loops, and in models."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
import torch
from methods import TILED, context
from pruned import dropped_positions, oracle, run

from biaslab.core.layout import TokenLayout
from biaslab.core.sub_layout import sub_layout
from biaslab.core.thumbnails import thumbnail_tokens
from biaslab.errors import InputError
from biaslab.pruning import IVC, TokenContext, budget, parse, prune
from biaslab.pruning.algorithms.coordinates import coordinates
from biaslab.pruning.context import Rotary

SMALL = TokenLayout.tiled(1, 2, (2, 2), size=(128, 64), family="internvl", thumbnail=True)


def by_hand(n, cut="rank", share=0.0):
    """Tiles 0 to 3 and 4 to 7, thumbnail 8 to 11. Of this the question is like 9, then 8, 11, 10; tiles are liked more.

    The thumbnail's 8 shows tokens 0 and 1, its 9 tokens 4 and 5, its 10 tokens 2 and 3, its 11 tokens 6 and 7.
    """
    like = torch.tensor([9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 3.0, 4.0, 1.0, 2.0])
    values = torch.stack([like, torch.zeros(12)], 1)[None]
    ctx = TokenContext(
        SMALL, budget=n, values=values, text_values=torch.tensor([[[1.0, 0.0]]]), text=torch.zeros(1, 4),
        rotary=Rotary(torch.tensor([math.pi / 4]), torch.arange(12)[None]),
    )  # fmt: skip
    return IVC(foreground="thumbnail", cut=cut, coordinates=share).select(ctx).indices.tolist()


def test_winners_of_the_thumbnail_take_their_cells_along():
    """Half of twelve: two winners, 9 and 8, with the four cells that they cover."""
    assert by_hand(6) == by_hand(6, "position") == [0, 1, 4, 5, 8, 9]
    # five: one winner, whose cells are 4 and 5; what is missing comes from the thumbnail. Seven: two, and the next one
    assert by_hand(5) == by_hand(5, "position") == [4, 5, 8, 9, 11]
    assert by_hand(7) == by_hand(7, "position") == [0, 1, 4, 5, 8, 9, 11]
    assert by_hand(9) == by_hand(9, "position") == [0, 1, 4, 5, 6, 7, 8, 9, 11]  # three winners with six cells


def test_what_is_too_much_goes_by_rank_or_by_position():
    """With reference positions: token 0 of the first tile, token 7 of the second."""
    assert by_hand(6, share=0.5) == [0, 4, 5, 7, 8, 9]
    assert by_hand(6, "position", share=0.5) == [0, 1, 4, 5, 7, 8]  # the thumbnail stands last in the sequence


def test_all_and_one():
    assert by_hand(12) == by_hand(12, "position", 0.4) == list(range(12))
    assert by_hand(1) == [9] and by_hand(1, "position") == [4]  # its cell stands before it
    assert by_hand(10, share=0.0) == [0, 1, 4, 5, 6, 7, 8, 9, 10, 11]  # under budget: from the thumbnail
    assert by_hand(11, share=0.0) == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11]  # and then from the tiles


def slow(ctx, n, share, seeds, cut):
    """Step by step in double precision, over sets."""
    layout = ctx.layout
    small = np.flatnonzero(layout.thumbnail).tolist()
    large = [i for i in range(ctx.n) if i not in small]

    def like(of):
        total = torch.zeros(ctx.n, dtype=torch.double)
        for head, own in zip(of, ctx.values.double(), strict=True):
            for q in head.double():
                total += (own @ q / math.sqrt(own.shape[1])).softmax(0) / (len(of) * len(head))
        return total.tolist()

    asked = like(ctx.text_values)
    first = sorted(small, key=lambda i: -asked[i])[: max(1, int(seeds * len(small)))]
    refined = like(torch.cat([ctx.values[:, first], ctx.text_values], 1))
    ranked = first + [i for i in sorted(small, key=lambda i: -refined[i]) if i not in first]
    winners = ranked[: max(1, n * len(small) // ctx.n)]
    shows = thumbnail_tokens(layout)
    cells = [i for w in ranked for i in large if shows[i] == w]
    v, u = (each.tolist() for each in coordinates(ctx.rotary))
    places, references = int(share * len(large) / ctx.n * n + 1e-9), []
    tiles = sorted({int(layout.tile[i]) for i in large})
    for number, tile in enumerate(tiles):  # equal tiles: the first get one more
        own = [i for i in large if layout.tile[i] == tile]
        m = places // len(tiles) + (number < places % len(tiles))
        best = sorted(own, key=lambda i: -v[i])[: m - m // 2]
        references += best + sorted((i for i in own if i not in best), key=lambda i: -u[i])[: m // 2]
    covered = [i for i in cells if shows[i] in winners]
    wanted = list(dict.fromkeys([*references, *winners, *covered]))
    if cut == "position":
        wanted = sorted(wanted)
    return sorted(list(dict.fromkeys([*wanted, *ranked, *cells]))[:n])


@pytest.mark.parametrize("cut", ["rank", "position"])
@pytest.mark.parametrize("n", [1, 7, 18, 90, 131, 180])
def test_by_loops(n, cut):
    for seed in range(2):
        ctx = context(TILED, n, seed=seed)
        method = IVC(foreground="thumbnail", cut=cut, seeds=0.06)
        assert method.select(ctx).indices.tolist() == slow(ctx, n, 0.4, 0.06, cut)
        method = IVC(foreground="thumbnail", cut=cut, coordinates=0.0)
        assert method.select(ctx).indices.tolist() == slow(ctx, n, 0.0, 0.01, cut)


def test_half_of_a_published_tiling_has_the_published_counts():
    """Six tiles of 256 and a thumbnail: 128 of it, and 51 reference positions in every tile."""
    layout = TokenLayout.tiled(2, 3, (16, 16), size=(1344, 896), family="internvl", thumbnail=True)
    ctx = context(layout, 0.5)
    kept = IVC(foreground="thumbnail", coordinates=0.4).select(ctx).indices
    assert int((kept >= 6 * 256).sum()) == 128 and len(kept) == 7 * 128
    v, u = coordinates(ctx.rotary)
    for tile in range(6):
        own = torch.arange(256 * tile, 256 * tile + 256)
        best = own[v[own].argsort(descending=True, stable=True)[:26]]
        assert set(best.tolist()) <= set(kept.tolist())
    published = IVC(foreground="thumbnail", cut="position").select(ctx).indices
    assert len(published) == len(kept) and (published >= 6 * 256).sum() < 128  # its own cut takes the thumbnail's best


def test_without_a_thumbnail_it_is_the_other_form():
    whole = context(TILED, 0.5)
    tiles = sub_layout(TILED, np.arange(144))
    for layout in (tiles, TokenLayout.raster(8, 12, size=(600, 400), family="internvl")):
        ctx = context(layout, 0.3)
        assert torch.equal(IVC(foreground="thumbnail").select(ctx).indices, IVC().select(ctx).indices)
    assert not torch.equal(IVC(foreground="thumbnail").select(whole).indices, IVC().select(whole).indices)


def test_options_that_do_nothing_or_do_not_exist_are_refused():
    for wrong, said in (
        ({"foreground": "tiles"}, "foreground must be one of image, thumbnail; got 'tiles'"),
        ({"foreground": "thumbnail", "cut": "order"}, "cut must be one of rank, position"),
        ({"cut": "position"}, "cut does nothing without foreground=thumbnail: add it, or leave cut out"),
    ):
        with pytest.raises(InputError, match=said):
            IVC(**wrong)
    assert {"foreground", "cut"} & set(IVC().options()) == set()
    published = parse("ivc:foreground=thumbnail:cut=position:hidden=raw")
    assert published.needs_layout and parse(published.label).options_hash == published.options_hash


@pytest.mark.parametrize(
    ("family", "cut"),
    [tiny.quick("internvl", "position"), tiny.quick("llava_next", "rank"), tiny.quick("llava", "rank")],
)
def test_in_models(family, cut):
    """Keep-all is identical; cached and pruned is masked and recomputed; alone as in a batch."""
    vlm = tiny.vlm(family)
    enc = tiny.encoded(vlm, 3)
    tokens, plain = run(vlm, enc)
    method = IVC(foreground="thumbnail", cut=cut, keep=1.0)
    with prune(vlm, method, 2):
        same = run(vlm, enc)
    assert torch.equal(same[0], tokens) and (same[1] - plain).abs().max() == 0
    with prune(vlm, method.with_keep(0.4), 2) as state:
        answer, logits = run(vlm, enc)
        together = [s.indices.tolist() for s in state.selections]
        chosen = list(state.selections)
        for i, picture in enumerate(tiny.images(3)):
            vlm.forward(vlm.encode([picture], [tiny.texts(3)[i]]))
            assert state.selections[0].indices.tolist() == together[i]
    assert [len(own) for own in together] == [budget(0.4, x.n) for x in enc.layouts]
    want = oracle(vlm, enc.inputs, answer, dropped_positions(enc, chosen), 2)
    assert (logits - want).abs().max() <= 1e-4 < (logits - plain).abs().max()


def test_images_that_are_one_pool_and_later_stages():
    vlm, pictures = tiny.vlm("internvl"), tiny.images(3)
    enc = vlm.encode([pictures[:2], pictures[2:]], tiny.texts(2))
    with prune(vlm, IVC(foreground="thumbnail", keep=0.4), 2, budget="joint") as state:
        vlm.forward(enc)
        counts = [len(s.indices) for s in state.selections]
    total = sum(layout.n for layout in enc.layouts[:2])
    assert counts[0] + counts[1] == budget(0.4, total) and counts[2] == budget(0.4, enc.layouts[2].n)
    with prune(vlm, schedule="random@0.6@0+ivc:foreground=thumbnail@0.3@2") as state:
        vlm.forward(enc)
    for layout, first, second in zip(enc.layouts, *state.stages, strict=True):
        assert len(second.indices) == budget(0.3, layout.n) and set(second.indices.tolist()) <= set(
            first.indices.tolist()
        )
