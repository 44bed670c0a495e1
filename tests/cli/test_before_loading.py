"""What can be known before a model is loaded is refused before."""

import numpy as np
import pytest
from commands import run
from safetensors.numpy import save_file

from biaslab.cli.model_options import ModelChoice
from biaslab.models.offline.geometry import decoder_depth
from biaslab.scenes import scene


@pytest.fixture(autouse=True)
def no_load(monkeypatch):
    def load(*_, **__):
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(ModelChoice, "load", load)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    scene("validation", 0).image.save(path)
    return path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("fit-bias --out {nowhere}/p.safetensors", "cannot be written"),
        ("fit-bias --out {file}/p.safetensors", "is a file"),
        ("fit-bias --out {folder}", "is a folder: name a file in it"),
        ("fit-bias --out {folder}/p --maps {nowhere}", "cannot be written"),
        ("fit-bias --out {folder}/p --layers 10", "the decoder holds layers 0 to 9, not [10]"),
        ("fit-bias --out {folder}/p --layers 0-24 --model internvl2.5-1b", "the decoder holds layers 0 to 23"),
        ("probe --out {nowhere}", "cannot be written"),
        ("probe --out {folder} --layers 3,11", "not [11]"),
        ("prune {photo} cat --out {nowhere}/kept", "cannot be written"),
        ("prune {photo} cat --out {folder}", "is a folder: name a figure in it"),
        ("prune {photo} cat --out {photo}", "is an input and would be replaced by the figure"),
        ("prune {photo} cat --out {bare}", "name another file as --out"),
        ("fit-bias --images {photos} --out {bare}", "is an input and would be replaced by the figure"),
        ("fit-bias --out {weights}", "holds tensors that are no profile"),
        ("fit-bias --out {long}", "is too long for this file system"),
        ("evaluate --methods none --out {long}/x", "is too long for this file system"),
        ("evaluate --methods none --out {nowhere}", "cannot be written"),
        ("evaluate --methods none --out {file}", "is a file"),
        ("bench --methods none --out {nowhere}", "cannot be written"),
    ],
)
def test_refused(capsys, tmp_path, photo, words, said):
    (tmp_path / "a file").write_text("")
    (tmp_path / "folder").mkdir()
    save_file({"weight": np.zeros(2, np.float32)}, tmp_path / "weights.safetensors")
    places = {"nowhere": "/proc/nowhere", "file": tmp_path / "a file", "folder": tmp_path / "folder", "photo": photo,
              "bare": photo.with_suffix(""), "photos": tmp_path, "weights": tmp_path / "weights",
              "long": tmp_path / ("x" * 300)}  # fmt: skip
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    status, out, err = run(capsys, *(word.format(**places) for word in words.split(" ")))
    assert status in (1, 2) and out == "" and said in err and err.count("\n") == 1, err
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    if "folder" in words and "maps" not in words:
        assert not list((tmp_path / "folder").iterdir())


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("evaluate --methods none --out |", "--out"),
        ("evaluate --out= --methods none", "--out"),
        ("fit-bias --out x --images | ", "--images"),
        ("fit-bias --out x -m |", "-m"),
        ("prune {photo} cat --out |  ", "--out"),
        ("prune {photo} cat --json --profile |", "--profile"),
        ("merge a b --out |", "--out"),
    ],
)
def test_an_empty_value_is_no_path_to_the_present_folder(capsys, tmp_path, monkeypatch, photo, words, option):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    arguments = ["" if word == "|" else word.format(photo=photo) for word in words.split()]
    status, out, err = run(capsys, *arguments)
    assert (
        (status, out) == (2, "")
        and err.startswith(f"biaslab: {option} is empty: give a value")
        and err.count("\n") == 1
    )
    assert sorted(tmp_path.iterdir()) == before


def test_depth_is_known_of_what_lies_here_or_is_published(tmp_path):
    assert decoder_depth("grounder") == 10 and decoder_depth("llava-1.5-7b") == 32
    assert decoder_depth("somebody/some-model") is None
    (tmp_path / "config.json").write_text('{"model_type": "llava", "text_config": {"model_type": "llama"}}')
    assert decoder_depth(tmp_path) == 32  # what a configuration leaves out is its class's
    (tmp_path / "config.json").write_text("{}")
    assert decoder_depth(tmp_path) is None
