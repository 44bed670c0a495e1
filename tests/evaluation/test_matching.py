"""Keeps of equal cost at several layers: against a plain search over all keeps, and the rows of a real run."""

from __future__ import annotations

from collections import Counter

import pytest
import tiny
import toy_grounding as toy
from commands import run as command

from biaslab.cost import decoder_flops
from biaslab.errors import InputError
from biaslab.evaluation.matching import (
    PromptSizes,
    matched_configurations,
    matched_keeps,
    matched_share,
    mean_share,
    read_match,
)
from biaslab.models.offline.geometry import geometry
from biaslab.pruning import Schedule, budget, make
from biaslab.pruning.schedule import parse_schedule, schedule_in


@pytest.fixture
def sizes():
    made = PromptSizes(tiny.vlm("internvl"), toy.Toy().samples)
    made.config, made.n_layers = geometry("llava-1.5-7b").config.text_config, 32
    made.counted = Counter({(576, 60): 3, (100, 40): 1, (7, 30): 2})
    return made


def slow_cost(sizes, match, keep, layer):
    total = 0.0
    for (n, text), times in sizes.counted.items():
        lengths = [n if i < layer else budget(keep, n) for i in range(32)]
        if match == "mean-share":
            total += times * sum(length / n for length in lengths) / 32
        else:
            total += times * decoder_flops(sizes.config, n, text, keep_n=budget(keep, n), layer=layer)[0] / 1e12
    return total / 6


@pytest.mark.parametrize("match", ["mean-share", "flops"])
@pytest.mark.parametrize("keep", [0.5, 0.25, 300])
def test_the_chosen_keep_is_the_nearest_of_all(sizes, match, keep):
    chosen = matched_keeps(sizes, [keep], [2, 6], match)
    assert chosen[2] == [keep] and type(chosen[6][0]) is type(keep)
    aim = slow_cost(sizes, match, keep, 2)
    every = range(1, 577) if isinstance(keep, int) else [i / 10_000 for i in range(1, 10_001)]
    off = {other: abs(slow_cost(sizes, match, other, 6) - aim) for other in every[:: 1 if isinstance(keep, int) else 7]}
    assert abs(slow_cost(sizes, match, chosen[6][0], 6) - aim) <= min(off.values()) + 1e-12
    assert chosen[6][0] < keep


def test_a_layer_whose_prefix_is_dearer_than_the_target_is_refused(sizes):
    with pytest.raises(InputError, match="layer 16 cannot cost .*at least 0.5.*with a single token"):
        matched_keeps(sizes, [0.1], [2, 16], "mean-share")
    with pytest.raises(InputError, match="lower the target"):
        matched_keeps(sizes, [0.1], [2], "flops=1000")
    for wrong in ("time", "flops=", "flops=-1", "mean-share=x"):
        with pytest.raises(InputError, match="choose mean-share or flops"):
            read_match(wrong)


def test_a_target_takes_the_place_of_the_keeps(sizes):
    chosen = matched_keeps(sizes, [0.5, 0.2], [2, 8], "mean-share=0.4")
    assert [len(keeps) for keeps in chosen.values()] == [1, 1]
    for layer, (keep,) in chosen.items():
        assert slow_cost(sizes, "mean-share", keep, layer) == pytest.approx(0.4, abs=2e-3)


def test_no_more_than_64_sizes_are_laid_out(monkeypatch):
    from dataclasses import replace

    vlm, asked = tiny.vlm("internvl"), []
    encode = vlm.family.encode
    monkeypatch.setattr(vlm.family, "encode", lambda *args: asked.append(1) or encode(*args))
    sample = toy.Toy().samples[0]
    PromptSizes(vlm, [replace(sample, width=50 + i) for i in range(100)])
    assert len(asked) == 64


