"""One budget for all images of a prompt: the choice is that of a single pool, and the engine stays right."""

from __future__ import annotations

import pytest
import tiny
import torch
from pruned import dropped_positions, oracle, run

from biaslab.attention.capture import capture
from biaslab.attention.vision_record import VisionRequest
from biaslab.core.frames import FramesLayout
from biaslab.errors import InputError
from biaslab.pruning import DivPrune, FastV, Random, budget, prune
from biaslab.pruning.base import Method, Selection
from biaslab.pruning.methods.attention_method import AttentionMethod
from biaslab.pruning.methods.vision_method import VisionMethod
from biaslab.pruning.schedule import Stage

LAYER = 3


def encoded(vlm, groups=(2, 1, 3)):
    pictures = iter(tiny.images(sum(groups), seed=3))
    batch = [[next(pictures) for _ in range(n)] for n in groups]
    return vlm.encode(batch, tiny.texts(len(groups)), sample_ids=[f"s{i}" for i in range(len(groups))])


@pytest.mark.parametrize("family", tiny.CROSSED)
def test_the_best_of_all_images_are_kept_and_generation_equals_a_masked_recompute(family):
    vlm = tiny.vlm(family)
    enc = encoded(vlm)
    with capture(vlm, [LAYER - 1], heads="mean") as rows:
        vlm.forward(enc)
    with prune(vlm, FastV(keep=0.3), LAYER, budget="joint") as state:
        answer, logits = run(vlm, enc)
    assert state.counts == [layout.n for layout in enc.layouts] and len(state.selections) == len(enc.layouts)
    for row in range(3):
        mine = [i for i, owner in enumerate(enc.owners) if owner == row]
        n = sum(enc.layouts[i].n for i in mine)
        scores = rows[LAYER - 1].values[row, 0, 0, :n]
        want = scores.topk(budget(0.3, n)).indices.sort().values
        got = torch.cat([state.selections[i].indices + enc.spans[i][0] for i in mine])
        assert torch.equal(got, want)
        for i in mine:
            first, last = enc.spans[i]
            torch.testing.assert_close(state.selections[i].scores, scores[first:last], atol=1e-4, rtol=0)
    want = oracle(vlm, enc.inputs, answer, dropped_positions(enc, state.selections), LAYER)
    assert (logits - want).abs().max() <= 1e-4
    lengths = [sum(len(state.selections[i].indices) for i in range(6) if enc.owners[i] == row) for row in range(3)]
    assert state.kept_per_layer()[-1] == pytest.approx(sum(lengths) / 6)


def test_prompts_of_one_image_do_not_notice():
    vlm = tiny.vlm("internvl")
    enc = encoded(vlm, (1, 1))
    for rule in (FastV(keep=0.3), Random(keep=0.3), DivPrune(keep=0.3)):
        chosen = []
        for how in ("separate", "joint"):
            with prune(vlm, rule, LAYER, budget=how) as state:
                vlm.forward(enc)
            chosen.append([s.indices.tolist() for s in state.selections])
        assert chosen[0] == chosen[1]


def test_keep_all_changes_nothing_and_a_prompt_does_not_depend_on_its_batch():
    vlm = tiny.vlm("internvl")
    enc = encoded(vlm)
    plain = vlm.forward(enc).logits
    with prune(vlm, FastV(keep=1.0), LAYER, budget="joint"):
        assert torch.equal(vlm.forward(enc).logits, plain)
    with prune(vlm, DivPrune(keep=0.2), 1, budget="joint") as state:
        vlm.forward(enc)
        together = [s.indices.tolist() for s in state.selections]
        vlm.forward(vlm.encode([tiny.images(6, seed=3)[3:]], tiny.texts(3)[2:], sample_ids=["s2"]))
        assert [s.indices.tolist() for s in state.selections] == together[3:]


class Sees(Method):
    """Keeps the last tokens of the pool and remembers what it was shown."""

    name, joint = "sees", True

    def importance(self, ctx):
        seen.append(ctx.layout)
        return torch.arange(ctx.n, device=ctx.device).float()


class Placed(Sees):
    name = "placed"

    @property
    def needs_layout(self):
        return True


seen: list = []


