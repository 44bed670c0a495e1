"""Methods with a schedule of their own: its layers and keeps, their rules by hand, and as configurations of a run."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
import toy_grounding as toy
from methods import RASTER, TILED, context
from pruned import run

from biaslab.errors import InputError
from biaslab.evaluation.configurations import Config, configurations
from biaslab.evaluation.recorded_methods import label_of
from biaslab.models.offline.geometry import geometry
from biaslab.pruning import METHODS, FastV, Schedule, make, prune
from biaslab.pruning.methods.feather import Feather
from biaslab.pruning.methods.pyramiddrop import PyramidDrop
from biaslab.pruning.methods.staged import Staged
from biaslab.pruning.schedule import own_schedule, schedule_in

STAGED = sorted(name for name, cls in METHODS.items() if issubclass(cls, Staged))


def test_published_layers_and_shares():
    word = "pyramiddrop@0.5@8+pyramiddrop@0.25@16+pyramiddrop@0.125@24"
    assert own_schedule(PyramidDrop(keep=0.125), 32).word == word
    first, second = Feather(keep=0.034).own_stages(32)
    assert (first[0], second[0]) == (8, 16) and first[1].keep == pytest.approx(0.3 + 0.7 / 9, abs=1e-3)
    assert (first[1].stride, second[1].stride) == (3, 0) and second[1].keep == 0.034
    shares = [1.0, 0.5, 0.25, 0.125]
    assert sum(shares) / 4 == pytest.approx(0.46875)  # of 576 tokens 270
    for keep, word in (
        (118 / 576, "300@3 200@7 118@16"), (60 / 576, "238@3 108@7 60@16"), (20 / 576, "66@3 34@7 20@16"),
        (10 / 576, "33@3 17@7 10@16"), (1.0, "576@3 576@7 576@16"),
    ):  # fmt: skip
        stages = own_schedule(make("sparsevlm", keep=keep), 32)
        assert " ".join(f"{round(576 * s.keep)}@{s.layer}" for s in stages) == word
    vscan = own_schedule(make("vscan", keep=1 / 18), 28)
    assert [(s.layer, s.rule.label) for s in vscan] == [(0, "vscan"), (14, "fastv:reads_layer=own")]
    assert [s.keep for s in vscan] == pytest.approx([1 / 6, 1 / 18])
    assert sum(s.keep for s in vscan) / 2 == pytest.approx(1 / 9)  # as published: 11.1 % on average
    assert own_schedule(make("vscan", keep=0.5), 28)[0].keep == 1


@pytest.mark.parametrize("name", STAGED)
def test_layers_ascend_at_any_depth_and_keeps_fall(name):
    method = make(name, keep=0.1)
    for depth in range(len(method.depths) + 1, 90):
        for lowest in range(depth - len(method.depths)):
            stages = method.own_stages(depth, lowest)
            layers, keeps = [k for k, _ in stages], [rule.keep for _, rule in stages]
            assert layers == sorted(set(layers)) and lowest <= layers[0] and layers[-1] < depth
            assert keeps == sorted(keeps, reverse=True) and keeps[-1] == 0.1
    with pytest.raises(InputError, match="too many for"):
        method.own_stages(len(method.depths), 2)
    with pytest.raises(InputError, match="give a ratio"):
        make(name, keep=20).own_stages(32)
    assert FastV().own_stages(32) is None


@pytest.mark.parametrize("layout", [RASTER, TILED], ids=["raster", "tiles"])
def test_feather_is_the_union_of_a_grid_with_the_best(layout):
    ctx = context(layout, 0.5)
    grid = set(np.flatnonzero((layout.row % 3 == 0) & (layout.col % 3 == 0)).tolist())
    chosen = Feather().select(ctx)
    rows = ctx.attention.mean(1)
    scores = (rows / rows.sum(1, keepdim=True)).mean(0)
    torch.testing.assert_close(chosen.scores, scores)
    others = [i for i in scores.argsort(descending=True, stable=True).tolist() if i not in grid]
    want = sorted([*grid, *others[: ctx.budget - len(grid)]])
    assert chosen.indices.tolist() == want and chosen.info["grid"] == len(grid)
    for m in range(layout.n):  # some top-m set makes that union
        top = set(scores.argsort(descending=True, stable=True)[:m].tolist())
        if sorted(top | grid) == want:
            break
    else:
        pytest.fail("no union of a top set with the grid")
    few = context(layout, len(grid))  # half of it for the grid's best
    best = sorted(grid, key=lambda i: -float(chosen.scores[i]))[: few.budget // 2]
    rest = [i for i in scores.argsort(descending=True, stable=True).tolist() if i not in best]
    assert sorted([*best, *rest[: few.budget - len(best)]]) == Feather().select(few).indices.tolist()
    assert torch.equal(Feather(stride=0).select(ctx).indices, scores.topk(ctx.budget).indices.sort().values)
    with pytest.raises(InputError, match="stride must be"):
        Feather(stride=-1)


def test_feathers_score_is_a_softmax_among_visual_tokens_without_rotary_positions():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 2)
    with prune(vlm, FastV(keep=0.5, score="no_rope"), 2) as plain:
        vlm.forward(enc)
    with prune(vlm, Feather(keep=0.5, stride=0), 2) as state:
        vlm.forward(enc)
    for a, b in zip(plain.selections, state.selections, strict=True):
        assert a.scores.sum() < b.scores.sum() == pytest.approx(1)


def test_pyramiddrop_at_a_layer_is_its_rule():
    ctx = context(RASTER, 0.3)
    assert torch.equal(PyramidDrop().select(ctx).indices, FastV().select(ctx).indices)


@pytest.mark.parametrize("name", STAGED)
def test_without_a_layer_it_cuts_at_its_own(name):
    vlm = tiny.vlm("internvl", layers=6)
    enc = tiny.encoded(vlm, 2)
    with prune(vlm, make(name, keep=0.2)) as state:
        tokens, logits = run(vlm, enc)
    assert state.schedule.label == name and len(state.stages) == len(make(name).depths)
    with prune(vlm, schedule=state.schedule.word) as spelled:
        same = run(vlm, enc)
    assert torch.equal(tokens, same[0]) and torch.equal(logits, same[1])
    with prune(vlm, make(name, keep=0.2), 3) as one:
        run(vlm, enc)
    assert len(one.stages) == 1 and spelled.schedule.options()["stages"] == state.schedule.options()["stages"]


@pytest.mark.parametrize("name", STAGED)
def test_it_is_a_configuration_of_a_run_by_its_name(name, tmp_path):
    method = make(name)
    one, two = configurations([name], (0.5, 0.2), 2, model=tiny.vlm("internvl"))
    assert isinstance(one.method, Schedule) and one.label == name and one.describe()["method"] == name
    assert one.describe()["options_hash"] == two.describe()["options_hash"] != method.options_hash
    assert one.key != two.key and two.describe()["keep"] == 0.2
    record = {**one.describe(), "options": one.method.options()}
    assert label_of(record) == name and Schedule.from_options(record["options"]).options() == record["options"]
    (unknown,) = configurations([name], 0.5, 2)
    assert isinstance(unknown, Config) and unknown.layer is None and unknown.stages == ()
    with pytest.raises(InputError, match="give a ratio"):
        configurations([name], 20, 2)
    results = toy.run(tmp_path, methods=("none", name, f"{name}@0.5@2"), keep=0.2, layer=1)
    table = results.table.query("expression_type == 'all' and method == @name")
    assert results.complete and table["layer"].tolist() == [one.layer, 2]
    again = toy.run(tmp_path, methods=(name,), keep=0.2, layer=3)  # its layers are its own
    assert len(again.run["identity"]["configurations"]) == 3


def test_layers_follow_the_models_lowest():
    deep = geometry("qwen3-vl-4b")  # adds features of the image after its first three layers
    assert [stage.layer for stage in schedule_in(deep, PyramidDrop(keep=0.1))] == [9, 18, 27]
    assert schedule_in(geometry("grounder"), Feather(keep=0.1)).layer == 2
