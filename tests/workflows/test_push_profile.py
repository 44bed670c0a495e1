"""Profiles pushed to a hub that is a folder, through the real client, and read back."""

from pathlib import Path

import fake_hub
import numpy as np
import pytest
import tiny
from commands import run
from planted_lookahead import stored

import biaslab as bl
from biaslab.errors import BiaslabError, InputError, ProfileMismatchError
from biaslab.maps.simulate import simulate
from biaslab.profiles import LocalizationHeadsProfile, LookaheadProfile, MeanProfile
from biaslab.workflows.hub_card import front_matter, merged
from biaslab.workflows.push_profile import push_profile

pytestmark = pytest.mark.slow

EARLIER = Path(__file__).parents[1] / "earlier_files"
LAYOUT = bl.TokenLayout.raster(4, 4, size=(56, 56), family="demo")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = fake_hub.FakeHub(tmp_path / "hub")
    with fake_hub.serving(hub) as address:
        fake_hub.use(hub, address, monkeypatch, tmp_path / "cache")
        yield hub


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("planted") / "maps", n=60)


def kinds(maps):
    yield bl.load_profile(EARLIER / "tile.safetensors")  # of an earlier version
    yield bl.load_profile(EARLIER / "heads.safetensors")
    yield LookaheadProfile(rank=4, epochs=2, batch_size=32).fit(maps)
    yield LocalizationHeadsProfile(heads=2, per_sample=1).fit(maps)


def test_every_kind_of_profile_comes_back_as_it_was(hub, maps):
    for i, profile in enumerate(kinds(maps)):
        commit = profile.push_to_hub(f"me/bias-{i}")
        files = hub.files(f"me/bias-{i}")
        assert files["profile.png"].startswith(b"\x89PNG") and len(files["profile.png"]) > 5000
        again = bl.load_profile(f"me/bias-{i}", revision=commit.oid)
        assert (type(again), again.kind, again.hash) == (type(profile), profile.kind, profile.hash)
        for layer in profile.layers_:
            layout = next(iter(profile.layouts_.values()))
            assert (again.predict(layout, layer) == profile.predict(layout, layer)).all()
        card = hub.text(f"me/bias-{i}", "README.md")
        assert profile.hash in card and f"\n- {profile.name}\n" in card and "](profile.png)" in card


def test_it_serves_the_model_it_was_fitted_to_and_no_other(hub, grounder):
    scenes = bl.calibration(grounder, "scenes", n=4)
    maps = bl.collect(grounder, scenes.images, layers=[3], prompt=scenes.prompts, progress=False)
    profile = MeanProfile().fit(maps)
    push_profile(profile, "me/bias", base_model="me/grounder")
    again = bl.load_profile("me/bias")
    sample = next(iter(bl.load_dataset("scenes", split="test", n=1)))
    kept = []
    for one in (profile, again):
        with bl.prune(grounder, bl.Relative(keep=0.1, profile=one), layer=4) as pruned:
            grounder.locate(sample.image(), sample.expression)
        kept.append(pruned.selections[0].indices.tolist())
    assert kept[0] == kept[1] and len(kept[0]) == 25
    other = tiny.vlm("internvl")
    with (
        pytest.raises(ProfileMismatchError, match="fitted for"),
        bl.prune(other, bl.Relative(keep=0.5, profile=again), layer=1),
    ):
        other.ask(tiny.images(1), tiny.texts(1), max_new_tokens=1)


def test_what_is_pushed_along_and_what_the_card_says(hub, tmp_path, grounder):
    profile = MeanProfile().fit(simulate("u-shaped", {LAYOUT: 60}).maps)
    tables = tmp_path / "tables"
    (tables / "deep").mkdir(parents=True)
    for file in ("acc50.tex", "deep/more.csv", ".hidden"):
        (tables / file).write_text(file)
    (tmp_path / "report.html").write_text("<html>")
    commit = profile.push_to_hub(
        "me/bias", files=[tables, tmp_path / "report.html"], license="cc-by-4.0",
        base_model="OpenGVLab/InternVL3-1B-hf", datasets="lmms-lab/RefCOCO", private=True,
    )  # fmt: skip
    names = "README.md profile.png profile.safetensors report.html tables/acc50.tex tables/deep/more.csv".split()
    assert list(hub.files("me/bias")) == list(hub.files("me/bias", commit.oid)) == [".gitattributes", *names]
    assert hub.text("me/bias", "tables/deep/more.csv") == "deep/more.csv" and "me/bias" in hub.private
    from huggingface_hub import ModelCard

    card = ModelCard(hub.text("me/bias", "README.md"))
    assert card.data.to_dict() == {
        "library_name": "biaslab", "license": "cc-by-4.0", "base_model": "OpenGVLab/InternVL3-1B-hf",
        "datasets": ["lmms-lab/RefCOCO"], "tags": ["biaslab", "attention", "positional-bias", "visual-token-pruning",
                                                   "demo", "mean"],
    }  # fmt: skip
    assert 'bl.load_profile("me/bias")' in card.text and "[tables/acc50.tex](<tables/acc50.tex>)" in card.text


