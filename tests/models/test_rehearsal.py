"""Rehearsals: a model's true geometry with random weights, and the marks that keep it apart from real work."""

import json
import shutil

import numpy as np
import original
import pandas as pd
import pytest
import tiny
import torch
import toy_grounding
from PIL import Image
from safetensors import safe_open

import biaslab as bl
from biaslab import cost
from biaslab._util.watermark import NOTE, is_rehearsal, rehearsal_name
from biaslab.datasets.calibration import Calibration
from biaslab.diagnostics import diagnose
from biaslab.errors import InputError, ModelError, ProfileMismatchError, RunFolderError
from biaslab.evaluation.single_image import compare_methods
from biaslab.figures import AccuracyDisplay, AttentionDisplay, VarianceDisplay, save, save_table
from biaslab.maps.stored import StoredMaps
from biaslab.models.offline import geometry as geometry_module
from biaslab.models.offline.geometry import geometry
from biaslab.models.offline.rehearsal import rehearse, shrunk
from biaslab.models.registry import families, grounder_folder
from biaslab.profiles import MeanProfile, variance_table
from biaslab.workflows.bench import bench
from biaslab.workflows.fit_bias import fit_bias
from biaslab.workflows.run_figures import draw_kept, draw_run

pytestmark = pytest.mark.slow

ALIASES = {f.name: next(iter(f.specs)) for f in families().values() if f.specs}


@pytest.fixture(scope="module")
def vlm():
    return rehearse("grounder", layers=4)


@pytest.fixture(scope="module")
def fitted(vlm, tmp_path_factory):
    """A profile of the rehearsal, in a file, with figures."""
    folder = tmp_path_factory.mktemp("fitted")
    images = Calibration("noise", tiny.images(6, sizes=[(96, 96)]), "What is this?", [f"i{i}" for i in range(6)])
    return fit_bias(vlm, images, layers=[1], out=folder / "p.safetensors", maps=folder / "maps", progress=False)


@pytest.fixture(scope="module")
def run(vlm, fitted, tmp_path_factory):
    """An evaluation of the rehearsal, in a folder."""
    folder = tmp_path_factory.mktemp("run") / "run"
    methods = ["none", "random", "relative"]
    return toy_grounding.run(folder, vlm, methods=methods, keep=0.5, layer=2, profile=fitted.profile)


# -- the model -------------------------------------------------------------------------------------------------
@pytest.fixture(autouse=True)
def nothing_on_disk(monkeypatch):
    """No hub model is cached, whatever this machine holds."""
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)


@pytest.mark.parametrize(("family", "alias"), [tiny.quick(*pair) for pair in ALIASES.items()])
def test_published_geometry_is_the_true_one_and_runs(family, alias):
    real, small = geometry(alias), rehearse(alias)
    image = tiny.images(1, sizes=[(500, 300)])[0]
    whole = real.family.encode(real.processor, [[image]], ["Where?"], {})[1][0]
    encoded = small.encode([image], ["Where?"])
    assert (encoded.layouts[0].key, encoded.layouts[0].n) == (whole.key, whole.n)
    text, full = small.decoder.config, real.config.text_config
    same = ("num_attention_heads", "num_key_value_heads", "model_type")
    assert [getattr(text, name) for name in same] == [getattr(full, name) for name in same]
    assert small.n_layers == min(4, full.num_hidden_layers) < full.num_hidden_layers
    assert text.hidden_size < full.hidden_size
    assert isinstance(small.generate(encoded, max_new_tokens=2)[0], str)
    assert small.name == f"rehearsal of {real.name}" and small.revision == "rehearsal"


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_files_on_disk_are_used_without_weights(family, tmp_path):
    vlm = tiny.vlm(family)
    vlm.model.config.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    small = rehearse(tmp_path, layers=4)
    image, text = tiny.images(1), tiny.texts(1)
    assert small.encode(image, text).layouts[0].key == vlm.encode(image, text).layouts[0].key
    assert torch.equal(small.encode(image, text).inputs["input_ids"], vlm.encode(image, text).inputs["input_ids"])
    assert small.decoder.config.num_attention_heads == vlm.decoder.config.num_attention_heads
    assert small.name == rehearsal_name(str(tmp_path))
    small.generate(small.encode(image, text), max_new_tokens=2)


