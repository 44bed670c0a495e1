"""The verbs ``biaslab heads`` and ``biaslab sinks``."""

import json
from pathlib import Path

import pytest
from commands import run

from biaslab.core.layout import TokenLayout

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_heads_are_rated_compared_and_written(capsys, tmp_path):
    status, out, _ = run(
        capsys, "heads", "--model", "grounder", "--n", 9, "--layers", 3, "--criterion", "quality,localization,auroc",
        "--out", tmp_path / "heads", "--json",
    )  # fmt: skip
    said = json.loads(out)
    assert status == 0 and len(said["ratings"]) == 12 and len(said["agreement"]) == 3
    assert (tmp_path / "heads" / "card.md").exists()


def test_what_cannot_be_rated_is_refused_in_a_line(capsys, tmp_path):
    for arguments, words in (
        (["--criterion", "size"], "criteria must be among quality, localization, auroc, ablation, ippro"),
        (["--criterion", "quality,quality"], "each once"),
        (["--criterion", "ippro", "--lam", 0], "--lam is above 0"),
        (["--n", 4], "at least 4 images"),
        (["--layers", 40], "40"),
        (["--dataset", tmp_path / "nowhere"], "nowhere"),
    ):
        status, _, err = run(capsys, "heads", "--out", tmp_path / "heads", *arguments)
        assert status == 2 and words in err and len(err.strip().splitlines()) == 1, (arguments, err)
    assert not (tmp_path / "heads").exists()


def test_sinks_are_told_of_a_model_and_a_profile(capsys, tmp_path):
    from biaslab.maps.simulate import simulate
    from biaslab.profiles import MeanProfile

    status, out, _ = run(capsys, "sinks", "--model", "grounder", "--n", 5, "--layer", 4, "--level", 6, "--json")
    said = json.loads(out)
    assert status == 0 and said["layer"] == 4 and len(said["images"]) == 5
    assert ("sink_dims=" in " ".join(said["sentences"])) == bool(said["dims"])
    layout = TokenLayout.raster(4, 4, size=(56, 56), family="demo")
    other = MeanProfile().fit(simulate("u-shaped", {layout: 30}, layers=4).maps).save(tmp_path / "other")
    for arguments, words in (
        (["--level", 1], "level must be above 1"), (["--layer", "2,3"], "single layer"), (["--layer", 40], "40"),
        (["--layer", 4, "--profile", other], "fitted for"), (["--profile", tmp_path / "none"], "no profile at"),
    ):  # fmt: skip
        status, _, err = run(capsys, "sinks", "--n", 5, *arguments)
        assert status in (1, 2) and words in err and len(err.strip().splitlines()) == 1, (arguments, err)


def test_a_file_of_annotations_is_a_data_set_of_both(capsys, tmp_path):
    sample = ROOT / "data" / "sample" / "refcoco_sample.jsonl"
    given = ["--model", "grounder", "--dataset", sample, "--image-root", sample.parent, "--n", 9]
    status, out, err = run(
        capsys, "heads", *given, "--layers", 3, "--criterion", "auroc", "--out", tmp_path / "heads", "--json"
    )
    assert status == 0, err
    assert [r["layer"] for r in json.loads(out)["ratings"]] == [3] * 4
    status, out, err = run(capsys, "sinks", *given, "--layer", 2, "--json")
    assert status == 0, err
    assert len(json.loads(out)["images"]) == 9
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\n')
    for verb in (["heads", "--out", tmp_path / "no"], ["sinks"]):
        status, _, err = run(capsys, *verb, "--model", "grounder", "--dataset", tmp_path / "bad.jsonl")
        assert status == 2 and "bad.jsonl, line 1 has no fields" in err and err.count("\n") == 1