def test_rows_of_a_run_cost_the_same(tmp_path):
    vlm = tiny.vlm("internvl")
    data = toy.Toy()
    results = toy.run(tmp_path, vlm, data, ["none", "random", "fastv"], 0.5, [1, 2], match="mean-share")
    table = results.table[results.table["expression_type"] == "all"]
    assert list(results.summary()["mean_share"]) == list(table["mean_share"])
    none, pruned = table[table["method"] == "none"], table[table["method"] != "none"]
    assert none["mean_share"].tolist() == [1.0] and len(pruned) == 4
    keep = dict(zip(pruned["layer"], pruned["keep"], strict=True))
    assert keep[1] == 0.5 and keep[2] < 0.5
    one_token = 1 / results.samples["tokens"].min()
    assert pruned["mean_share"].max() - pruned["mean_share"].min() < one_token
    lines = results.samples[(results.samples["method"] == "random") & (results.samples["layer"] == 2)]
    shares = [mean_share(vlm.n_layers, 2, line.tokens, line.tokens_kept) for line in lines.itertuples()]
    row = pruned[(pruned["method"] == "random") & (pruned["layer"] == 2)].iloc[0]
    assert row["mean_share"] == pytest.approx(sum(shares) / len(shares))
    before = (tmp_path / "run.json").read_bytes()
    toy.run(tmp_path, vlm, data, ["none", "random", "fastv"], 0.5, [1, 2], match="mean-share")
    assert (tmp_path / "run.json").read_bytes() == before  # the same command asks for the same keeps
    configs = matched_configurations(vlm, data.samples, ["none", "random"], 0.5, [1, 2], None, "mean-share")
    assert [c.describe()["layer"] for c in configs] == [None, 1, 2]


def test_methods_of_several_stages_cost_what_one_cut_does(sizes):
    model = geometry("llava-1.5-7b")
    for what in ("mean-share", "flops"):
        aim = sizes.cost(what)(0.5, 8)
        for name in ("pyramiddrop", "feather", "sparsevlm", "vscan"):
            share = matched_share(sizes, model, make(name), aim, what)
            cost = {k: sizes.cost_of_schedule(what)(schedule_in(model, make(name, keep=k))) for k in (0.01, share, 1.0)}
            assert cost[0.01] < cost[share] < cost[1.0] and cost[share] == pytest.approx(aim, rel=5e-3)
    with pytest.raises(InputError, match="pyramiddrop cannot cost 0.1: it costs at least .*leave it out"):
        matched_share(sizes, model, make("pyramiddrop"), 0.1, "mean-share")
    single = sizes.cost("flops")(0.3, 4)
    assert sizes.cost_of_schedule("flops")(parse_schedule("random@0.3@4")) == pytest.approx(single)


@pytest.mark.parametrize(("methods", "match"), [(["none", "fastv", "vscan"], "mean-share"), (["vscan"], "flops=1e-6")])
def test_stages_and_single_cuts_of_a_run_cost_the_same(methods, match):
    vlm = tiny.vlm("internvl")
    data = toy.Toy()
    if match == "flops=1e-6":
        match = f"flops={PromptSizes(vlm, data.samples).cost('flops')(0.6, 1)!r}"
    configs = matched_configurations(vlm, data.samples, methods, [0.6], [1, 2], None, match)
    configs = [config for config in configs if config.method is not None]
    sizes = PromptSizes(vlm, data.samples)
    cost = sizes.cost_of_schedule(match.partition("=")[0])
    found = [cost(Schedule(config.stages)) for config in configs]
    assert len(configs) == (3 if "fastv" in methods else 1) and isinstance(configs[-1].method, Schedule)
    want = sizes.cost(match.partition("=")[0])(0.6, 1)
    assert found == pytest.approx([want] * len(found), rel=0.03)  # few tokens: one is 2 %


def test_one_layer_needs_no_column(tmp_path):
    results = toy.run(None, tiny.vlm("internvl"), methods=["random"], keep=0.5)
    assert "mean_share" not in results.summary() and results.table["mean_share"].between(0.5, 1).all()


def test_the_command_plans_and_refuses_before_a_model_is_loaded(tmp_path, capsys):
    asked = ["evaluate", "--model", "grounder", "--methods", "random", "--n", "2", "--out", tmp_path / "run"]
    status, out, _ = command(capsys, *asked, "--keep", "0.5", "--layer", "2,4", "--match", "mean-share", "--dry-run")
    assert status == 0 and "85.000" in out  # of 256 tokens: (0.2 + 0.8 x 0.5 - 0.4) / 0.6 is 85.3
    status, _, error = command(capsys, *asked, "--keep", "0.1", "--layer", "2,8", "--match", "flops")
    assert status == 2 and "layer 8 cannot cost" in error and not (tmp_path / "run").exists()
    status, _, error = command(capsys, *asked, "--keep", "0.1", "--layer", "2,8", "--match", "time")
    assert status == 2 and "choose mean-share or flops" in error
