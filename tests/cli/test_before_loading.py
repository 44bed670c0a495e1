"""What can be known before a model is loaded is refused before."""

import numpy as np
import pytest
import tiny
from commands import run
from safetensors.numpy import save_file

import biaslab as bl
from biaslab import TokenLayout
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
        ("evaluate --n 2 --methods none --out {long}/x", "is too long for this file system"),
        ("evaluate --n 2 --methods none --out {nowhere}", "cannot be written"),
        ("evaluate --n 2 --methods none --out {file}", "is a file"),
        ("bench --methods none --out {nowhere}", "cannot be written"),
        # -- layers and methods, by the model's shape
        ("prune {photo} cat --layer 99", "layer must be a decoder layer index 0 .. 9, got 99"),
        ("prune {photo} cat --layer -11", "0 .. 9, or -10 .. -1 from the end; got -11"),
        ("evaluate --n 2 --methods divprune --layer 4,10 --out {folder}/run", "0 .. 9, got 10"),
        ("bench --methods divprune --layer -11", "got -11"),
        ("bench --methods divprune --layer 99", "got 99"),
        ("prune {photo} cat --methods fastv --layer 0", "at K = 0 there is none, use K >= 1"),
        ("evaluate --n 2 --methods none,fastv --layer 0 --out {folder}/run", "at K = 0 there is none"),
        ("bench --methods fastv --layer 0", "at K = 0 there is none"),
        ("bench --methods divprune --layer 1 --model qwen3-vl-4b", "in its first 3 layers: use K >= 3"),
        (
            "evaluate --methods divprune --layer 0 --out {folder}/run --model paligemma-3b-mix-224",
            "before the decoder: use K >= 1",
        ),
        ("prune {photo} cat --layer 28 --model internvl3-8b", "0 .. 27, got 28"),
        ("prune {photo} cat --methods fastv,fastv", "fastv at keep 0.1 is given twice"),
        ("evaluate --n 2 --methods divprune,divprune --out {folder}/run", "given twice"),
        ("evaluate --n 2 --methods divprune --layer 4,-6 --out {folder}/run", "layer 4 is given twice"),
        ("bench --methods divprune,divprune", "given twice"),
        ("evaluate --n 2 --methods none,divprune --reference xx --out {folder}/run", "reference 'xx' is not among"),
        # -- schedules
        ("prune {photo} cat --methods divprune@0.4@2+fastv@0.06@99", "0 .. 9, got 99"),
        ("prune {photo} cat --methods divprune@0.4@2+fastv@0.6@4", "cannot grow: fastv@0.6@4"),
        ("bench --methods divprune@0.4@4+fastv@0.2@2", "layers of a schedule must ascend"),
        ("evaluate --n 2 --methods none,divprune@0.4 --out {folder}/run", "write method@keep@layer"),
        ("evaluate --n 2 --methods random@0.4@1+relative@0.1@4 --out {folder}/run", "needs a profile"),
        ("evaluate --n 2 --methods pyramiddrop --keep 25 --out {folder}/run", "in 3 stages by shares: give a ratio"),
        # -- the cache below K
        ("evaluate --n 2 --methods fastv --cache half --out {folder}/run", "--cache is full or trimmed, got 'half'"),
        ("evaluate --n 2 --methods swiftvlm --cache trimmed --out {folder}/run", "such a schedule needs --cache full"),
        ("bench --methods fastv --cache half", "--cache is full or trimmed, got 'half'"),
        ("bench --methods swiftvlm --layer 2 --cache trimmed", "such a schedule needs --cache full"),
        ("prune {photo} cat --cache half", "--cache is full or trimmed, got 'half'"),
        ("prune {photo} cat --methods swiftvlm --layer 2 --cache trimmed", "such a schedule needs --cache full"),
        # -- texts
        ("prune {photo} {empty}", "empty expression: say what to locate"),
        ("prune {photo} <IMG_CONTEXT>", "must not contain the image token"),
        ("fit-bias --out {folder}/p --prompt {nul}", "--prompt holds a NUL character"),
        ("fit-bias --out {folder}/p --prompts named", "the grounder answers nothing but boxes and names no object"),
        ("fit-bias --out {folder}/p --prompts genric", "no such file, and none of expressions, generic, named"),
        ("fit-bias --out {folder}/p --images {photos} --questions 2", "come without expressions to ask several of"),
        ("fit-bias --out {folder}/p --prompt What? --questions 2", "is one text for every image: leave it out"),
        ("fit-bias --out {folder}/p --prompts generic --questions 9", "there are 8 generic questions, not 9"),
        ("fit-bias --out {folder}/p --prompts {file}", "captions are for a folder or archive of images"),
        ("fit-bias --out {folder}/p --images {photos} --prompts {file}", "has no rows"),
        # -- which rows
        ("fit-bias --out {folder}/p --queries first", "--queries is last, text, null, raters or answer, got 'first'"),
        ("fit-bias --out {folder}/p --heads some", "--heads is mean or all"),
        ("fit-bias --out {folder}/p --score xx", "'xx'"),
        ("probe --out {folder} --queries first", "--queries is last or text"),
        ("probe --out {folder} --heads some", "--heads is mean or all"),
        # -- the probe's places
        ("probe --out {folder} --grid 0x4", "--grid takes one positive number"),
        ("probe --out {folder} --grid 4,4", "--grid takes one positive number"),
        ("probe --out {folder} --size 0", "--size takes one positive number"),
        ("probe --out {folder} --scale 20,30", "do not fit 224x224 pixels"),
        ("probe --out {folder} --scale 2,1", "two numbers of cells above 0, small to large"),
        ("probe --out {folder} --scale nan,1", "got (nan, 1)"),
        ("probe --out {folder} --scale 2,90", "do not fit"),
        ("probe --out {folder} --distractors 999", "distractors must be 0 to"),
        ("probe --out {folder} --expression thing", "holds no {} for the object's name"),
        # -- options of images
        ("prune {photo} cat --image-option pixels=3", "has no image option 'pixels'"),
    ],
)
def test_refused(capsys, tmp_path, photo, words, said):
    (tmp_path / "a file").write_text("")
    (tmp_path / "folder").mkdir()
    save_file({"weight": np.zeros(2, np.float32)}, tmp_path / "weights.safetensors")
    places = {"nowhere": "/proc/nowhere", "file": tmp_path / "a file", "folder": tmp_path / "folder", "photo": photo,
              "bare": photo.with_suffix(""), "photos": tmp_path, "weights": tmp_path / "weights",
              "long": tmp_path / ("x" * 300), "empty": " ", "nul": "a\0"}  # fmt: skip
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    status, out, err = run(capsys, *(_filled(word, places) for word in words.split(" ")))
    assert status in (1, 2) and out == "" and said in err and err.count("\n") == 1, err
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    if "folder" in words and "maps" not in words:
        assert not list((tmp_path / "folder").iterdir())