@pytest.mark.parametrize("kind", ["internlm2", "qwen2"])
def test_the_original_layout_is_rehearsed_from_its_own_files(kind, tmp_path):
    folder = original.write(tmp_path, kind)
    real = bl.load(folder, device="cpu")
    for path in folder.glob("*.safetensors"):
        path.unlink()
    small, image, text = rehearse(folder), tiny.images(1), tiny.texts(1)
    assert torch.equal(small.encode(image, text).inputs["input_ids"], real.encode(image, text).inputs["input_ids"])
    assert small.decoder.config.num_key_value_heads == real.decoder.config.num_key_value_heads
    assert small.family.name == "internvl" and cost.parameters(geometry(folder).config).total == sum(
        p.numel() for p in real.model.parameters()
    )


def test_the_cache_of_the_hub_is_used_before_published_sizes(monkeypatch, tmp_path):
    alias = ALIASES["internvl"]
    published = geometry(alias)
    vlm = tiny.vlm("internvl")
    vlm.model.config.save_pretrained(tmp_path)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: str(tmp_path / "config.json"))
    assert geometry(alias).spec is not None  # no processor files: the cache holds part of the checkpoint
    vlm.processor.save_pretrained(tmp_path)
    cached = geometry(alias)
    assert cached.name == published.name and cached.folder == tmp_path
    assert cached.config.text_config.hidden_size == 64 < published.config.text_config.hidden_size


