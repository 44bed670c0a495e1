"""Dropped tokens merged into kept ones: weights as plain loops, and against a stock model whose states were changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import tiny
import torch
from methods import RASTER, TILED, context
from pruned import dropped_positions, lowest_layer, oracle, run
from torch.nn.functional import cosine_similarity

from biaslab.errors import InputError
from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.run_once import GenerationOptions
from biaslab.evaluation.sweep.shared import shareable
from biaslab.pruning import Method, Random, Selection, Stage, Uniform, VisionZip, prune


@dataclass(frozen=True, eq=False, kw_only=True)
class Neighbour(Method):
    """Keep evenly spaced tokens, each a mean of itself and those that follow it; reads nothing."""

    name: ClassVar[str] = "neighbour"

    @property
    def merges(self):
        return True

    def pick(self, ctx, scores):
        return torch.linspace(0, ctx.n - 1, ctx.budget).long(), {}

    def merging(self, ctx, indices, scores):
        owner = torch.searchsorted(indices, torch.arange(ctx.n), right=True) - 1
        weights = torch.nn.functional.one_hot(owner, len(indices)).T.float()
        return weights / weights.sum(1, keepdim=True)


def by_hand(enc, selections):
    """The states of kept tokens replaced by their sums, a token at a time."""

    def merge(hidden):
        out = hidden.clone()
        for row, (first, last), chosen in zip(enc.owners, enc.spans, selections, strict=True):
            if chosen.merge is None:  # so few tokens are kept that none is contextual
                continue
            own = enc.visual[row, first:last]
            for place, weights in zip(own[chosen.indices], chosen.merge, strict=True):
                out[row, place] = sum(w * hidden[row, at] for w, at in zip(weights, own, strict=True) if w > 0)
        return out

    return merge


def check_merged(vlm, enc, method, layer=None, **options):
    plain = run(vlm, enc)[1]
    with prune(vlm, method, layer, **options) as state:
        answer, logits = run(vlm, enc)
    gone = dropped_positions(enc, state.selections)
    want = oracle(vlm, enc.inputs, answer, gone, state.layer, merge=by_hand(enc, state.selections))
    unmerged = oracle(vlm, enc.inputs, answer, gone, state.layer)
    assert (logits - want).abs().max() <= 1e-4 < (logits - unmerged).abs().max()
    assert (logits - plain).abs().max() > 1e-3
    return state


@pytest.mark.parametrize("family", tiny.CROSSED)
def test_equals_a_stock_model_with_merged_states(family):
    """Three prompts of different lengths and images, cached; K = 0 or the first allowed layer, and a later one."""
    vlm = tiny.vlm(family)
    enc = tiny.encoded(vlm, 3)
    state = check_merged(vlm, enc, VisionZip(keep=0.4, contextual=0.5, merge=True))
    assert state.layer == lowest_layer(vlm) and sum(bool((s.sizes > 1).any()) for s in state.selections) >= 2
    check_merged(vlm, enc, Neighbour(keep=0.3), 3)


def test_several_images_of_a_prompt_and_beams():
    vlm, pictures = tiny.vlm("internvl"), tiny.images(3)
    enc = vlm.encode([pictures[:2], pictures[2:]], tiny.texts(2), sample_ids=["a", "b"])
    check_merged(vlm, enc, VisionZip(keep=0.4, contextual=0.5, merge=True), 2)
    with prune(vlm, VisionZip(keep=0.4, contextual=0.5, merge=True), 0):
        both = vlm.generate(enc, max_new_tokens=3, num_beams=2)
        assert vlm.generate(vlm.encode([pictures[2:]], tiny.texts(2)[1:]), max_new_tokens=3, num_beams=2) == both[1:]


def test_a_batch_is_each_alone():
    vlm, pictures, questions = tiny.vlm("llava_next"), tiny.images(3), tiny.texts(3)
    with prune(vlm, VisionZip(keep=0.4, contextual=0.5, merge="added")) as state:
        enc = vlm.encode(pictures, questions)
        logits, together = vlm.forward(enc).logits[:, -1], state.selections
        for i in range(3):
            alone = vlm.forward(vlm.encode(pictures[i : i + 1], questions[i : i + 1])).logits[:, -1]
            assert (alone[0] - logits[i]).abs().max() <= 1e-4
            assert torch.equal(state.selections[0].indices, together[i].indices)
            torch.testing.assert_close(state.selections[0].merge, together[i].merge)


@pytest.mark.parametrize("layer", [0, 2])
def test_keeping_all_changes_nothing(layer):
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 3)
    tokens, plain = run(vlm, enc)
    for method in (VisionZip(keep=1.0, merge=True), Neighbour(keep=1.0)):
        with prune(vlm, method, layer):
            same = run(vlm, enc)
        assert torch.equal(same[0], tokens) and (same[1] - plain).abs().max() == 0


def test_a_later_stage_merges_what_is_left():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 2)
    with prune(vlm, schedule=[Stage(0, Uniform(keep=0.8)), Stage(2, Neighbour(keep=0.3))]) as state:
        answer, logits = run(vlm, enc)
    first, second = state.stages
    for one, other, layout in zip(first, second, enc.layouts, strict=True):
        assert other.merge.shape == (len(other.indices), layout.n)
        lost = torch.ones(layout.n, dtype=torch.bool).index_fill(0, one.indices, False)
        assert (other.merge[:, lost] == 0).all() and torch.allclose(other.merge.sum(1), torch.ones(len(other.indices)))
    gone = [dropped_positions(enc, stage) for stage in (first, second)]
    want = oracle(vlm, enc.inputs, answer, gone, [0, 2], merge=by_hand(enc, second))
    assert (logits - want).abs().max() <= 1e-4


# -- weights -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("merge", [True, "added"])
@pytest.mark.parametrize("layout", [RASTER, TILED])
def test_visionzip_is_its_loop(layout, merge):
    ctx = context(layout, 40)
    method = VisionZip(contextual=0.3, merge=merge)
    chosen, keys = method.select(ctx), ctx.vision.keys[2].double()
    order = ctx.vision.cls[2].mean(0).argsort(descending=True).tolist()
    rest = sorted(order[28:])
    targets = rest[:: len(rest) // 12][:12]
    want = torch.zeros(40, layout.n, dtype=torch.float64)
    kept = sorted(order[:28] + targets)
    joined = {t: [] for t in targets}
    for i in rest:
        if i not in targets:
            joined[max(targets, key=lambda t: float(cosine_similarity(keys[i], keys[t], 0)))].append(i)
    for row, token in enumerate(kept):
        others = joined.get(token, [])
        want[row, token] = 1.0 if merge == "added" else 1 / (1 + len(others))
        want[row, others] = 1 / max(1, len(others)) if merge == "added" else 1 / (1 + len(others))
    assert chosen.indices.tolist() == kept
    torch.testing.assert_close(chosen.merge.double(), want, rtol=1e-6, atol=1e-7)
    assert torch.equal(chosen.sizes, (want > 0).sum(1)) and chosen.sizes.sum() == layout.n
    again = method.select_budgets([ctx], [[40, 10]])[0]
    assert torch.equal(again[0].merge, chosen.merge) and again[1].merge.shape == (10, layout.n)


def test_where_nothing_is_merged_there_are_no_weights():
    ctx = context(RASTER, RASTER.n)
    assert VisionZip(merge=True).select(ctx).merge is None
    assert VisionZip(merge=True).select(context(RASTER, 2)).merge is None  # no token is contextual
    assert VisionZip().select(context(RASTER, 40)).merge is None
    assert Selection(torch.tensor([3, 7])).sizes.tolist() == [1, 1]


def test_what_is_refused():
    for options, match in (
        ({"merge": "mean"}, "merge must be true, false or added"),
        ({"merge": 1}, "merge must be true, false or added"),
        ({"merge": True, "contextual": 0}, "merge does nothing without contextual tokens"),
    ):
        with pytest.raises(InputError, match=match):
            VisionZip(**options)

    class Short(Neighbour):
        name = "short"

        def merging(self, ctx, indices, scores):
            return torch.ones(1, 1)

    vlm = tiny.vlm("internvl")
    with prune(vlm, Short(keep=0.5), 2), pytest.raises(InputError, match="merge of shape .* does not fit"):
        vlm.forward(tiny.encoded(vlm, 1))


def test_a_sweep_leaves_merging_to_the_plain_way():
    vlm = tiny.vlm("internvl")
    configs = configurations([Random(), VisionZip(merge=True), VisionZip()], [0.5, 0.2], 2)
    numbers = shareable(vlm, dict(enumerate(configs)), GenerationOptions())
    assert [i for i in range(6) if configs[i].method.merges] == [2, 3] and numbers == [0, 1, 4, 5]