def _filled(word, places):
    for name, place in places.items():
        word = word.replace(f"{{{name}}}", str(place))
    return word


# ------------------------------------------------------------------------------------------ profiles
@pytest.fixture(scope="module")
def profiles(tmp_path_factory, grounder):
    """Profile files: of the grounder's layer 3, the same of another model, and of another tiling."""
    maps = bl.collect(grounder, [scene("test", i).image for i in range(2)], prompt="Where?", layers=[3], progress=False)
    folder, files = tmp_path_factory.mktemp("profiles"), {}
    wide = TokenLayout.raster(4, 8, size=(896, 448), family="internvl")
    changes = {
        "fits": {}, "hub": {"model": "somebody/grounder", "revision": "a" * 40},
        "model": {"model": "other", "fingerprint": "weights-0"}, "weights": {"fingerprint": "weights-0"},
        "text": {"queries": "text"}, "layout": {},
    }  # fmt: skip
    for name, change in changes.items():
        profile = bl.MeanProfile().fit(maps)
        profile.provenance_.update(change)
        if name == "layout":
            (key,) = profile.layouts_
            profile.layouts_ = {wide.key: wide}
            profile.counts_ = {wide.key: profile.counts_[key]}
            profile.arrays_ = {3: {wide.key: {k: v[:, :32] for k, v in profile.arrays_[3][key].items()}}}
        files[name] = profile.save(folder / name)
    return files