def test_layers_seed_and_generator():
    state = torch.random.get_rng_state()
    two, again, other = (
        rehearse("grounder", layers=6),
        rehearse("grounder", layers=6),
        rehearse("grounder", layers=6, seed=1),
    )
    assert torch.equal(state, torch.random.get_rng_state())
    assert two.n_layers == 6
    weights = [next(p for n, p in v.model.named_parameters() if "q_proj" in n) for v in (two, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert rehearse("grounder", layers=99).n_layers == geometry("grounder").config.text_config.num_hidden_layers


def test_width_is_small_and_rope_sections_fit():
    from transformers import Qwen2_5_VLConfig

    config = Qwen2_5_VLConfig(text_config={
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        "num_hidden_layers": 80, "layer_types": ["full_attention"] * 80,
    })  # fmt: skip
    small = shrunk(config, 5)
    text = small.text_config
    assert config.text_config.num_hidden_layers == 80 and text.num_hidden_layers == len(text.layer_types) == 5
    assert sum(text.rope_parameters["mrope_section"]) == 4 and min(text.rope_parameters["mrope_section"]) >= 1
    assert text.hidden_size == 8 * text.num_attention_heads == small.vision_config.out_hidden_size


def test_what_cannot_be_rehearsed_is_said(tmp_path):
    for layers in (0, True, 2.5):
        with pytest.raises(InputError, match="layer"):
            rehearse("grounder", layers=layers)
    with pytest.raises(ModelError, match="hf download some/model"):
        rehearse("some/model")
    with pytest.raises(ModelError, match="no config.json"):
        rehearse(tmp_path)
    shutil.copy(grounder_folder() / "config.json", tmp_path)
    with pytest.raises(ModelError, match="processor"):
        rehearse(tmp_path)
    assert geometry_module.geometry("grounder").spec is None


# -- the marks -------------------------------------------------------------------------------------------------
def test_names():
    assert is_rehearsal("rehearsal of grounder") and is_rehearsal({"model": "rehearsal of a/b"})
    assert not any(is_rehearsal(x) for x in ("grounder", {"model": "a/b"}, {}, None, "my rehearsal of x"))


def test_profile_maps_and_figures_say_so(fitted):
    assert fitted.profile.provenance_["rehearsal"] is True
    path = next(f for f in fitted.files if f.suffix == ".safetensors")
    with safe_open(path, "numpy") as file:
        assert json.loads(file.metadata()["biaslab_profile"])["provenance"]["rehearsal"] is True
    assert NOTE.capitalize() in path.with_suffix(".md").read_text()
    assert (pd.read_csv(path.with_suffix(".csv"))["note"] == NOTE).all()
    assert json.loads((path.parent / "maps" / "maps.json").read_text())["rehearsal"] is True
    assert NOTE.encode() in path.with_suffix(".pdf").read_bytes()


def test_the_note_is_visible_in_the_picture_and_only_there(fitted, tmp_path):
    display = bl.ProfileDisplay.from_profile(fitted.profile).plot()
    stamped = save(display, tmp_path / "stamped")
    assert NOTE not in [text.get_text() for text in display.figure_.texts]  # the figure itself is left as it was
    display.data.attrs.clear()
    plain = save(display, tmp_path / "plain", close=True)
    one, two = (np.asarray(Image.open(files[1]).convert("L"), dtype=int) for files in (stamped, plain))
    extra = one.shape[0] - two.shape[0]
    assert extra > 5 and one.shape[1] == two.shape[1]  # a line above the figure, at its full width
    strip = one[:extra]
    assert strip.min() < 200 and strip[:, : strip.shape[1] // 2].min() == 255  # grey words, in the right corner


def test_run_folder_results_tables_and_figures_say_so(run):
    folder = run.folder
    assert json.loads((folder / "run.json").read_text())["identity"]["model"]["rehearsal"] is True
    assert pd.read_csv(folder / "results.csv")["model"].str.startswith("rehearsal of ").all()
    lines = [json.loads(line) for line in (folder / "samples-0.jsonl").read_text().splitlines()]
    assert lines and all(line["rehearsal"] is True for line in lines)
    files = draw_run(folder)
    assert {f.suffix for f in files} == {".pdf", ".png", ".csv", ".tex"}
    for file in files:
        if file.suffix == ".tex":
            assert file.read_text().startswith(f"% {NOTE}")
        elif file.suffix == ".csv":
            assert (pd.read_csv(file)["note"] == NOTE).all(), file
        else:
            assert NOTE.encode() in file.read_bytes(), file


def test_read_back_from_the_csv_it_is_still_marked(run, tmp_path):
    path = shutil.copy(run.folder / "results.csv", tmp_path / "copy.csv")
    assert NOTE.encode() in save(AccuracyDisplay.from_results(path), tmp_path / "a", close=True)[0].read_bytes()
    assert save_table(path, tmp_path / "t")[0].read_text().startswith("% rehearsal")


def test_attention_figures_of_a_rehearsed_profile_are_marked(vlm, fitted, tmp_path):
    encoded = vlm.encode(tiny.images(1, sizes=[(96, 96)]), tiny.texts(1))
    with bl.capture(vlm, layers=[1]) as rows:
        vlm.forward(encoded)
    images, values = tiny.images(1, sizes=[(96, 96)]), list(rows[1].values.mean((1, 2)))
    display = AttentionDisplay.from_attention(images, encoded.layouts, values, profile=fitted.profile, layer=1)
    assert NOTE.encode() in save(display, tmp_path / "a", close=True)[0].read_bytes()


def test_kept_token_figures_of_a_rehearsal_are_marked(vlm, tmp_path):
    image = tiny.images(1, sizes=[(96, 96)])[0]
    answers = compare_methods(vlm, image, "it", methods=["none", "random"], keep=0.5, layer=2)
    files = draw_kept(image, answers, expression="it", out=tmp_path / "kept")
    assert NOTE.encode() in files[0].read_bytes() and (pd.read_csv(files[2])["note"] == NOTE).all()


def test_tables_made_from_rehearsed_maps_are_marked_before_anything_is_written(fitted):
    maps = StoredMaps(fitted.maps.folder)
    tables, _ = diagnose(maps)
    assert tables and all(is_rehearsal(table) for table in [*tables.values(), variance_table(maps)])
    display = VarianceDisplay.from_maps(maps)
    assert is_rehearsal(display.data)


def test_benchmarks_of_a_rehearsal_are_marked(vlm, tmp_path):
    images = Calibration("noise", tiny.images(1), "Where?", ["a"])
    found = bench(
        vlm, images, methods=["random"], keep=0.5, layer=2, repeats=1, new_tokens=2, memory=False, progress=False
    )
    files = found.save(tmp_path)
    assert all((pd.read_csv(f)["note"] == NOTE).all() for f in files if f.suffix == ".csv")
    assert files[2].read_text().startswith(f"% {NOTE}") and is_rehearsal(json.loads(files[3].read_text()))


def test_real_figures_are_not_marked(grounder, tmp_path):
    maps = bl.collect(grounder, tiny.images(3, sizes=[(96, 96)]), layers=[1], progress=False)
    profile = MeanProfile().fit(maps)
    assert "rehearsal" not in profile.provenance_
    files = save(bl.ProfileDisplay.from_profile(profile), tmp_path / "real", close=True)
    assert NOTE.encode() not in files[0].read_bytes() and "note" not in pd.read_csv(files[2])


# -- kept apart ------------------------------------------------------------------------------------------------
def test_a_real_run_refuses_a_rehearsed_profile_and_the_other_way_round(grounder, vlm, fitted):
    with pytest.raises(ProfileMismatchError, match="rehearsal's .*fit-bias"):
        toy_grounding.run(vlm=grounder, methods=["relative"], keep=0.5, layer=2, profile=fitted.profile)
    real = MeanProfile().fit(bl.collect(grounder, tiny.images(3, sizes=[(96, 96)]), layers=[1], progress=False))
    with pytest.raises(ProfileMismatchError, match="fit-bias --rehearse"):
        toy_grounding.run(vlm=vlm, methods=["relative"], keep=0.5, layer=2, profile=real)


def test_run_folders_do_not_mix(grounder, vlm, run, tmp_path):
    with pytest.raises(RunFolderError, match="holds a rehearsal: choose another folder for this real run"):
        toy_grounding.run(run.folder, grounder, methods=["none"])
    toy_grounding.run(tmp_path / "real", grounder, toy_grounding.Toy(1), methods=["none"])
    with pytest.raises(RunFolderError, match="holds a real run: choose another folder for this rehearsal"):
        toy_grounding.run(tmp_path / "real", vlm, toy_grounding.Toy(1), methods=["none"])


def test_maps_folders_do_not_mix(grounder, vlm, tmp_path):
    images = tiny.images(2, sizes=[(96, 96)])
    bl.collect(vlm, images, layers=[1], out=tmp_path / "rehearsed", progress=False)
    with pytest.raises(RunFolderError, match="holds a rehearsal.*choose another folder"):
        bl.collect(grounder, images, layers=[1], out=tmp_path / "rehearsed", progress=False)
    bl.collect(grounder, images, layers=[1], out=tmp_path / "real", progress=False)
    with pytest.raises(RunFolderError, match="holds real maps.*choose another folder"):
        bl.collect(vlm, images, layers=[1], out=tmp_path / "real", progress=False)


def test_a_rehearsal_resumes_a_rehearsal(vlm, run, fitted):
    before = (run.folder / "samples-0.jsonl").read_bytes()
    methods = ["none", "random", "relative"]
    toy_grounding.run(run.folder, vlm, methods=methods, keep=0.5, layer=2, profile=fitted.profile)
    assert (run.folder / "samples-0.jsonl").read_bytes() == before
