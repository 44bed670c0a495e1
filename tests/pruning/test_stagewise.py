"""Stagewise: which heads it reads, what it makes of them, and what its schedule costs."""

import dataclasses

import pandas as pd
import pytest
import torch
from methods import RASTER, MapProfile, build, context

import biaslab as bl
from biaslab.errors import InputError
from biaslab.pruning import DivPrune, make, parse
from biaslab.pruning.algorithms.max_min import max_min_diverse
from biaslab.pruning.methods.stagewise import first_share
from biaslab.pruning.schedule import own_schedule, schedule_in


def test_the_rule_is_the_formula_written_out():
    ctx, rule = context(RASTER, 0.2), build("stagewise", RASTER, keep=0.2, gamma=0.7, share=0.5)
    logs = {1: (ctx.attention.mean(1) + 1e-7).log(), 0: (ctx.earlier[0].mean(1) + 1e-7).log()}
    mu = (rule.profile.maps["expected"] + 1e-7).log()[0]
    z = torch.zeros(RASTER.n)
    for layer, head, quality in ((1, 0, 1.0), (0, 1, 0.6)):  # of the four heads those of half the best quality
        rest = logs[layer][head] - mu
        z += quality / 1.6 * (rest - rest.mean()) / rest.std(correction=0)
    found = rule.select(ctx)
    assert torch.allclose(found.scores, z, atol=1e-4)
    weight = torch.exp(0.7 * (z - z.mean()) / z.std(correction=0))
    assert found.indices.tolist() == sorted(max_min_diverse(ctx.features, ctx.budget, weight=weight).tolist())


def test_debiasing_takes_the_profile_off_and_below_leaves_deeper_heads_out():
    ctx, rule = context(RASTER, 0.2), build("stagewise", RASTER, keep=0.2)
    flat = dataclasses.replace(rule, profile=MapProfile(torch.full((1, RASTER.n), 0.3)))
    raw = dataclasses.replace(rule, debias=False)
    assert torch.allclose(flat.select(ctx).scores, raw.select(ctx).scores, atol=1e-4)
    assert not torch.allclose(rule.select(ctx).scores, raw.select(ctx).scores, atol=1e-2)
    assert [head[:2] for head in rule.chosen_heads(2)] == [(1, 0), (0, 1)]
    assert [head[:2] for head in dataclasses.replace(rule, below=1).chosen_heads(9)] == [(0, 1)]
    assert rule.attention_layers(5) == (4, 0, 1)


@pytest.mark.parametrize("depth", [10, 24, 32, 48])
@pytest.mark.parametrize("keep", [0.05, 0.1, 0.2, 0.5])
def test_a_schedule_costs_what_one_cut_does(depth, keep):
    schedule = own_schedule(make("stagewise", keep=keep), depth)
    layers, shares = [stage.layer for stage in schedule], [1.0, *(stage.keep for stage in schedule)]
    spans = [b - a for a, b in zip([0, *layers], [*layers, depth], strict=True)]
    mean = sum(n * share for n, share in zip(spans, shares, strict=True)) / depth
    assert mean == pytest.approx((2 + (depth - 2) * keep) / depth, rel=1e-6)
    assert schedule.keep == keep and schedule[0].rule.name == "divprune"


def test_where_the_decoder_may_not_be_cut_ahead_its_first_layer_sees_all():
    schedule = own_schedule(make("stagewise", keep=0.1, at=3), 20, lowest=1)
    assert [stage.layer for stage in schedule] == [1, 8, 12]
    n0, middle, keep = (stage.keep for stage in schedule)
    assert 1 + 7 * n0 + 4 * middle + 8 * keep == pytest.approx(3 + 17 * 0.1)
    assert first_share(0.5, 10, (0, 4, 6), at=9) == 1 and first_share(0.3, 10, (0, 4, 6), at=1) >= 0.3
    (first, *_) = own_schedule(make("stagewise", keep=0.5, at=9), 10)
    assert first.rule.name == "stagewise"  # nothing to drop before


def test_what_it_cannot_be_is_refused_in_a_line():
    ctx = context(RASTER, 0.2)
    for options, words in (
        ({"heads": [1]}, "leave heads out"), ({"share": 0}, "share"), ({"depths": (0.6, 0.4)}, "depths"),
        ({"at": 0}, "at must"), ({"below": 1.5}, "below must"), ({"gamma": -1}, "gamma"), ({"debias": 1}, "debias"),
        ({"profile": 3}, "fitted profile"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            make("stagewise", **options)
    with pytest.raises(InputError, match="fit-bias --heads all"):
        make("stagewise").select(ctx)
    silent = MapProfile(torch.ones(1, RASTER.n))
    silent.quality_ = pd.DataFrame({"layer": [0], "head": [0], "quality": [0.0]})
    with pytest.raises(InputError, match="no head of the layers below 2"):
        make("stagewise", profile=silent).select(ctx)
    with pytest.raises(InputError, match="give a ratio"):
        own_schedule(make("stagewise", keep=16), 10)
    with pytest.raises(InputError, match="too many"):
        own_schedule(make("stagewise"), 2)
    assert parse("stagewise:depths=[0.3,0.6]:below=4").label == "stagewise:depths=[0.3, 0.6]:below=4"


@pytest.mark.slow
def test_it_runs_on_the_grounder_as_its_three_stages_do(grounder, tmp_path):
    scenes = list(bl.load_dataset("scenes", split="calibration", n=8))
    prompts = [grounder.family.grounding_prompt(s.expression) for s in scenes]
    maps = bl.collect(grounder, scenes, prompt=prompts, layers=[1, 2, 3], heads="all", out=tmp_path, progress=False)
    profile = bl.MeanProfile().fit(maps).rate_heads(maps)
    rule = make("stagewise", keep=0.1, profile=profile)
    encoded = grounder.encode_grounding([s.image() for s in scenes[:2]], [s.expression for s in scenes[:2]])
    with bl.prune(grounder, rule) as run:
        grounder.forward(encoded)
    schedule = schedule_in(grounder, rule)
    with bl.prune(grounder, schedule=schedule) as stages:
        grounder.forward(encoded)
    assert [len(s.indices) for s in run.selections] == [25, 25]
    for ours, theirs in zip(run.selections, stages.selections, strict=True):
        assert ours.indices.equal(theirs.indices)
    assert run.mean_share() == pytest.approx(0.28, abs=0.003)
    first = run.stages[0][0].indices
    with bl.prune(grounder, DivPrune(keep=schedule[0].keep), layer=0) as alone:
        grounder.forward(encoded)
    assert alone.selections[0].indices.equal(first)
