"""Schedules as configurations of a run: recorded, continued, merged, labelled, with what they cost."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import tiny
import toy_grounding as toy

import biaslab as bl
from biaslab import cost
from biaslab.datasets.calibration import Calibration
from biaslab.errors import InputError
from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.matching import PromptSizes, matched_configurations, mean_share
from biaslab.evaluation.results import Results
from biaslab.evaluation.run_folder import profiles_of
from biaslab.pruning import FastV, Relative, Schedule, Stage, budget, prune
from biaslab.workflows.bench import bench

pytestmark = pytest.mark.slow

WORD = "divprune@0.6@1+fastv:score=no_rope@0.3@3"
METHODS = ("none", "fastv", WORD)


def rows_of(results, method):
    return results.samples[results.samples["method"] == method]


def test_a_schedule_is_one_configuration_with_its_own_layers_and_keeps(tmp_path):
    results = toy.run(tmp_path / "run", methods=METHODS, keep=(0.5, 0.2), layer=2)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    (config,) = [c for c in record["identity"]["configurations"] if c["method"] == "divprune+fastv"]
    assert (config["keep"], config["layer"]) == (0.3, 1)
    assert config["options"]["stages"] == [
        {"layer": 1, "method": "divprune", "keep": 0.6, "options": {"start": "isolated"}},
        {"layer": 3, "method": "fastv", "keep": 0.3, "options": {"queries": "last", "score": "no_rope"}},
    ]
    assert Schedule.from_options(config["options"]).label == WORD
    assert len(results.verdicts) == 6 * 4 and results.complete
    table = results.table.query("expression_type == 'all'").set_index("method")
    assert results.name_of(table.reset_index().iloc[-1]) == WORD
    assert WORD in set(results.summary()["method"])
    assert "divprune2025" in results.citations() and "feather2025" in results.citations()
    # what it costs: per layer, by share, in FLOPs
    n_layers, shares, flops = 4, [], []
    for line in rows_of(results, "divprune+fastv").to_dict("records"):
        n, left = line["tokens"], [budget(0.6, line["tokens"]), budget(0.3, line["tokens"])]
        assert line["info"]["kept_per_stage"] == left and line["tokens_kept"] == left[1]
        shares.append((n + 2 * left[0] + left[1]) / (n_layers * n))
        flops.append(line["tflops_decoder"])
    assert table.loc["divprune+fastv", "mean_share"] == pytest.approx(sum(shares) / len(shares))
    means = results.kept_per_layer().loc[WORD].tolist()
    lines = rows_of(results, "divprune+fastv")
    assert means == [
        lines["tokens"].mean(),
        *[lines["tokens"].map(lambda n: budget(0.6, n)).mean()] * 2,
        lines["tokens_kept"].mean(),
    ]
    assert results.kept_per_layer().loc["none keep 1"].tolist() == [lines["tokens"].mean()] * 4
    none = rows_of(results, "none")["tflops_decoder"].tolist()
    assert all(a < b for a, b in zip(flops, none, strict=True))


def test_it_keeps_what_a_block_keeps():
    vlm = tiny.vlm("internvl")
    results = toy.run(methods=(WORD,), seed=0)
    sample = toy.Toy().samples[0]
    with prune(vlm, schedule=WORD) as state:
        vlm.forward(vlm.encode_grounding([sample.image()], [sample.expression], sample_ids=[sample.id]))
    line = results.samples.iloc[0]
    assert line["tokens_kept"] == len(state.selections[0].indices)
    assert line["kept"] == toy_mask(state.selections[0].indices, line["tokens"])
    assert 0 <= line["target_auroc"] <= 1
    assert results.table["mean_share"].iloc[0] > 0


def toy_mask(indices, n):
    from biaslab.evaluation.kept_tokens import token_mask

    return token_mask(indices.numpy(), n)


def test_flops_of_a_line_are_those_of_its_segments():
    vlm = tiny.vlm("internvl")
    results = toy.run(methods=(WORD,))
    line = results.samples.iloc[0]
    sample = toy.Toy().samples[0]
    encoded = vlm.encode_grounding([sample.image()], [sample.expression])
    n, text = line["tokens"], encoded.last + 1 - line["tokens"]
    new = min(len(vlm.processor.tokenizer(line["answer"], add_special_tokens=False)["input_ids"]) + 1, 8)
    total, _ = cost.decoder_flops(
        vlm.model.config.text_config, n, text, keep_n=line["info"]["kept_per_stage"], layer=[1, 3], new_tokens=new
    )
    assert line["tflops_decoder"] == pytest.approx(total / 1e12)
    lengths = cost.layer_lengths(4, n, text, keep_n=line["info"]["kept_per_stage"], layer=[1, 3])
    with prune(vlm, schedule=WORD) as state:
        vlm.forward(encoded, use_cache=True)
    assert (
        state.kv_lengths()
        == lengths
        == cost.kv_entries(vlm.model.config.text_config, n, text, keep_n=line["info"]["kept_per_stage"], layer=[1, 3])
    )
    for wrong in (
        {"keep_n": [3, 4], "layer": [1, 3]},
        {"keep_n": [4, 3], "layer": [3, 1]},
        {"keep_n": [4, 3], "layer": [1]},
    ):
        with pytest.raises(InputError, match="keep_n must|prune layer must"):
            cost.layer_lengths(4, n, text, **wrong)


def test_runs_go_on_grow_and_merge(tmp_path):
    whole = toy.run(tmp_path / "whole", methods=METHODS, keep=0.5)
    toy.run(tmp_path / "parts", methods=("none", "fastv"), keep=0.5)
    grown = toy.run(tmp_path / "parts", methods=METHODS, keep=0.5)
    toy.same(whole.samples, grown.samples)
    lines = sum(len(path.read_text().splitlines()) for path in (tmp_path / "parts").glob("samples-*.jsonl"))
    again = toy.run(tmp_path / "parts", methods=(WORD,))
    assert lines == sum(len(path.read_text().splitlines()) for path in (tmp_path / "parts").glob("samples-*.jsonl"))
    assert again.complete and Results.load(tmp_path / "parts").labels == whole.labels
    toy.run(tmp_path / "a", methods=("none", "fastv"), keep=0.5)
    toy.run(tmp_path / "b", methods=(WORD,))
    merged = bl.merge_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "merged")
    toy.same(merged.samples, whole.samples)


@pytest.mark.parametrize("decode", ["static", "dynamic"])
def test_ways_to_decode_and_the_plain_path_give_the_same(decode):
    a, b = toy.run(methods=METHODS, keep=0.5, decode=decode), toy.run(methods=METHODS, keep=0.5, plain=True)
    drop = ["prefill_ms", "decode_ms", "peak_mb", "batch"]
    pd.testing.assert_frame_equal(a.samples.drop(columns=drop), b.samples.drop(columns=drop))


def test_configurations_of_words_profiles_and_single_stages():
    profile = toy.profile()
    one, two = configurations(["fastv@0.5@2", "relative@0.5@2+relative@0.2@3"], 0.1, 1, profile)
    (plain,) = configurations("fastv", 0.5, 2)
    assert one.key == plain.key and isinstance(one.method, FastV)
    assert isinstance(two.method, Schedule) and two.profiles == [profile]
    assert two.describe()["profile_hash"] == profile.hash and list(profiles_of([two])) == [profile.hash]
    assert [s["profile_hash"] for s in two.method.options()["stages"]] == [profile.hash] * 2
    with pytest.raises(InputError, match="needs a profile"):
        configurations("random@0.5@1+relative@0.2@3", 0.1, 1)
    with pytest.raises(InputError, match="given twice"):
        configurations([WORD, WORD], 0.1, 1)
    schedule = Schedule([Stage(1, "random", 0.5), Stage(2, Relative(profile=profile), 3)])
    (config,) = configurations(schedule, (0.1, 0.2), (1, 2))
    assert config.keeps == [0.5, 3] and config.kept(10) == [5, 3] and config.layer == 1


def test_a_run_with_a_profile_for_a_stage_is_recorded_with_it(tmp_path):
    word = "random@0.6@1+relative@0.3@2"
    results = toy.run(tmp_path, methods=(word,), profile=toy.profile())
    assert results.complete and list(tmp_path.glob("profile-*.safetensors"))
    stages = results.run["identity"]["configurations"][0]["options"]["stages"]
    assert stages[1]["profile_hash"] in results.run["profiles"]


def test_match_leaves_schedules_as_they_are():
    vlm, samples = tiny.vlm("internvl"), toy.Toy().samples
    configs = matched_configurations(vlm, samples, ["random", WORD], 0.8, [1, 2], None, "mean-share")
    assert [c.label for c in configs].count(WORD) == 1 and len(configs) == 3
    assert matched_configurations(vlm, samples, [WORD], 0.5, [1], None, "flops")[0].label == WORD
    assert mean_share(4, [1, 3], 12, [6, 3]) == (12 + 2 * 6 + 3) / 48
    sizes = PromptSizes(vlm, samples)
    assert sizes.most > 0


def test_refusals_come_before_any_work(tmp_path):
    for word, match in (("fastv@0.5@2+fastv@0.2@9", "layer must be"), ("fastv@0.5", "lacks its keep or its layer")):
        with pytest.raises(InputError, match=match):
            toy.run(tmp_path / "run", methods=("none", word))
    assert not (tmp_path / "run").exists()


def test_one_picture_and_the_benchmark():
    vlm, sample = tiny.vlm("internvl"), toy.Toy().samples[0]
    answers = bl.compare_methods(vlm, sample, sample.expression, methods=["none", WORD], keep=0.5, layer=2)
    assert [a.method for a in answers] == ["none", WORD]
    assert len(answers[1].selection.indices) == budget(0.3, answers[0].layout.n)
    images = Calibration("noise", tiny.images(2), "Where is it?")
    result = bench(
        vlm, images, methods=[WORD], keep=0.5, repeats=1, warmup=0, new_tokens=2, memory=False, progress=False
    )
    row = result.table.iloc[1]
    assert (row["method"], row["keep"], row["layer"]) == (WORD, 0.3, 1) and row["flops_prefill"] > 1
    assert result.settings["failed"] == {}