def test_a_method_that_is_joint_sees_the_frames_and_prune_has_the_last_word():
    vlm = tiny.vlm("internvl")
    enc = vlm.encode([tiny.images(3)], ["?"], frames=True)
    n = enc.layouts[0].n
    seen.clear()
    with prune(vlm, Sees(keep=0.25), LAYER) as state:
        vlm.forward(enc)
    (layout,) = seen
    assert isinstance(layout, FramesLayout) and layout.parts == tuple(enc.layouts)
    assert [len(s.indices) for s in state.selections] == [0, 0, 3 * n // 4]
    with prune(vlm, Sees(keep=0.25), LAYER, budget="separate") as state:
        vlm.forward(enc)
    assert [len(s.indices) for s in state.selections] == [n // 4] * 3
    with pytest.raises(InputError, match="budget must be 'separate' or 'joint', got 'pool'"):
        prune(vlm, Sees(), LAYER, budget="pool").__enter__()


def test_stages_share_the_pool():
    vlm = tiny.vlm("internvl")
    enc = vlm.encode([tiny.images(3)], ["?"], frames=True)
    with prune(vlm, FastV(keep=0.1), 3, budget="joint") as once:
        vlm.forward(enc)
    with prune(vlm, schedule="random@1.0@1+fastv@0.1@3", budget="joint") as twice:
        vlm.forward(enc)
    assert [s.indices.tolist() for s in once.selections] == [s.indices.tolist() for s in twice.selections]
    seen.clear()
    with prune(vlm, schedule=[Stage(1, FastV(keep=0.5)), Stage(3, Placed(keep=0.25))]) as state:
        vlm.forward(enc)
    (layout,) = seen  # of the tokens that are left, each in its own frame
    left = [s.indices for s in state.stages[0]]
    assert layout.n == sum(map(len, left)) and layout.n_frames == 3
    assert layout.frame.tolist() == [k for k, own in enumerate(left) for _ in own]
    pool = torch.cat([own + first for own, (first, _) in zip(left, enc.spans, strict=True)])
    kept = [s.indices + first for s, (first, _) in zip(state.selections, enc.spans, strict=True)]
    assert torch.equal(torch.cat(kept), pool[-budget(0.25, enc.spans[-1][1]) :])


def test_the_null_row_of_a_pool_is_behind_its_last_image():
    vlm = tiny.vlm("internvl")
    enc = vlm.encode([tiny.images(3)], ["?"], frames=True)
    with prune(vlm, Remembers(keep=0.25, queries="null"), LAYER):
        vlm.forward(enc)
    ids = enc.inputs["input_ids"][0]
    row = int((ids == vlm.image_token_id).nonzero().max()) + 1
    with capture(vlm, [LAYER - 1], queries=torch.tensor([row])) as rows:
        vlm.forward(enc)
    torch.testing.assert_close(seen[-1][:, 0], rows[LAYER - 1].values[0, :, 0], atol=1e-5, rtol=0)


class Remembers(AttentionMethod):
    """Reads the row of the token behind the image."""

    name, joint = "remembers", True

    def importance(self, ctx):
        seen.append(ctx.attention)
        return self.per_head(ctx).mean(0)


@pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl"])
def test_what_the_tower_shows_of_a_pool_is_what_it_shows_of_each_image(family):
    vlm = tiny.vlm(family)
    enc = encoded(vlm, (2, 1))
    records = []
    for how in ("separate", "joint"):
        seen.clear()
        with prune(vlm, Looks(keep=0.25), LAYER, budget=how):
            vlm.forward(enc)
        records.append(list(seen))
    apart, (pool, alone) = records
    for name in ("received", "features", "keys"):
        for layer, held in getattr(pool, name).items():
            torch.testing.assert_close(held, torch.cat([getattr(apart[i], name)[layer] for i in (0, 1)]))
    if pool.cls is not None:
        for layer, held in pool.cls.items():
            torch.testing.assert_close(held, torch.cat([apart[i].cls[layer] for i in (0, 1)], 1))
    assert alone.n == enc.layouts[2].n and pool.n == enc.layouts[0].n + enc.layouts[1].n


class Looks(VisionMethod):
    name = "looks"

    def reads(self, tower):
        return self.salient(tower, -1) | VisionRequest(features=(-1,), keys=(-1,))

    def importance(self, ctx):
        seen.append(ctx.vision)
        return ctx.vision.saliency(-1)


def test_merging_reaches_over_the_images_of_a_pool():
    vlm = tiny.vlm("internvl")
    enc = vlm.encode([tiny.images(2)], ["?"], frames=True)
    with prune(vlm, Averages(keep=2), LAYER, budget="joint") as state:
        vlm.forward(enc)
    total = sum(layout.n for layout in enc.layouts)
    assert [len(s.indices) for s in state.selections] == [1, 1]
    assert [s.merge.shape for s in state.selections] == [(1, total)] * 2 and int(state.selections[1].sizes) == total


class Averages(Method):
    """Keeps the first and the last token of a pool, each with the mean of all."""

    name = "averages"

    def select(self, ctx):
        return Selection(torch.tensor([0, ctx.n - 1]), merge=torch.full((2, ctx.n), 1 / ctx.n))