def test_what_the_owner_wrote_stays(hub):
    first, second = (MeanProfile().fit(simulate("u-shaped", {LAYOUT: 60}, seed=i).maps) for i in (0, 1))
    hub.put("me/bias", {"README.md": b"---\nlicense: mit\ntags: mine\n---\n\n# My words\n"})  # made on the web
    first.push_to_hub("me/bias")
    one = hub.text("me/bias", "README.md")
    hub.put("me/bias", {"README.md": one.replace("# My words", "# Mine, of later").encode()})
    second.push_to_hub("me/bias@next", commit_message="of other images")
    two = hub.text("me/bias", "README.md", "next")
    for text, profile in ((one, first), (two, second)):
        assert "license: mit" in text and "- mine\n" in text and text.count("- biaslab\n") == 1
        assert profile.hash in text and text.count("# Positional bias profile") == 1
    assert "# My words" in one and "# Mine, of later" in two and first.hash not in two
    assert bl.load_profile("me/bias").hash == first.hash and bl.load_profile("me/bias@next").hash == second.hash
    assert 'bl.load_profile("me/bias", revision="next")' in two


def test_what_cannot_be_pushed_is_one_line_and_nothing_is_sent(hub, tmp_path, monkeypatch):
    profile = MeanProfile().fit(simulate("u-shaped", {LAYOUT: 60}).maps)
    (tmp_path / "a").mkdir()
    for file in ("profile.png", "x.csv", "a/x.csv"):
        (tmp_path / file).write_text("")

    def said(*arguments, error=InputError, **options):
        with pytest.raises(error) as caught:
            (arguments[0] if len(arguments) > 1 else profile).push_to_hub(arguments[-1], **options)
        assert "\n" not in str(caught.value) and caught.value.__cause__ is None
        return str(caught.value)

    assert "not fitted" in said(MeanProfile(), "me/bias")
    assert "give owner/name" in said("bias")
    assert "no file" in said("me/bias", files=tmp_path / "none")
    assert "of the profile's own: rename it" in said("me/bias", files=[tmp_path / "profile.png"])
    assert "two of files= have" in said("me/bias", files=[tmp_path / "x.csv", tmp_path / "a" / "x.csv"])
    assert "is no id of the hub" in said("me/bias", base_model="./folder")
    assert "push_to_hub knows no licence: choose among base_model, card," in said("me/bias", licence="mit")
    (tmp_path / "bias.md").write_text("# another")
    assert "is no card of the profile" in said("me/bias", card=tmp_path / "bias.md")
    assert not any(line.startswith("POST") for line in hub.asked)
    hub.put("me/model", {"config.json": b"{}", "model.safetensors": b""})
    assert "me/model holds no profile but config.json, model.safetensors: push to" in said("me/model")
    hub.put("me/odd", {"README.md": b"---\na: [\n---\n"})
    assert "README.md of the repository begins with settings that cannot be read" in said("me/odd")
    assert "may not write to you/bias" in said("you/bias", error=BiaslabError)
    assert "does not know who pushes me/bias" in said("me/bias", error=BiaslabError, token="hf_other")
    assert "no repository of the hub" in said("me/a--b").replace("can be ", "")
    assert set(hub.files("me/model")) == {"config.json", "model.safetensors"}
    fake_hub.use(hub, "http://127.0.0.1:9", monkeypatch, tmp_path / "cache")
    assert "the hub cannot be reached" in said("me/bias", error=BiaslabError)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "the hub cannot be reached" in said("me/bias", error=BiaslabError)


def test_a_folder_is_no_base_model(tmp_path, monkeypatch):
    profile = MeanProfile().fit(simulate("u-shaped", {LAYOUT: 60}).maps)
    profile.provenance_["model"] = "me/model"
    assert front_matter(profile)["base_model"] == "me/model"
    (tmp_path / "me" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "base_model" not in front_matter(profile)
    assert merged("text", {}, "no settings").endswith("no settings\n")


def test_the_verbs_push_and_read(hub, capsys, tmp_path):
    profile = MeanProfile().fit(simulate("u-shaped", {LAYOUT: 60}).maps)
    diagnostics = bl.profiles.variance_table(simulate("u-shaped", {LAYOUT: 60}).maps)
    path = profile.save(tmp_path / "bias", diagnostics=diagnostics)
    status, out, err = run(capsys, "push", path, "me/bias", "--license", "mit", "--dataset", "me/pictures")
    assert status == 0 and "pushed mean profile" in out and "use it as --profile me/bias@" in out, err
    card = hub.text("me/bias", "README.md")
    assert "## Variance explained by position" in card and "biaslab.profiles.load(path)" not in card
    assert "- me/pictures" in card and "me/bias" in card.partition("```python")[2]
    status, out, err = run(capsys, "sinks", "--layer", "4", "--n", "4", "--profile", "me/bias")
    assert status == 1 and "this profile was fitted for" in err  # read, and refused for the grounder
    for verb in (("prune", tmp_path / "x.png", "the cat"), ("bench",), ("evaluate", "--out", tmp_path / "run")):
        status, out, err = run(capsys, *verb, "--methods", "relative", "--profile", "me/none")
        assert status == 2 and "no such repository on the hub" in err, verb
    status, out, err = run(capsys, "probe", "--out", tmp_path / "probe", "--profile", "me/bias@v9")
    assert status == 2 and "has no revision 'v9'" in err
    status, out, err = run(capsys, "inspect", "me/bias")
    assert status == 0 and profile.hash in out, err
    assert np.isfinite(bl.load_profile("me/bias").predict(LAYOUT)).all()
