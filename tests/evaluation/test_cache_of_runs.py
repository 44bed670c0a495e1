"""Runs whose answers are generated from a trimmed cache: recorded, counted, not mixed with others."""

from __future__ import annotations

import json

import pytest
import tiny
import toy_grounding as toy

import biaslab as bl
from biaslab import cost
from biaslab.datasets.calibration import Calibration
from biaslab.errors import InputError, RunFolderError, UnsupportedError
from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.one_video import compare_on_video
from biaslab.evaluation.run_once import GenerationOptions
from biaslab.workflows.dry_run import plan_evaluate

pytestmark = pytest.mark.slow

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
        ({"cache": "half", "methods": ("none",)}, InputError, "cache must be 'full' or 'trimmed'"),
        ({"positions": "half", "methods": ("none",)}, InputError, "positions must be one of"),
        ({"cache": "trimmed", "positions": "renumber"}, UnsupportedError, "renumbered positions"),
        ({"cache": "trimmed", "methods": ("swiftvlm",)}, UnsupportedError, "tokens that come back"),
    ):
        with pytest.raises(error, match=match):
            toy.run(tmp_path / "run", **{"methods": ("fastv",), "keep": 0.3, **options})
    assert not (tmp_path / "run").exists()


def test_single_images_videos_and_benchmarks_have_it():
    vlm, (image,), new = tiny.vlm("internvl"), tiny.images(1), 4
    asked = {"methods": ["none", "fastv"], "keep": 0.2, "layer": 3}
    for cache in ("full", "trimmed"):
        with bl.prune(vlm, bl.FastV(keep=0.2), layer=3, cache=cache):
            want = vlm.ask([image], vlm.family.grounding_prompt("the cat"), max_new_tokens=new)
            told = vlm.ask([[image]], "What?", frames=True, max_new_tokens=new)
        answers = bl.compare_methods(vlm, image, "the cat", **asked, max_new_tokens=new, cache=cache)
        assert [answers[1].answer.text] == want
        answers = compare_on_video(vlm, [image], "What?", **asked, max_new_tokens=new, cache=cache)
        assert [answers[1].text] == told
    images = Calibration("noise", [image], "What?", ["a"])
    once = {"repeats": 1, "warmup": 0, "new_tokens": 9, "memory": False, "progress": False}
    full, trimmed = (bl.bench(vlm, images, **asked, **once, cache=cache) for cache in ("full", "trimmed"))
    assert (full.settings["cache"], trimmed.settings["cache"]) == ("full", "trimmed")
    spent = [found.table.set_index("method")["tflops_decode"] for found in (full, trimmed)]
    assert spent[0]["none"] == spent[1]["none"] and spent[0]["fastv"] > spent[1]["fastv"]
    for run in (
        lambda **options: bl.compare_methods(vlm, image, "the cat", **options),
        lambda **options: compare_on_video(vlm, [image], "What?", **options),
        lambda **options: bl.bench(vlm, images, **options),
    ):
        with pytest.raises(InputError, match="cache must be 'full' or 'trimmed'"):
            run(methods=["none"], keep=0.2, cache="half")


def test_a_dry_run_counts_it():
    data, configs = bl.load_dataset("scenes", n=2), configurations(["none", "random"], 0.1, 4)
    full, trimmed = (plan_evaluate("grounder", data, configs, cache=cache).table for cache in ("full", "trimmed"))
    assert full.loc[0].equals(trimmed.loc[0])
    assert (trimmed.loc[1, ["kv_mib", "tflops_decoder"]] < full.loc[1, ["kv_mib", "tflops_decoder"]]).all()


def test_options_are_recorded_only_where_they_are_asked_for():
    assert list(GenerationOptions().recorded()) == ["seed", "max_new_tokens", "positions"]
    assert GenerationOptions(cache="trimmed").recorded()["cache"] == "trimmed"