@pytest.mark.parametrize("verb", ["prune {photo} cat", "evaluate --n 2 --out {out}", "bench"])
@pytest.mark.parametrize(
    ("name", "layer", "said"),
    [
        ("fits", 5, "holds layers [3], not 4"),
        ("model", 4, "fitted for model 'other', not 'grounder'"),
        ("weights", 4, "fitted for 'grounder' with other weights"),
        ("text", 4, "fitted for query rule 'text'"),
        ("layout", 4, "fitted for layouts ['internvl/4x8/tiles1x1'], not 'internvl/16x16/tiles1x1'"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(capsys, tmp_path, photo, profiles, verb, name, layer, said):
    words = [_filled(word, {"photo": photo, "out": tmp_path / "run"}) for word in verb.split()]
    options = ["--methods", "relative", "--layer", layer, "--profile", profiles[name]]
    status, out, err = run(capsys, *words, *options)
    assert status in (1, 2) and out == "" and said in err and err.count("\n") == 1, err


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("fits", "--layers 2", "the profile holds layers [3], not [2]"),
        ("fits", "--heads all", "fitted for head reduction 'mean'"),
        ("fits", "--queries text", "fitted for query rule 'last'"),
        ("weights", "", "with other weights"),
    ],
)
def test_a_profile_that_a_probe_cannot_be_compared_with_is_refused(capsys, tmp_path, profiles, name, options, said):
    status, out, err = run(capsys, "probe", "--out", tmp_path, "--profile", profiles[name], *options.split())
    assert status in (1, 2) and out == "" and said in err and err.count("\n") == 1, err


def is_loaded(capsys, *words):
    """What the command says until it loads the model."""
    err = run(capsys, *words)[2].splitlines()
    assert "the model is loaded" in err[-1], err
    return err[:-1]


def test_what_fits_is_loaded(capsys, tmp_path, photo, profiles):
    """The checks refuse nothing that a run takes: a copy known by its weights, a model that is not known before."""
    fits = ["--methods", "none,relative", "--profile", profiles["hub"]]
    for words in (
        ["prune", photo, "cat", *fits],
        ["evaluate", "--n", 2, "--out", tmp_path / "run", *fits],
        ["bench", *fits],
        ["probe", "--out", tmp_path / "probe", "--profile", profiles["hub"]],
        ["prune", photo, "cat", "--layer", 99, "--model", "somebody/some-model"],
        # not on this machine: which weights will come is not known
        ["prune", photo, "cat", *fits, "--model", "internvl3-8b", "--layer", 4],
    ):
        assert is_loaded(capsys, *words) == []


def test_more_tokens_than_there_are_are_warned_of(capsys, tmp_path, photo):
    evaluate = ["evaluate", "--n", 2, "--out", tmp_path / "run", "--methods", "divprune"]
    for words in (["prune", photo, "cat"], evaluate, ["bench"]):
        (said,) = is_loaded(capsys, *words, "--keep", "300")
        assert "keep 300: an image has 256 visual tokens here, so all are kept" in said
        assert is_loaded(capsys, *words, "--keep", "256") == []


def test_windows_are_refused_by_the_configuration(capsys, tmp_path, photo):
    kinds = ["full_attention", "sliding_attention", "full_attention", "full_attention"]
    config = tiny.config("internvl", text="qwen2", layer_types=kinds, use_sliding_window=True, sliding_window=8)
    config.save_pretrained(tmp_path / "model")
    tiny.processor("internvl").save_pretrained(tmp_path / "model")
    status, out, err = run(capsys, "prune", photo, "cat", "--layer", 1, "--model", tmp_path / "model")
    assert status == 1 and out == "" and "use sliding_attention" in err and err.count("\n") == 1, err


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
