"""``data/``: the sample data set, the tool that makes it, and the grounder's profile."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import run
from PIL import Image

import biaslab as bl
from biaslab.core.images import load_image
from biaslab.datasets.calibration import calibration
from tools.build_sample_data import ANNOTATIONS, N, build

DATA = Path(__file__).parents[2] / "data"
SAMPLE = DATA / "sample"


@pytest.fixture(scope="module")
def built():
    return build()


def test_the_tool_makes_the_files_that_are_there(built, tmp_path):
    there = {path.relative_to(SAMPLE).as_posix() for path in SAMPLE.rglob("*") if path.is_file()}
    assert there == set(built)
    for name in ("README.md", *ANNOTATIONS):
        assert (SAMPLE / name).read_bytes() == built[name], name
    for name in there:
        if name.endswith(".jpg"):  # libjpeg's versions may differ in the last bit
            (tmp_path / "again.jpg").write_bytes(built[name])
            again, kept = (np.asarray(Image.open(p), float) for p in (tmp_path / "again.jpg", SAMPLE / name))
            assert abs(again - kept).mean() < 0.5, name


def test_it_is_small_and_has_thirty_pictures(built):
    assert sum(map(len, built.values())) < 1.5e6
    assert sum(name.endswith(".jpg") for name in built) == N == 30


@pytest.mark.slow
@pytest.mark.parametrize("file", ["refcoco_sample.jsonl"])  # every form has the same samples: test_readers.py
def test_the_grounder_finds_the_targets(file, capsys, tmp_path, monkeypatch):
    """Chance is a few percent; the grounder has 95 % on its own scenes."""
    monkeypatch.chdir(tmp_path)
    status, out, err = run(
        capsys, "evaluate", "--dataset", f"sample/{file}", "--data-root", DATA, "--n", 30, "--methods", "none",
        "--batch-size", 15, "--out", tmp_path / "run", "--json",
    )  # fmt: skip
    assert status == 0, err
    (row,) = json.loads(out)["rows"]
    assert row["n"] == 30 and row["errors"] == row["unparsed"] == 0 and row["acc50"] > 0.8


def test_its_pictures_are_a_calibration_set(grounder):
    pictures = calibration(grounder, "sample/images", data_root=DATA)
    assert len(pictures.images) == N and load_image(pictures.images[0]).size == (224, 224)


def test_the_grounders_profile_is_that_of_the_demo_and_prunes(grounder):
    profile = bl.load_profile(DATA / "grounder" / "profile.safetensors")
    origin = profile.provenance_
    assert (profile.name, origin["n"], profile.layers_) == ("mean", 300, list(range(10)))
    assert (origin["model"], origin["revision"]) == ("grounder", grounder.revision)
    card = (DATA / "grounder" / "profile.md").read_text()
    assert profile.hash in card and "Variance explained" in card
    assert not any(word in card + json.dumps(origin) for word in ("/home", "/tmp", "/work", "/root"))
    sample = next(iter(bl.load_dataset("scenes", split="test", n=1)))
    with bl.prune(grounder, bl.D2Pruner(keep=0.1, profile=profile), layer=4) as pruned:
        assert grounder.locate(sample.image(), sample.expression) is not None
    assert len(pruned.selections[0].indices) == 25
