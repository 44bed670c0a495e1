"""Runs whose answers are generated from a trimmed cache: recorded, counted, not mixed with others."""

from __future__ import annotations

import json

import pytest
import tiny
import toy_grounding as toy

import biaslab as bl
from biaslab import cost
from biaslab.errors import InputError, RunFolderError, UnsupportedError
from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.run_once import GenerationOptions
from biaslab.workflows.dry_run import plan_evaluate

METHODS = ("none", "fastv", "divprune@0.6@0+fastv@0.2@3")


def test_a_run_records_it_and_takes_no_others(tmp_path):
    trimmed = toy.run(tmp_path / "trimmed", methods=METHODS, keep=0.2, cache="trimmed")
    full = toy.run(tmp_path / "full", methods=METHODS, keep=0.2)
    there, plain = (
        json.loads((tmp_path / name / "run.json").read_text())["identity"]["options"] for name in ("trimmed", "full")
    )
    assert there == {**plain, "cache": "trimmed"} and "cache" not in plain
    for folder, cache in (("trimmed", "full"), ("full", "trimmed")):
        with pytest.raises(RunFolderError, match="cache"):
            toy.run(tmp_path / folder, methods=METHODS, keep=0.2, cache=cache)
    again = toy.run(tmp_path / "trimmed", methods=METHODS, keep=0.2, cache="trimmed")
    toy.same(again.samples, trimmed.samples)
    # the unpruned model has nothing to trim; the others are cheaper, answer by answer of one length
    config = tiny.vlm("internvl").model.config.text_config
    for a, b in zip(trimmed.samples.to_dict("records"), full.samples.to_dict("records"), strict=True):
        assert a["tokens_kept"] == b["tokens_kept"]
        if a["method"] == "none":
            assert a["tflops_decoder"] == b["tflops_decoder"] and a["answer"] == b["answer"]
    assert trimmed.summary()["tflops"].sum() < full.summary()["tflops"].sum()
    one, other = (cost.decoder_flops(config, 60, 20, keep_n=12, layer=2, new_tokens=9, cache=c)[1] for c in
                  ("trimmed", "full"))  # fmt: skip
    assert other - one == 2 * 8 * 2 * 48 * 2 * config.hidden_size  # 2 layers, 48 keys less in each of 8 steps


@pytest.mark.parametrize("decode", ["static", "dynamic"])
def test_ways_to_decode_and_the_plain_path_give_the_same(decode):
    a = toy.run(methods=METHODS, keep=0.3, decode=decode, cache="trimmed").samples
    b = toy.run(methods=METHODS, keep=0.3, plain=True, cache="trimmed").samples
    assert a["answer"].tolist() == b["answer"].tolist()


def test_what_cannot_be_is_refused_before_any_work(tmp_path):
    for options, error, match in (
        ({"cache": "half"}, InputError, "cache must be 'full' or 'trimmed'"),
        ({"cache": "trimmed", "positions": "renumber"}, UnsupportedError, "renumbered positions"),
        ({"cache": "trimmed", "methods": ("swiftvlm",)}, UnsupportedError, "tokens that come back"),
    ):
        with pytest.raises(error, match=match):
            toy.run(tmp_path / "run", **{"methods": ("fastv",), "keep": 0.3, **options})
    assert not (tmp_path / "run").exists()


def test_a_dry_run_counts_it():
    data, configs = bl.load_dataset("scenes", n=2), configurations(["none", "random"], 0.1, 4)
    full, trimmed = (plan_evaluate("grounder", data, configs, cache=cache).table for cache in ("full", "trimmed"))
    assert full.loc[0].equals(trimmed.loc[0])
    assert (trimmed.loc[1, ["kv_mib", "tflops_decoder"]] < full.loc[1, ["kv_mib", "tflops_decoder"]]).all()


def test_options_are_recorded_only_where_they_are_asked_for():
    assert list(GenerationOptions().recorded()) == ["seed", "max_new_tokens", "positions"]
    assert GenerationOptions(cache="trimmed").recorded()["cache"] == "trimmed"
