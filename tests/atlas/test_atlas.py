"""The atlas: what it measures, what it says, and that it says no more than its numbers allow."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from atlases import removal_table
from matplotlib import pyplot as plt
from PIL import Image
from planted_maps import ONE, TILED, planted, streamed, u_shape
from probes import probe_of

import biaslab as bl
from biaslab._util.watermark import NOTE, rehearsal_name
from biaslab.atlas import BiasAtlas, images_behind
from biaslab.atlas.write import summary_latex
from biaslab.core.boxes import Box
from biaslab.core.images import content_hash
from biaslab.datasets.calibration import calibration
from biaslab.diagnostics.measures.dependence import dependence
from biaslab.errors import InputError, ProfileMismatchError, RunFolderError
from biaslab.maps.base import ImageRecord, fold_of
from biaslab.maps.image_source import asked_digest
from biaslab.maps.simulate import simulate
from biaslab.maps.stored import StoredMaps
from biaslab.maps.views import WithoutFold, mean_over_heads
from biaslab.profiles import MeanProfile, head_quality, variance_table

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def atlas(stored):
    return BiasAtlas.from_maps(stored)


# -- what is measured ----------------------------------------------------------------------------------------------
def test_maps_of_heads_give_their_mean_first_then_every_head(stored, atlas):
    assert set(atlas.tables) == {"variance", "quality", "reliability", "mass", "dependence", "strength"}
    pd.testing.assert_frame_equal(atlas.tables["quality"], head_quality(stored))
    assert set(atlas.skipped) == {"tile_order"}
    assert list(dict.fromkeys(atlas.tables["variance"]["head"])) == ["mean", "all", "0", "1"]
    for name in ("reliability", "mass", "dependence", "strength"):
        assert list(dict.fromkeys(atlas.tables[name]["head"])) == ["mean", "0", "1"]
    mine = atlas.tables["dependence"]
    for head in ("mean", "0"):
        source = mean_over_heads(stored) if head == "mean" else stored
        want = dependence(source, layers=[1, 4])
        want = want[want["head"] == head].reset_index(drop=True)
        pd.testing.assert_frame_equal(mine[mine["head"] == head].reset_index(drop=True), want)
    summary = atlas.summary().set_index("layer")
    view = variance_table(mean_over_heads(stored)).set_index("layer")
    assert list(summary.index) == [1, 4] and summary["r2"].tolist() == pytest.approx(view["r2"].tolist())
    assert not BiasAtlas.from_maps(stored, per_head=False).tables["mass"]["head"].isin(["0", "1"]).any()


def test_the_quality_of_heads_is_told_and_drawn_of_maps_and_of_a_profile_that_keeps_it(stored, atlas, tmp_path):
    assert "heads look at something" in atlas.card() or "None of 4 heads looks" in atlas.card()
    drawn = atlas.figures()["quality"]
    assert drawn.data["value"].tolist() == head_quality(stored)["quality"].tolist()
    profile = MeanProfile().fit(stored)
    assert "quality" not in BiasAtlas.from_profile(profile).tables
    alone = BiasAtlas.from_profile(profile.rate_heads(stored), layers=4)
    assert alone.tables["quality"]["layer"].tolist() == [4, 4] and "quality" in alone.figures()
    assert (tmp_path / "a" / "tables" / "quality.csv") in alone.save(tmp_path / "a")


def test_the_mean_over_heads_is_the_mean_over_heads(stored):
    whole, brute = mean_over_heads(stored), np.stack([stored.image(i, 4).mean(0) for i in range(stored.n)])
    moments = whole.moments(4, ONE.key)
    np.testing.assert_allclose(moments.mean[0], brute.mean(0), rtol=1e-5)
    logs = np.log(brute + 1e-9)
    np.testing.assert_allclose(moments.log_var[0], (logs - logs.mean(1, keepdims=True)).var(0), rtol=1e-4)
    assert whole.heads == "mean" and whole.provenance["n"] == 24 and mean_over_heads(whole) is whole
    quick = mean_over_heads(streamed(stored))
    np.testing.assert_allclose(quick.moments(4, ONE.key).mean, moments.mean, rtol=1e-5)
    assert quick.heads == "mean" and stored.heads == 2  # the maps themselves are as they were


def test_streamed_maps_say_what_they_cannot_tell(stored):
    maps = streamed(stored)
    atlas = BiasAtlas.from_maps(maps, images={"0-1": Image.new("RGB", (8, 8))})
    assert set(atlas.skipped) == {"quality", "reliability", "dependence", "tile_order", "attention"}
    assert list(dict.fromkeys(atlas.tables["variance"]["head"])) == ["all", "0", "1"]
    assert atlas.tables["mass"]["head"].iloc[0] == "mean"
    text = atlas.card()
    assert "Not measured, dependence: this diagnostic reads single images" in text and "all 2 heads together" in text
    assert "eta2" not in text and "row_eta2" not in atlas.summary()
    assert set(atlas.figures()) == {"variance", "profile", "heads"}


def test_simulated_maps_give_an_atlas():
    maps = simulate("bottom-heavy", {ONE: 12, TILED: 8}, layers=2, strength=1.0).maps
    atlas = BiasAtlas.from_maps(maps)
    row = atlas.summary().iloc[0]
    assert row["bottom_lo"] > 1 > row["top_hi"] and row["r2_lo"] > 0
    assert row["thumbnail"] > 0 and row["tile_slope"] == row["tile_slope"]
    assert "Images of several tiles" in atlas.card() and "The thumbnail " in atlas.card()


def test_a_profile_alone_tells_its_maps_and_says_what_is_missing(stored):
    profile = MeanProfile().fit(stored)
    atlas = BiasAtlas.from_profile(profile)
    assert set(atlas.tables) == {"strength"} and set(atlas.figures()) == {"profile", "heads"}
    expected = profile.expected(ONE, 4).double().numpy()[0]
    row = atlas.tables["strength"].set_index(["layer", "head"]).loc[(4, "0")]
    assert row["map_sd_factor"] == pytest.approx(np.exp(np.log(expected).std()), rel=1e-4)
    border = (ONE.row % 7 == 0) | (ONE.col % 7 == 0)
    assert row["border"] == pytest.approx(expected[border].mean() / expected.mean(), rel=1e-4)
    text = atlas.card()
    assert "A profile holds no single images" in text and "Layer 1: Over positions" in text
    told = text.split("## Limits")[0]
    assert not any(words in told for words in ("explains", "reliability of 0.9", "eta2", "significant"))
    whole = MeanProfile().fit(mean_over_heads(stored))  # a layer is described by the mean over its heads
    alone = BiasAtlas.from_profile(whole).summary()
    for name in ("map_sd_factor", "border", "top"):
        np.testing.assert_allclose(atlas.summary()[name], alone[name], rtol=1e-4)
    assert list(dict.fromkeys(atlas.tables["strength"]["head"])) == ["mean", "0", "1"]
    assert "the mean over their 2 heads" in told and "heads" not in BiasAtlas.from_profile(whole).card()
    with pytest.raises(InputError, match="no layers are asked for"):
        BiasAtlas.from_profile(profile, layers=[])
    with pytest.raises(InputError, match="not fitted"):
        BiasAtlas.from_profile(MeanProfile())
    with pytest.raises(InputError, match=r"not \[7\]"):
        BiasAtlas.from_profile(profile, layers=7)


def probe_for(maps, effects, heads=("mean",)):
    probe = probe_of(effects, ONE, 8)
    settings = {k: maps.settings.get(k) for k in ("model", "revision", "family", "queries")}
    log = np.repeat(probe.log, len(maps.layers), axis=-2)
    log = np.repeat(log, len(heads), axis=-1)
    settings["heads"] = "mean" if heads == ("mean",) else "all"
    return type(probe)(
        log, None, probe.boxes, probe.groups, list(maps.layers), list(heads), probe.regions, ONE, settings
    )


def test_the_probe_is_compared_with_the_profile_of_its_own_heads(tmp_path):
    rng = np.random.default_rng(0)
    wanted = rng.normal(0, 0.8, 64)
    stored = planted(tmp_path, [(ONE, 24)], lambda layout: wanted, heads=2, layers=(1, 4))
    effects = wanted.reshape(8, 8) + rng.normal(0, 0.3, (6, 8, 8))
    atlas = BiasAtlas.from_maps(stored, probe=probe_for(stored, effects))
    row = atlas.summary().iloc[0]
    assert row["probe_q"] < 0.05 and row["probe_r"] > 0.6
    agrees = "Causal probe: the profile agrees with the causal effect of the place beyond chance"
    assert agrees in atlas.card() and "No causal probe" not in atlas.card()
    assert "probe" in atlas.figures()
    each = BiasAtlas.from_maps(stored, probe=probe_for(stored, effects, heads=(0, 1)))
    assert set(each.tables["comparison"]["head"]) == {0, 1} and "probe_slope" not in each.summary()
    assert "(q <= 0.05, interval of r above 0) in all 4 maps" in each.card()
    noise = BiasAtlas.from_maps(stored, probe=probe_for(stored, rng.normal(0, 1, (6, 8, 8))))
    assert "agrees with the causal effect" not in noise.card()
    with pytest.raises(InputError, match="none of the atlas's"):
        elsewhere = replace(probe_for(stored, effects), layers=[1, 9])
        BiasAtlas.from_profile(MeanProfile().fit(mean_over_heads(stored)), probe=elsewhere, layers=4)
    other = probe_for(stored, effects)
    other.settings["model"] = "another"
    with pytest.raises(ProfileMismatchError, match="another"):
        BiasAtlas.from_maps(stored, probe=other)


def test_a_given_profile_is_drawn_and_checked(stored, tmp_path):
    other = planted(tmp_path, [(ONE, 12)], u_shape, heads=2, seed=5, layers=(1, 4))
    profile = MeanProfile().fit(other, layers=[4])
    atlas = BiasAtlas.from_maps(stored, profile=profile)
    assert atlas.layers == [4] and atlas.heads is profile
    text = atlas.card()  # what was measured, and what was given
    assert text.split("\n")[2].startswith(f"24 images ({ONE.key} (24)), layer 4")
    assert f"The profile given was fitted on others: 12 images ({ONE.key} (12))." in text
    assert "fitted on others" not in BiasAtlas.from_maps(stored, profile=MeanProfile().fit(stored)).card()
    assert "n = 24 images" in summary_latex(atlas, atlas.summary())
    tiled = MeanProfile().fit(planted(tmp_path, [(TILED, 6)], heads=2, name="tiled", layers=(1, 4)))
    with pytest.raises(ProfileMismatchError, match="fitted for layouts"):
        BiasAtlas.from_maps(stored, profile=tiled)
    whole = MeanProfile().fit(mean_over_heads(other))
    assert BiasAtlas.from_maps(stored, profile=whole).layers == [1, 4]
    with pytest.raises(InputError, match=r"the maps and the profile hold layers \[4\], not \[1\]: choose"):
        BiasAtlas.from_maps(stored, profile=profile, layers=[1])
    profile.provenance_["model"] = "another"
    with pytest.raises(ProfileMismatchError, match="another"):
        BiasAtlas.from_maps(stored, profile=profile)
    with pytest.raises(InputError, match="not fitted"):
        BiasAtlas.from_maps(stored, profile=MeanProfile())
    for make, source in ((BiasAtlas.from_maps, stored), (BiasAtlas.from_profile, whole)):
        with pytest.raises(InputError, match="confidence must be between 0 and 1"):
            make(source, confidence=95)
    table = removal_table()
    for rows in (table[:0], table[table["location"] == "top"]):
        with pytest.raises(InputError, match="removal has no rows of all locations"):
            BiasAtlas.from_maps(stored, removal=rows)
    for bad in ({"removal": pd.DataFrame({"a": [1]})}, {"controls": 3}):
        with pytest.raises(InputError, match="is no table of biaslab.diagnostics"):
            BiasAtlas.from_maps(stored, **bad)


def test_maps_without_images_or_with_attention_that_is_not_finite_are_refused(stored, tmp_path):
    empty = StoredMaps.create(tmp_path / "empty", stored.settings)
    for given in (None, MeanProfile().fit(stored)):
        with pytest.raises(InputError, match="hold no images"):
            BiasAtlas.from_maps(empty, profile=given)
    with pytest.raises(InputError, match="hold no images"):
        images_behind(empty, "scenes")
    broken = planted(tmp_path, [(ONE, 6)], heads=2, layers=(1, 4))
    values = np.ones((2, 2, ONE.n), np.float32)
    values[1, 1, 5] = np.nan
    with broken.writing():
        broken.add(ImageRecord("bad", ONE, "bad"), values)
    with pytest.raises(InputError, match="layer 4 is not finite"):
        BiasAtlas.from_maps(broken)
    assert BiasAtlas.from_maps(broken, layers=[1, 1]).layers == [1]


def test_one_image_and_two_give_an_atlas(tmp_path):
    for n in (1, 2, 3):
        maps = planted(tmp_path, [(TILED, n)], heads=2, name=str(n))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="std is 0")
            atlas = BiasAtlas.from_maps(maps)
        text = atlas.card()
        assert text.count(f"{n} image") and "nan" not in text and atlas.save(tmp_path / f"atlas {n}")
        assert "described by the mean over their 2 heads" in text


# -- before and after ----------------------------------------------------------------------------------------------
def test_pictures_are_debiased_by_a_profile_that_has_not_seen_them(stored):
    image = Image.new("RGB", (64, 64))
    shown = type("Shown", (), {"image": image, "box": Box(0, 0, 16, 16), "expression": "the cat"})()
    atlas = BiasAtlas.from_maps(stored, images={"0-3": image, "0-7": shown, "not there": image})
    display = atlas.figures()["attention"]
    assert display.titles == ["", "the cat"] and display.targets == [None, Box(0, 0, 16, 16)]
    assert display.layer == atlas.summary().set_index("layer")["r2"].idxmax()
    chosen = atlas.before_and_after(layer=1)
    fold = fold_of("0-7", stored.folds)
    rest = [i for i in range(24) if fold_of(stored.record(i).id, stored.folds) != fold]
    assert 0 < len(rest) < 24
    expected = np.mean([stored.image(i, 1).mean(0) for i in rest], axis=0)
    part = chosen.data[chosen.data["image"] == 1]
    np.testing.assert_allclose(part["debiased"], stored.image(7, 1).mean(0) / expected, rtol=1e-3)
    view = WithoutFold(stored, fold)
    assert view.moments(1, ONE.key, fold=fold).n == 0 and view.moments(1, ONE.key).n == len(rest)
    none = BiasAtlas.from_maps(stored, images={"x": image})
    assert "no image to draw: map ids such as '0-0'" in none.skipped["attention"]
    assert "attention" not in none.figures()
    with pytest.raises(InputError, match="images="):
        BiasAtlas.from_maps(stored).before_and_after()


def test_pictures_are_found_by_name_and_scenes_by_number(tmp_path):
    maps = planted(tmp_path, [(ONE, 4)])
    (tmp_path / "in").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "in" / "other.png")
    with pytest.raises(InputError, match="none of the 4 images .* like '0-0'"):
        images_behind(maps, tmp_path / "in")
    with pytest.raises(InputError, match="none of the 4"):
        images_behind(maps, "scenes")
    asked = calibration(bl.load("grounder"), "scenes", n=3, questions=2)
    at = asked.ids.index("calibration-000002")
    assert asked.ids[at + 1] == "calibration-000002#2"
    digests = [asked_digest(content_hash(asked.images[at].image()), prompt) for prompt in asked.prompts[at : at + 2]]
    names = {"other.png": "", asked.ids[at]: digests[0], asked.ids[at + 1]: digests[1], "test-000001": ""}
    maps._records = [type(r)(name, r.layout, names[name]) for r, name in zip(maps._records, names, strict=True)]
    assert list(images_behind(maps, tmp_path / "in")) == ["other.png"]
    assert images_behind(maps, "in", data_root=tmp_path) == images_behind(maps, tmp_path / "in")
    with pytest.raises(InputError, match=f"no such folder of images: on .looked at on, {tmp_path / 'on'}"):
        images_behind(maps, "on", data_root=tmp_path)
    maps.settings["family"] = "internvl"
    found = images_behind(maps, "scenes")
    assert list(found) == [*asked.ids[at : at + 2], "test-000001"] and found["test-000001"].box is None
    first, second = (found[name] for name in asked.ids[at : at + 2])
    assert f"<ref>{first.expression}</ref>" in asked.prompts[at] and first.box.area > 0
    assert f"<ref>{second.expression}</ref>" in asked.prompts[at + 1] and second.expression != first.expression
    assert np.array_equal(first.image, asked.images[at].image())
    maps._records[1] = type(maps._records[1])(asked.ids[at], maps._records[1].layout, "of another question")
    assert images_behind(maps, "scenes")[asked.ids[at]].expression == ""  # the target was not asked about
    with pytest.raises(InputError, match="out='FOLDER'"):
        images_behind(streamed(planted(tmp_path, [(ONE, 4)], name="again")), "scenes")


# -- files ---------------------------------------------------------------------------------------------------------
def test_save_writes_figures_tables_and_card(stored, tmp_path):
    controls = pd.DataFrame({"control": "blank", "layer": [1, 4], "r": 0.5, "r_lo": 0.4, "r_hi": 0.6})
    images, folder = {"0-3": Image.new("RGB", (64, 64))}, tmp_path / "deep" / "atlas"
    atlas = BiasAtlas.from_maps(stored, removal=removal_table(), controls=controls, images=images)
    files = atlas.save(folder)
    names = {str(f.relative_to(folder)) for f in files}
    drawn = ("variance", "profile", "heads", "reliability", "dependence", "removal", "attention")
    assert {f"figures/{n}.{kind}" for n in drawn for kind in ("pdf", "png", "csv")} <= names
    tables = ("summary", "variance", "reliability", "mass", "dependence", "strength", "quality", "removal", "controls")
    assert {f"tables/{n}.csv" for n in tables} | {"tables/summary.tex", "card.md", "provenance.json"} == names - {
        n for n in names if n.startswith("figures/")
    }
    assert all(f.stat().st_size for f in files) and (folder / "card.md").read_text() == atlas.card()
    read = pd.read_csv(folder / "tables" / "summary.csv")
    np.testing.assert_allclose(read["r2"], atlas.summary()["r2"])
    tex = (folder / "tables" / "summary.tex").read_text()
    assert (
        tex.count(r"\toprule") == 1
        and "& explained, &" in tex
        and r"layer & \% &" in tex
        and "+0.050 {\\scriptsize [+0.020, +0.080]}" in tex
    )
    assert tex.split(r"\toprule")[1].split(r"\midrule")[0].strip().splitlines()[1].startswith("layer &")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(RunFolderError, match="choose a"):
        atlas.save(blocked / "atlas")


def test_a_rehearsal_is_stamped_everywhere(tmp_path):
    maps = planted(tmp_path, [(ONE, 8)])
    maps.settings.update(model=rehearsal_name("m"), rehearsal=True)
    atlas = BiasAtlas.from_maps(maps)
    files = atlas.save(tmp_path / "atlas")
    assert all(NOTE in f.read_text() for f in files if f.suffix in (".csv", ".tex")) and len(files) > 10
    assert NOTE in atlas.card().lower()
    alone = BiasAtlas.from_profile(MeanProfile().fit(maps)).save(tmp_path / "alone")
    assert all(NOTE in f.read_text() for f in alone if f.suffix in (".csv", ".tex"))
    assert NOTE in (tmp_path / "alone" / "profile.md").read_text().lower()


def test_the_atlas_has_a_name_in_the_package_and_its_tables_are_json_ready(atlas):
    assert bl.BiasAtlas is BiasAtlas
    json.dumps({name: table.to_dict("records") for name, table in atlas.tables.items()})
    text = atlas.card()
    assert "U-shaped" in text and "dependence on the column" in text and "not significant" in text and "nan" not in text
