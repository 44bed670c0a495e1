"""Arguments of the wrong kind, of every public function: one line that names the argument, before any work."""

import numpy as np
import pytest
import torch
from made_runs import made_run

import biaslab as bl
from biaslab import profiles
from biaslab._util.arguments import as_path, at_least_one
from biaslab.errors import InputError
from biaslab.scenes import scene

IMAGE = scene("test", 0).image
NO_PATHS = [None, 5, True, b"x", ["a"], "", "a\0b", "x" * 5000]


def forbidden(*_, **__):
    raise AssertionError("the model runs")


@pytest.fixture
def idle(grounder, monkeypatch):
    """The grounder, which must not run."""
    monkeypatch.setattr(type(grounder), "prepare", forbidden)
    monkeypatch.setattr(grounder.model, "forward", forbidden)
    return grounder


def refused(words, call, *arguments, **options):
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert words in message and "\n" not in message, message


@pytest.mark.parametrize("value", NO_PATHS)
def test_paths(value, idle):
    for call in (bl.load_maps, bl.load_profile, bl.Results.load, lambda v: as_path("out", v)):
        refused("path", call, value)
    refused("path", bl.merge_runs, [value, "b"], "out")
    refused("path", bl.merge_runs, ["a", "b"], value)
    if value is not None:
        refused("path", bl.collect, idle, [IMAGE], out=value)
        refused("path", bl.evaluate, idle, bl.load_dataset("scenes", n=1), methods="none", keep=0.5, out=value)
        refused("path", bl.load_dataset, "scenes", data_root=value)


@pytest.mark.parametrize("value", [0, -1, 1.5, "3", True, float("nan")])
def test_counts(value, idle):
    scenes = bl.load_dataset("scenes", n=1)
    refused("n must be a whole number >= 1", bl.load_dataset, "scenes", n=value)
    refused("n must be a whole number >= 1", bl.calibration, idle, "scenes", n=value)
    refused("n must be a whole number >= 1", bl.evaluate, idle, scenes, methods="none", keep=0.5, n=value)
    refused("batch_size must be a whole number >= 1", bl.collect, idle, [IMAGE], batch_size=value)
    refused("folds must be a whole number >= 2", bl.collect, idle, [IMAGE], folds=value)
    refused("max_new_tokens must be a whole number", bl.compare_methods, idle, IMAGE, "it", methods="none", keep=0.5,
            max_new_tokens=value)  # fmt: skip
    assert at_least_one("n", np.int64(3)) == 3


@pytest.mark.parametrize("value", [0, 1.5, "x", None])
def test_the_limit_of_an_answer(value, grounder):
    refused("max_new_tokens must be a whole number", grounder.generate, grounder.encode([IMAGE], ["it"]),
            max_new_tokens=value)  # fmt: skip


@pytest.mark.parametrize("value", ["x", 1.5, None, True])
def test_seeds_are_refused_before_the_samples_are_run(value, idle):
    scenes = bl.load_dataset("scenes", n=1)
    refused("seed must be a whole number", bl.evaluate, idle, scenes, methods="none", keep=0.5, seed=value)
    refused("seed must be a whole number", bl.compare_methods, idle, IMAGE, "it", methods="none", keep=0.5, seed=value)
    refused("seed must be a whole number", bl.calibration, idle, "noise", n=1, seed=value)


@pytest.mark.parametrize("value", [None, "grounder", 5, torch.nn.Linear(2, 2)])
def test_models(value):
    words = "vlm must be a model"
    refused(words, bl.calibration, value, "scenes", n=1)
    refused(words, bl.collect, value, [IMAGE])
    refused(words, bl.evaluate, value, bl.load_dataset("scenes", n=1), methods="none", keep=0.5)
    refused(words, bl.compare_methods, value, IMAGE, "it", methods="none", keep=0.5)
    refused(words, bl.capture(value).__enter__)
    refused(words, bl.prune(value, "random", layer=1).__enter__)
    refused("model must be a transformers model", bl.wrap, value, None)


def test_maps_images_prompts_and_data_sets(idle):
    for maps in (None, 5, [], "maps", idle):
        refused("maps must be attention maps of bl.collect", bl.MeanProfile().fit, maps)
    for images in (None, 5, "photos", IMAGE):
        refused("images must be a list of images", bl.collect, idle, images)
    for prompt in (5, b"x", [5]):
        refused("prompt must be a string", bl.collect, idle, [IMAGE], prompt=prompt)
    for queries in (None, 5, [0], -1):
        refused("queries must be 'last', 'text'", bl.collect, idle, [IMAGE], queries=queries)
    for source in (None, 5, [IMAGE], IMAGE, np.zeros((2, 2)), b"x"):
        refused("source must be a folder or one of scenes", bl.calibration, idle, source)
    for data in (None, 5, "scenes", [1], list(bl.load_dataset("scenes", n=1))):
        refused("dataset must be a data set", bl.evaluate, idle, data, methods="none", keep=0.5)
    for text in (None, 5, ["a", "b"]):
        refused("expression must be a string", bl.compare_methods, idle, IMAGE, text, methods="none", keep=0.5)
    refused("image must be one image", bl.compare_methods, idle, [IMAGE] * 2, "it", methods="none", keep=0.5)
    refused("half a character", idle.locate, IMAGE, "the \ud83d")


