"""Protected sets and quotas around other methods: by hand, against methods of their own, in real models."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
import torch
from methods import RASTER, TILED, MapProfile, context
from pruned import dropped_positions, oracle, run

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, UnsupportedError
from biaslab.evaluation.configurations import configurations
from biaslab.pruning import (
    D2Pruner,
    DivPrune,
    FastV,
    Lookahead,
    Protected,
    Quota,
    Random,
    Relative,
    Stage,
    TokenContext,
    budget,
    parse,
    prune,
)
from biaslab.pruning.algorithms.coordinates import reference_tokens
from biaslab.pruning.context import Rotary
from biaslab.pruning.methods.quota import quotas
from biaslab.pruning.registry import from_record


# -- protected -------------------------------------------------------------------------------------------------
def test_reference_positions_are_kept_first_by_hand():
    """Theta of 1 and pi / 2 at positions 0 to 7: of 5 tokens 2 are protected, 0 (no turn) and 1 (a quarter)."""
    layout = TokenLayout.raster(1, 8, size=(80, 10), family="toy")
    attention = torch.tensor([0.9, 0.01, 0.02, 0.03, 0.3, 0.2, 0.1, 0.0])[None, None]
    rotary = Rotary(torch.tensor([1.0, math.pi / 2]), torch.arange(8)[None])
    ctx = TokenContext(layout, 5, attention=attention, rotary=rotary)
    chosen = Protected(share=0.4, method="fastv").select(ctx)
    assert chosen.indices.tolist() == [0, 1, 4, 5, 6] and chosen.info == {"protected": 2}
    assert torch.isinf(chosen.scores).tolist() == [True, True, *[False] * 6]
    torch.testing.assert_close(chosen.scores[2:], attention[0, 0, 2:])
    assert Protected(share=1.0).select(ctx).indices.tolist() == reference_tokens(rotary, 5).sort().values.tolist()
    assert Protected(share=0.0).select(ctx).indices.tolist() == FastV().select(ctx).indices.tolist()


@pytest.mark.parametrize("layout", [RASTER, TILED], ids=["raster", "tiles"])
def test_a_grid_is_every_third_row_and_column_of_each_tile(layout):
    ctx = context(layout, 0.5)
    grid = [i for i in range(layout.n) if layout.row[i] % 3 == 0 and layout.col[i] % 3 == 0]
    for method in ("divprune", "random", "d2pruner:debias=none"):
        chosen = Protected(rule="uniform:3", share=1.0, method=method).select(ctx)
        assert set(grid) <= set(chosen.indices.tolist()) and len(chosen.indices) == ctx.budget
        assert chosen.info["protected"] == len(grid)
    few = Protected(rule="uniform:3", share=0.1, method="fastv").select(ctx)
    assert few.info["protected"] == int(0.1 * ctx.budget)
    assert torch.isinf(few.scores).nonzero().flatten().tolist() == [
        grid[(2 * i + 1) * len(grid) // (2 * few.info["protected"])] for i in range(few.info["protected"])
    ]
    rest = [i for i in FastV().select(context(layout, 1.0)).scores.argsort(descending=True).tolist() if i not in grid]
    chosen = Protected(rule="uniform:3", share=1.0, method="fastv").select(ctx)
    assert set(chosen.indices.tolist()) == {*grid, *rest[: ctx.budget - len(grid)]}


def test_given_tokens_are_taken_in_their_order_also_behind_a_cut():
    ctx = context(RASTER, 10)
    chosen = Protected(rule=[90, 3, 200, 50], share=0.3, method="random").select(ctx)
    assert chosen.info["protected"] == 3 and {90, 3, 50} < set(chosen.indices.tolist())
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 2)
    stages = [Stage(1, Protected(rule=[2, 3, 0], share=1.0, method="random"), 0.75),
              Stage(3, Protected(rule=[1, 0, 2], share=1.0, method="random"), 2)]  # fmt: skip
    with prune(vlm, schedule=stages) as state:
        vlm.forward(enc)
    for first, second in zip(*state.stages, strict=True):
        want = [i for i in (1, 0, 2) if i in first.indices.tolist()][:2]
        assert second.indices.tolist() == sorted(want)


def test_a_diverse_method_chooses_among_the_others_alone():
    ctx = context(RASTER, 12)
    fixed = [0, 40, 95]
    others = np.setdiff1d(np.arange(RASTER.n), fixed)
    alone = DivPrune(keep=9).select(_only(ctx, others, 9))
    chosen = Protected(rule=fixed, share=1.0, method=DivPrune()).select(ctx)
    assert chosen.indices.tolist() == sorted([*fixed, *others[alone.indices].tolist()])


def _only(ctx, where, n):
    layout = TokenLayout.raster(1, len(where), size=(len(where), 1), family="toy")
    return TokenContext(layout, n, features=ctx.features[where])


# -- quota -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("keep", [2, 7, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("options", [{}, {"theta": 0.3, "pivot_ratio": 0.0}])
def test_tiles_as_d2pruner_divides_them(keep, options):
    """Where similarity is semantic alone, a tile is chosen from as if it were all there is."""
    ctx = context(TILED, keep)
    ours = Quota(method=D2Pruner(debias="none", alpha=1.0, **options), keep=keep).select(ctx)
    theirs = D2Pruner(debias="none", alpha=1.0, quota="tile", keep=keep, **options).select(ctx)
    assert torch.equal(ours.indices, theirs.indices)
    counts = np.bincount(TILED.tile[ours.indices], minlength=5)
    assert ours.info["quota"] == counts.tolist() and sum(counts) == ctx.budget


def test_blocks_of_cells_and_a_method_that_ranks():
    ctx = context(RASTER, 24)  # 8 x 12: six blocks of 16
    chosen = Quota(by="blocks", block=4, method="fastv", keep=24).select(ctx)
    scores = ctx.attention.mean((0, 1))
    want = []
    for r in range(2):
        for c in range(3):
            own = [i for i in range(RASTER.n) if RASTER.row[i] // 4 == r and RASTER.col[i] // 4 == c]
            want += sorted(own, key=lambda i: -float(scores[i]))[:4]
    assert chosen.indices.tolist() == sorted(want) and chosen.info == {"quota": [4] * 6}
    torch.testing.assert_close(chosen.scores, scores)


def test_the_relevant_tile_keeps_more():
    """A tile whose features point where the question does, among four that point elsewhere."""
    ctx = context(TILED, 40)
    ctx.text = torch.zeros(3, 16) + torch.eye(16)[0]
    ctx.features = torch.eye(16)[1] + 0.1 * torch.randn(TILED.n, 16, generator=torch.Generator().manual_seed(0))
    for tile in (0, 3):
        ctx.features[TILED.tile == tile, 0] = 1.0
        chosen = Quota(by="tile", share="relevance", temperature=0.3, method="random", keep=40).select(ctx)
        assert int(np.argmax(chosen.info["quota"])) == tile and chosen.info["quota"][tile] > 16
        assert np.bincount(TILED.tile[chosen.indices], minlength=5).tolist() == chosen.info["quota"]
        ctx.features[TILED.tile == tile, 0] = 0.0
    even = Quota(share="relevance", temperature=100.0, method="random", keep=40).select(ctx).info["quota"]
    assert max(even) - min(even) <= 1


def test_quotas_by_hand():
    assert quotas([10, 10], [1.0, 1.0], 5) == [3, 2]  # ties to the first
    assert quotas([4, 10, 10], [1e9, 1.0, 1.0], 10) == [4, 3, 3]  # what is over goes to the others
    assert quotas([4, 2, 6], [1.0, 2.0, 3.0], 12) == [4, 2, 6]
    assert quotas([100, 100], [1e300, 1e-300], 2, least=1) == [1, 1]
    assert quotas([5, 1, 1], [1.0, 1.0, 1.0], 1) == [1, 0, 0]
    assert quotas([12, 4, 28], [1.0, 1.0, 1.0], 16, least=1) == [4, 2, 10]
    assert quotas([28, 1], [1.0, 1.0], 3, least=1) == [2, 1]
    g = np.random.default_rng(0)
    for _ in range(200):
        sizes = g.integers(1, 30, g.integers(1, 8)).tolist()
        total = int(g.integers(0, sum(sizes) + 1))
        parts = quotas(sizes, (g.random(len(sizes)) + 1e-3).tolist(), total)
        assert sum(parts) == total and all(0 <= p <= s for p, s in zip(parts, sizes, strict=True))


@pytest.mark.parametrize("share", ["equal", "relevance"])
def test_images_of_a_prompt_share_a_budget_and_other_prompts_do_not_count(share):
    vlm, layer = tiny.vlm("internvl"), 3
    pictures = tiny.images(4, seed=3)
    method = Quota(by="image", share=share, method="fastv", keep=0.4)
    counts = []
    for batch in ([pictures[:3], pictures[3:]], [pictures[:3]]):
        enc = vlm.encode(batch, tiny.texts(len(batch)), sample_ids=["a", "b"][: len(batch)])
        with prune(vlm, method, layer) as state:
            answer, logits = run(vlm, enc)
        sizes = [x.n for x in enc.layouts]
        kept = [len(s.indices) for s in state.selections]
        assert sum(kept[:3]) == sum(budget(0.4, n) for n in sizes[:3]) and min(kept) >= 1
        counts.append([s.indices.tolist() for s in state.selections[:3]])
        want = oracle(vlm, enc.inputs, answer, dropped_positions(enc, state.selections), layer)
        assert (logits - want).abs().max() <= 1e-4
    assert counts[0] == counts[1]
    own = [budget(0.4, n) for n in sizes]
    near = all(abs(len(kept) - n) <= 1 for kept, n in zip(counts[1], own, strict=True))
    assert near == (share == "equal")


# -- both ------------------------------------------------------------------------------------------------------
def test_as_one_word_and_as_a_record():
    for word, method in (
        ("protected", Protected()),
        ("protected:rule=uniform3:share=0.5:method=d2pruner:theta=0.7:debias=none",
         Protected(rule="uniform:3", share=0.5, method=D2Pruner(theta=0.7, debias="none"))),
        ("quota:by=blocks:block=3:method=protected:share=0.3:method=divprune",
         Quota(by="blocks", block=3, method=Protected(share=0.3, method=DivPrune()))),
    ):  # fmt: skip
        for again in (parse(word), parse(method.label), from_record(method.name, method.options())):
            assert again.options_hash == method.options_hash and again.label == method.label
            assert type(again.method) is type(method.method)
    assert parse("quota:method=fastv:score=no_rope").score == "no_rope"
    assert Protected(method="random").options_hash != Protected(method="fastv").options_hash
    assert [c.key for c in Protected(rule="uniform:3", method="fastv").citations()] == ["feather2025", "fastv2024"]
    assert "schedule" not in Protected().options()


def test_the_method_decides_what_is_read():
    inner = FastV(queries="null", reads_layer="own", score="value_norm")
    for outer in (Protected(rule="uniform:3", method=inner), Quota(method=inner)):
        assert outer.needs == {"attention"} and outer.query_kinds == ("null",) and outer.attention_layers(4) == (4,)
        assert outer.layer_read(0) == 0 and outer.score == "value_norm"
    assert Protected(method="divprune").needs == {"features", "rotary"}
    assert Quota(method="random", share="relevance").needs == {"features", "text"}
    vlm = tiny.vlm("qwen2_5_vl")
    enc = tiny.encoded(vlm, 2)
    for word, layer in (("protected:method=fastv:reads_layer=own", 0), ("quota:by=blocks:block=2:method=dart", 2),
                        ("protected:share=0.5:method=ivc:hidden=raw", 2)):  # fmt: skip
        with prune(vlm, parse(word).with_keep(0.5), layer) as state:
            run(vlm, enc)
        assert [len(s.indices) for s in state.selections] == [budget(0.5, x.n) for x in enc.layouts]


def test_a_profile_reaches_the_method():
    profile = MapProfile(torch.linspace(1, 2, RASTER.n)[None])
    profile.hash = "0"
    outer = Quota(by="blocks", method="relative")
    with pytest.raises(InputError, match="needs a profile"):
        outer.select(context(RASTER, 0.2))
    (config,) = configurations([outer], 0.2, 2, profile)
    assert config.method.profile is profile and "profile" in config.method.needs
    chosen = config.method.select(context(RASTER, 0.2))
    # of every block the map of the whole image is read
    want = Relative(profile=profile).importance(context(RASTER, 0.2))
    torch.testing.assert_close(chosen.scores, want)


def test_what_cannot_be_is_refused():
    for make_it in (
        lambda: Protected(rule="corner"), lambda: Protected(rule="uniform:0"), lambda: Protected(rule=[1, 1]),
        lambda: Protected(rule=[]), lambda: Protected(rule=[-1]), lambda: Protected(share=1.2),
        lambda: Protected(method="fastw"), lambda: Protected(method="none"), lambda: Protected(method=3),
        lambda: Quota(by="row"), lambda: Quota(block=3), lambda: Quota(by="blocks", block=0),
        lambda: Quota(temperature=0.5), lambda: Quota(share="relevance", temperature=0),
        lambda: Quota(method=Lookahead()), lambda: parse("fastv:method=random"),
    ):  # fmt: skip
        with pytest.raises(InputError):
            make_it()
    vlm = tiny.vlm("internvl")
    with pytest.raises(UnsupportedError, match="at K = 0 there is none"), prune(vlm, Quota(), 0):
        pytest.fail("was not refused before any work")


def test_wrapped_random_follows_the_seed():
    ctx = context(RASTER, 0.3)
    one, same = (Quota(by="blocks", method=Random()).select(ctx) for _ in range(2))
    assert torch.equal(one.indices, same.indices)


def test_methods_of_the_vision_tower_choose_within_parts_and_those_that_merge_are_refused():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 3)
    kept = {}
    for word in ("vispruner", "quota:by=tile:method=vispruner", "protected:share=0.3:method=quota:method=vispruner"):
        with prune(vlm, parse(word).with_keep(0.5), 2) as state:
            run(vlm, enc)
        kept[word] = [s.indices.tolist() for s in state.selections]
        assert [len(own) for own in kept[word]] == [budget(0.5, x.n) for x in enc.layouts]
    assert len({str(own) for own in kept.values()}) == 3
    assert Quota(method="vispruner").before_decoder

    class Merging(FastV):
        name = "merging"

        @property
        def merges(self):
            return True

    with pytest.raises(InputError, match="merges what it drops"):
        Quota(method=Merging())