@pytest.mark.parametrize("methods", ["none", "random", "divprune@0.4@2+random@0.1@4"])
def test_keeps_and_layers_are_read_where_no_method_takes_them(methods, idle, tmp_path):
    def compare(**options):
        return bl.compare_methods(idle, IMAGE, "it", methods=[methods], **{"keep": 0.5, **options})

    def evaluate(**options):
        data = bl.load_dataset("scenes", n=1)
        return bl.evaluate(idle, data, methods=[methods], out=tmp_path, **{"keep": 0.5, **options})

    for call in (compare, evaluate):
        for keep in (7.5, 0, -1, "x", None):
            refused("keep must be a ratio in (0, 1] or a count of tokens", call, keep=keep)
        for layer in ("a", 1.5, True):
            refused("layer must be a whole number", call, layer=layer)
        refused("layer must be a decoder layer index 0 .. 9, got 10", call, layer=10)


def test_what_is_looked_at(idle, tmp_path):
    def view(**options):
        return bl.view(idle, IMAGE, "it", **options)

    for methods in (3, None, [3]):
        refused("methods must be names or Method instances", view, methods=methods)
    for methods in ((), ["fastv"], ["d2pruner"]):
        for profile in ("x", ["x"]):
            refused("profile must be a fitted profile", view, methods=methods, profile=profile)
        for layer in (99, "a", 1.5):
            refused("layer must be 0 .. 9, or -10 .. -1 from the end; got", view, methods=methods, layer=layer)
    for height in ("a", 0, None):
        refused("height must be a whole number >= 1", view, height=height)
    refused("labels must map methods to names", view, labels=3)
    refused("are of view(results)", view, dataset=bl.load_dataset("scenes", n=1))
    refused('bl.Results.load("runs/a").view() shows a run', bl.view, "runs/a")
    refused("name a file that ends in .html, not ", bl.report, _run_of_one(tmp_path / "run"), out=tmp_path / "x.txt")
    refused("dataset must be a data set", bl.report, tmp_path / "run", dataset="scenes")
    refused("vlm must be a model", bl.report, tmp_path / "run", vlm="grounder")
    refused("layers are of the attention", bl.report, tmp_path / "run", layers=[3])
    refused("n must be a whole number", bl.report, tmp_path / "run", n="a")
    refused("out must be a path", bl.report, tmp_path / "run", out=3)
    refused("labels must map methods to names", bl.report, tmp_path / "run", labels=3)


def _run_of_one(folder):
    return made_run(folder, {"fastv": {0.1: np.array([True, False])}}, model="grounder")


@pytest.mark.parametrize("value", ["foo", {}, 1.5, ["cpu"]])
def test_device_maps(value):
    refused("unknown device_map", bl.load, "grounder", device_map=value)


def test_what_is_saved_replaces_no_weights(tmp_path, grounder):
    from safetensors.numpy import save_file

    scenes = bl.calibration(grounder, "scenes", n=2)
    with pytest.warns(UserWarning, match="rests on 2 images"):
        profile = bl.MeanProfile().fit(bl.collect(grounder, scenes.images, layers=[3], progress=False))
    weights = tmp_path / "model.safetensors"
    save_file({"weight": np.zeros(2, np.float32)}, weights)
    before = weights.read_bytes()
    refused("holds tensors that are no profile", profile.save, weights)
    assert weights.read_bytes() == before
    (tmp_path / "README.md").write_text("# Mine")
    refused("README.md is no card of a profile", profile.save, tmp_path / "README")
    assert (tmp_path / "README.md").read_text() == "# Mine" and not (tmp_path / "README.safetensors").exists()
    for _ in range(2):  # a profile may be written anew, a damaged one too
        assert profiles.load(profile.save(tmp_path / "mine")).hash == profile.hash
        (tmp_path / "mine.safetensors").write_bytes(b"half")


@pytest.mark.parametrize("value", [None, 5, "maps/", np.zeros((2, 4))])
def test_what_is_no_maps_or_no_profile(value):
    for call in (bl.MeanProfile().fit, profiles.variance_explained, profiles.variance_table, profiles.select_estimator,
                 bl.BiasAtlas.from_maps, bl.diagnostics.diagnose):  # fmt: skip
        refused("maps must be attention maps of bl.collect or bl.load_maps, got", call, value)
    for call in (bl.ProfileDisplay.from_profile, bl.HeadsDisplay.from_profile, bl.BiasAtlas.from_profile,
                 lambda profile: profiles.save(profile, "never")):  # fmt: skip
        refused("profile must be a fitted profile, got", call, value)


def test_a_name_that_is_too_long_for_a_model():
    refused("is too long for a model", bl.load, "x" * 5000)


def test_a_file_is_not_cut_in_silence(tmp_path):
    row = '{"image": "a.png", "sent": "cat", "bbox": [0, 0, 9, 9], "width": 20, "height": 20}\n'
    (tmp_path / "x.jsonl").write_text(row * 3)
    refused("is read whole: leave n out, and pass it to bl.evaluate", bl.load_dataset, tmp_path / "x.jsonl", n=2)
    assert len(bl.load_dataset(tmp_path / "x.jsonl", n=None)) == 3
