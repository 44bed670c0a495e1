"""The atlas: what it measures, what it says, and that it says no more than its numbers allow."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from PIL import Image
from test_bias import ONE, TILED, planted, streamed, u_shape
from test_probe_compare import probe_of

import biaslab as bl
from biaslab.atlas import BiasAtlas, pictures_from
from biaslab.atlas.overall import overall
from biaslab.atlas.sentences import layer_sentences, shape
from biaslab.atlas.summary import cells, summary_table
from biaslab.atlas.views import WithoutFold, mean_over_heads
from biaslab.atlas.words import interval, layers_said, share_said
from biaslab.atlas.write import summary_latex
from biaslab.bias.dependence import dependence
from biaslab.boxes import Box
from biaslab.errors import InputError, ProfileMismatchError, RunFolderError
from biaslab.fitting import calibration
from biaslab.maps import ImageRecord, fold_of
from biaslab.mapstore import StoredMaps
from biaslab.profiles import MeanProfile, variance_table
from biaslab.rehearsed import NOTE, rehearsal_name
from biaslab.simulate import simulate


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """24 images of 2 heads and 2 layers whose rows are U-shaped."""
    return planted(tmp_path_factory.mktemp("maps"), [(ONE, 24)], u_shape, heads=2, layers=(1, 4))


@pytest.fixture(scope="module")
def atlas(stored):
    return BiasAtlas.from_maps(stored)


def removal_table(gain=0.05, lo=0.02, hi=0.08, p=0.01, layers=(1, 4), intervals=True):
    rows = []
    for layer in layers:
        same = {"layer": layer, "head": "mean", "n": 50}
        for place, shift in (("all", 0.0), ("top", -0.3)):
            rows.append({"place": place, "op": "raw", "auroc": 0.6 + shift, **same})
            more = {"gain": gain, "gain_lo": lo, "gain_hi": hi, "p_adjusted": p} if intervals else {}
            rows.append({"place": place, "op": "ratio", "auroc": 0.6 + shift + gain, **same, **more})
    return pd.DataFrame(rows)


# -- what is measured ----------------------------------------------------------------------------------------------
def test_maps_of_heads_give_their_mean_first_then_every_head(stored, atlas):
    assert set(atlas.tables) == {"variance", "reliability", "mass", "dependence", "strength"}
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
    atlas = BiasAtlas.from_maps(maps, pictures={"0-1": Image.new("RGB", (8, 8))})
    assert set(atlas.skipped) == {"reliability", "dependence", "tile_order", "attention"}
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
    assert "Pictures of several tiles" in atlas.card() and "The thumbnail " in atlas.card()


def test_a_profile_alone_tells_its_maps_and_says_what_is_missing(stored):
    profile = MeanProfile().fit(stored)
    atlas = BiasAtlas.from_profile(profile)
    assert set(atlas.tables) == {"strength"} and set(atlas.figures()) == {"profile", "heads"}
    expected = profile.expected(ONE, 4).double().numpy()[0]
    row = atlas.tables["strength"].set_index(["layer", "head"]).loc[(4, "0")]
    assert row["factor"] == pytest.approx(np.exp(np.log(expected).std()), rel=1e-4)
    border = (ONE.row % 7 == 0) | (ONE.col % 7 == 0)
    assert row["border"] == pytest.approx(expected[border].mean() / expected.mean(), rel=1e-4)
    text = atlas.card()
    assert "A profile holds no single images" in text and "Layer 1: Over positions" in text
    told = text.split("## Limits")[0]
    assert not any(words in told for words in ("explains", "reliability of 0.9", "eta2", "is not shown"))
    whole = MeanProfile().fit(mean_over_heads(stored))  # a layer is described by the mean over its heads
    alone = BiasAtlas.from_profile(whole).summary()
    for name in ("factor", "border", "top"):
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
    settings["heads"] = "mean" if heads == ("mean",) else None
    return type(probe)(log, None, probe.boxes, probe.groups, list(maps.layers), list(heads), probe.parts, ONE, settings)


def test_the_probe_is_compared_with_the_profile_of_its_own_heads(tmp_path):
    rng = np.random.default_rng(0)
    wanted = rng.normal(0, 0.8, 64)
    stored = planted(tmp_path, [(ONE, 24)], lambda layout: wanted, heads=2, layers=(1, 4))
    effects = wanted.reshape(8, 8) + rng.normal(0, 0.3, (6, 8, 8))
    atlas = BiasAtlas.from_maps(stored, probe=probe_for(stored, effects))
    row = atlas.summary().iloc[0]
    assert row["probe_q"] < 0.05 and row["probe_r"] > 0.6
    assert "the causal probe agrees with the map".capitalize() in atlas.card() and "No causal probe" not in atlas.card()
    assert "probe" in atlas.figures()
    each = BiasAtlas.from_maps(stored, probe=probe_for(stored, effects, heads=(0, 1)))
    assert set(each.tables["comparison"]["head"]) == {0, 1} and "probe_slope" not in each.summary()
    assert "in 4 of 4 maps" in each.card()
    noise = BiasAtlas.from_maps(stored, probe=probe_for(stored, rng.normal(0, 1, (6, 8, 8))))
    assert "The causal probe agrees" not in noise.card()
    with pytest.raises(InputError, match="none of the atlas's"):
        elsewhere = replace(probe_for(stored, effects), layers=[1, 9])
        BiasAtlas.from_profile(MeanProfile().fit(mean_over_heads(stored)), elsewhere, layers=4)
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
    with pytest.raises(InputError, match="leave those out"):
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
    for rows in (table[:0], table[table["place"] == "top"]):
        with pytest.raises(InputError, match="removal has no rows of all places"):
            BiasAtlas.from_maps(stored, removal=rows)
    for bad in ({"removal": pd.DataFrame({"a": [1]})}, {"controls": 3}):
        with pytest.raises(InputError, match="is no table of biaslab.bias"):
            BiasAtlas.from_maps(stored, **bad)


def test_maps_without_images_or_with_attention_that_is_not_finite_are_refused(stored, tmp_path):
    empty = StoredMaps.create(tmp_path / "empty", stored.settings)
    for given in (None, MeanProfile().fit(stored)):
        with pytest.raises(InputError, match="hold no images"):
            BiasAtlas.from_maps(empty, profile=given)
    with pytest.raises(InputError, match="hold no images"):
        pictures_from(empty, "scenes")
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
            warnings.filterwarnings("ignore", message="spread is 0")
            atlas = BiasAtlas.from_maps(maps)
        text = atlas.card()
        assert text.count(f"{n} image") and "nan" not in text and atlas.save(tmp_path / f"atlas {n}")
        assert "described by the mean over their 2 heads" in text


# -- before and after ----------------------------------------------------------------------------------------------
def test_pictures_are_debiased_by_a_profile_that_has_not_seen_them(stored):
    picture = Image.new("RGB", (64, 64))
    shown = type("Shown", (), {"image": picture, "box": Box(0, 0, 16, 16), "expression": "the cat"})()
    atlas = BiasAtlas.from_maps(stored, pictures={"0-3": picture, "0-7": shown, "not there": picture})
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
    none = BiasAtlas.from_maps(stored, pictures={"x": picture})
    assert "no picture to draw: map ids such as '0-0'" in none.skipped["attention"]
    assert "attention" not in none.figures()
    with pytest.raises(InputError, match="pictures="):
        BiasAtlas.from_maps(stored).before_and_after()


def test_pictures_are_found_by_name_and_scenes_by_number(tmp_path):
    maps = planted(tmp_path, [(ONE, 4)])
    (tmp_path / "in").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "in" / "other.png")
    with pytest.raises(InputError, match="none of the 4 images .* like '0-0'"):
        pictures_from(maps, tmp_path / "in")
    with pytest.raises(InputError, match="none of the 4"):
        pictures_from(maps, "scenes")
    maps._records = [type(r)(name, r.layout, r.digest) for r, name in
                     zip(maps._records, ("other.png", "calibration-000002", "test-000001", "calibration-x"),
                         strict=True)]  # fmt: skip
    assert list(pictures_from(maps, tmp_path / "in")) == ["other.png"]
    maps.settings["prompt"] = "one per image (abc)"
    found = pictures_from(maps, "scenes")
    assert list(found) == ["calibration-000002", "test-000001"] and found["test-000001"].box is None
    asked = calibration(bl.load("grounder"), "scenes", n=3)
    shown = found["calibration-000002"]
    assert shown.expression in asked.prompts[2] and shown.box.area > 0
    assert np.array_equal(shown.image, asked.images[2].image())
    maps.settings["prompt"] = "Describe it."
    assert pictures_from(maps, "scenes")["calibration-000002"].expression == ""  # the target was not asked about
    with pytest.raises(InputError, match="out='FOLDER'"):
        pictures_from(streamed(planted(tmp_path, [(ONE, 4)], name="again")), "scenes")


# -- sentences -----------------------------------------------------------------------------------------------------
BASE = {"layer": 3, "n": 300}
EXPLAINED = BASE | {"r2": 0.41, "r2_lo": 0.38, "r2_hi": 0.44}
DEPENDS = BASE | {"row_eta2": 0.21, "row_lo": 0.18, "row_hi": 0.24, "row_q": 0.001, "row_rho": 0.02}
ENDS = {"top": 1.3, "top_lo": 1.1, "top_hi": 1.5, "bottom": 1.4, "bottom_lo": 1.2, "bottom_hi": 1.6}
BORDER = BASE | {"border": 1.8, "border_lo": 1.6, "border_hi": 2.0}
PROBE = BASE | {"probe_slope": 1.3, "probe_slope_lo": 1.1, "probe_slope_hi": 1.5, "probe_r": 0.8, "probe_r_lo": 0.7,
                "probe_r_hi": 0.9, "probe_r_true": 0.9, "probe_ceiling": 0.89, "probe_q": 0.002}  # fmt: skip
GAIN = BASE | {"auroc_raw": 0.6, "auroc": 0.65, "gain": 0.05, "gain_lo": 0.02, "gain_hi": 0.08, "gain_p": 0.01,
               "gain_n": 90, "gain_op": "ratio"}  # fmt: skip
IMAGES = BASE | {"needed": 12.0, "reliability_lo": 0.95, "reliability_n": 300}


@pytest.mark.parametrize(
    ("row", "said", "unsaid"),
    [
        (EXPLAINED, "position explains 41 % [38, 44] of the variance of log attention", "not shown"),
        (EXPLAINED | {"r2": 0.01, "r2_lo": -0.02}, "position is not shown to explain anything", "position explains"),
        (EXPLAINED | {"r2_lo": np.nan}, "41 % of the variance of log attention on held-out images (n = 300: too", "["),
        (EXPLAINED | {"population": 0.45, "population_lo": 0.4, "population_hi": 0.5}, "without end, 45 % [40, 50].",
         "nothing"),
        (EXPLAINED | {"population": 0.01, "population_lo": -0.1, "population_hi": 0.1}, "which may be nothing", "none"),
        (IMAGES, "About 12 images suffice for a reliability of 0.9.", "would take"),
        (IMAGES | {"needed": 900.0}, "would take about 900 images, more than these", "suffice"),
        (IMAGES | {"needed": np.inf}, "no part of its map is shown to repeat", "suffice"),
        (IMAGES | {"reliability_lo": -0.1}, "no part of its map is shown to repeat", "suffice"),
        (DEPENDS | ENDS, "depends on the row (eta2 0.21 [0.18, 0.24], q 0.001; U-shaped", "no dependence"),
        (DEPENDS | ENDS | {"row_q": 0.2}, "no dependence on the row (eta2 0.21 [0.18, 0.24], q 0.2) is shown", "U-sh"),
        (DEPENDS | ENDS | {"row_lo": -0.01}, "no dependence on the row", "U-shaped"),
        (DEPENDS | ENDS | {"top_lo": 0.9}, "neither a slope nor a U is shown", "U-shaped"),
        (DEPENDS | ENDS | {"row_rho": 0.8, "top_hi": 0.9, "top_lo": 0.7}, "it rises from top to bottom", "U-shaped"),
        (DEPENDS | ENDS | {"row_rho": -0.8, "bottom_hi": 0.9, "bottom_lo": 0.7}, "it falls from top to bottom", "U"),
        (DEPENDS | ENDS | {"row_rho": 0.8}, "both ends above their even share, more to the bottom", "rises"),
        (BORDER, "The border draws 1.80 [1.60, 2.00] times its even share", "not shown"),
        (BORDER | {"border_lo": 0.9}, "The border is not shown to draw more or less", "draws 1.80"),
        (PROBE, "agrees with the map beyond chance (r 0.80 [0.70, 0.90]", "does not confirm"),
        (PROBE, "removes too little (slope 1.30 [1.10, 1.50])", "too much"),
        (PROBE | {"probe_slope_lo": 0.9}, "is not shown to remove too much or too little", "removes too little"),
        (PROBE | {"probe_slope": 0.5, "probe_slope_lo": 0.3, "probe_slope_hi": 0.7}, "removes too much", "too little"),
        (PROBE | {"probe_q": 0.3}, "does not confirm the map", "beyond chance"),
        (PROBE | {"probe_r": -0.8}, "does not confirm the map", "beyond chance"),
        (PROBE | {"probe_r_true": np.nan}, "probe is not reliable here", "beyond chance"),
        (GAIN, "Removal ranks the target better (+0.050 [+0.020, +0.080]; AUROC 0.600 before", "open"),
        (GAIN | {"gain_p": 0.4}, "whether removal helps is open", "ranks the target better"),
        (GAIN | {"gain_lo": -0.01}, "not shown to rank the target better or worse", "target better ("),
        (GAIN | {"gain": -0.05, "gain_lo": -0.08, "gain_hi": -0.02}, "ranks the target worse", "better"),
        (BASE | {"auroc_raw": 0.6, "auroc": 0.65, "gain": 0.05, "gain_n": 9}, "no interval of the difference", "bett"),
        (BASE | {"tile_slope": -0.2, "tile_slope_lo": -0.3, "tile_slope_hi": -0.1}, "falls from tile to tile", "no tr"),
        (BASE | {"tile_slope": -0.2, "tile_slope_lo": -0.5, "tile_slope_hi": 0.1}, "no trend from tile", "falls"),
    ],
)  # fmt: skip
def test_a_sentence_says_what_its_numbers_allow(row, said, unsaid):
    text = layer_sentences(row)
    assert said.lower() in text.lower() and unsaid not in text and text.startswith("Layer 3: ")
    assert "nan" not in text and "None" not in text


def test_shapes_need_the_intervals_of_the_ends():
    assert shape({}, "row") is None and shape(DEPENDS, "row") == "other" and shape(DEPENDS | ENDS, "row") == "u"
    below = {k: v - 0.9 for k, v in ENDS.items()}
    assert shape(DEPENDS | below, "row") == "arch"
    split = DEPENDS | ENDS | {"top_hi": 0.9, "top_lo": 0.7}
    assert shape(split, "row") == "last" and shape(split | {"row_rho": -0.9}, "row") == "last"


def said_of(rows, tables=None):
    return " ".join(overall(pd.DataFrame(rows), tables or {}))


def test_the_first_paragraph_claims_an_order_only_where_intervals_part():
    def row(layer, r2, half=0.02):
        return {"layer": layer, "n": 50, "r2": r2, "r2_lo": r2 - half, "r2_hi": r2 + half}

    text = said_of([row(0, 0.1), row(1, 0.6), row(2, 0.3)])
    assert "most of the variance of log attention in layer 1 (60 % [58, 62]) and least in layer 0" in text
    assert "open" not in text and "all 3 layers" in text
    text = said_of([row(0, 0.1), row(1, 0.6), row(2, 0.57)])
    assert "which layer is the first is open, as the intervals of layer 2 reach that one's" in text
    text = said_of([row(0, 0.1, 0.5), row(1, 0.2, 0.5)])
    assert "not shown to differ" in text and "In layers 0 and 1 nothing is shown to be explained" in text
    assert "the interval does not lie above 0" in said_of([row(0, -0.3), row(1, -0.2)]) and "holds 0" not in text


def test_layers_are_grouped_by_shape_and_gain():
    rows = [DEPENDS | ENDS | {"layer": k} for k in (0, 1, 2)] + [DEPENDS | ENDS | {"layer": 5, "row_q": 0.5}]
    rows = [r | {k: v for k, v in BORDER.items() if k != "layer"} for r in rows]
    text = said_of(rows)
    assert "U-shaped (both ends draw more than their even share) in layers 0 to 2; not shown in layer 5" in text
    assert "The border draws more than its even share in layers 0 to 2 and 5." in text
    gains = [GAIN | {"layer": 0}, GAIN | {"layer": 1, "gain": 0.09}, GAIN | {"layer": 2, "gain_p": 0.5},
             GAIN | {"layer": 3, "gain": -0.05, "gain_lo": -0.08, "gain_hi": -0.02}]  # fmt: skip
    text = said_of(gains)
    assert "better in layers 0 and 1 (AUROC +0.090 [+0.020, +0.080] in layer 1, the most); worse in layer 3" in text
    assert "neither better nor worse, as far as is shown, in layer 2 (n = 90 expressions)" in text
    assert "no gain is claimed" in said_of([{"layer": 0, "gain": 0.1, "auroc": 0.6, "auroc_raw": 0.5, "gain_n": 3}])


def test_heads_and_controls_are_named_with_their_intervals():
    heads = pd.DataFrame({"layer": [0, 0, 1, 1, 1], "head": ["mean", "0", "0", "1", "2"], "n": 9,
                          "r2": [0.5, 0.02, 0.3, 0.8, 0.4], "lo": [0.4, -0.1, 0.2, 0.7, 0.3],
                          "hi": [0.6, 0.1, 0.4, 0.9, 0.5]})  # fmt: skip
    text = said_of([BASE], {"variance": heads})
    assert "Of 4 heads the least positional are layer 0 head 0 (2 % [-10, 10])" in text
    assert "the most layer 1 head 1 (80 % [70, 90])" in text and "In 1 of them the interval holds 0." in text
    heads["lo"], heads["hi"] = [0.4, -0.1, -0.4, np.nan, 0.3], [0.6, 0.1, -0.2, np.nan, 0.5]
    text = said_of([BASE], {"variance": heads})
    assert "In 1 of them the interval holds 0, in 1 it lies below 0, in 1 it is not known." in text
    controls = pd.DataFrame({"kind": ["blank"] * 2, "layer": [0, 1], "r": [0.1, 0.9], "lo": [-0.2, 0.8], "hi": [0.4, 1],
                             "removes": "all content"})  # fmt: skip
    text = said_of([BASE], {"controls": controls})
    assert "Control blank (removes all content): its map correlates with the profile by 0.10 to 0.90" in text
    assert "above 0 in 1 of 2 maps" in text
    text = said_of([BASE], {"controls": controls.assign(r=np.nan, lo=np.nan, hi=np.nan)})
    assert "its attention does not vary over positions" in text and "nan" not in text


def test_numbers_never_seem_to_touch_what_their_interval_excludes():
    assert interval(0.012, 0.003, 0.021) == "0.012 [0.003, 0.021]"
    assert interval(0.012, -0.003, 0.02) == "0.01 [0.00, 0.02]"
    assert interval(1.004, 1.002, 1.006, null=1) == "1.004 [1.002, 1.006]" and interval(np.nan) == ""
    assert interval(-0.001, sign=True) == "+0.00" and interval(2.0, 1.0, np.nan) == "2.00"
    assert share_said({"r2": 0.004, "r2_lo": 0.001, "r2_hi": 0.008}, "r2") == "0.4 % [0.1, 0.8]"
    assert layers_said([4, 0, 1, 2, 7, 8]) == "layers 0 to 2, 4, 7 and 8" and layers_said([3]) == "layer 3"


def test_the_summary_reads_the_mean_over_heads_all_places_and_optional_columns(stored):
    variance = pd.DataFrame({"layer": 1, "head": ["all", "0"], "r2": [0.3, 0.9], "lo": 0.2, "hi": 0.95, "n": 7,
                             "population": [0.4, 0.95], "population_lo": 0.3, "population_hi": 0.99})  # fmt: skip
    row = summary_table({"variance": variance, "removal": removal_table()}, [1]).iloc[0]
    assert (row["r2"], row["population"], row["n"]) == (0.3, 0.4, 7)
    assert (row["auroc_raw"], row["gain_lo"], row["gain_p"], row["gain_op"]) == (0.6, 0.02, 0.01, "ratio")
    plain = summary_table({"removal": removal_table(intervals=False)}, [1])
    assert plain["gain"].iloc[0] == pytest.approx(0.05) and "gain_lo" not in plain
    written = cells(summary_table({"variance": variance, "removal": removal_table()}, [1]))
    assert written.iloc[0].to_dict() == {
        "layer": "1", "explained, %": "30 [20, 95]", "AUROC gain": "+0.050 [+0.020, +0.080]",
    }  # fmt: skip


# -- files ---------------------------------------------------------------------------------------------------------
def test_save_writes_figures_tables_and_card(stored, tmp_path):
    controls = pd.DataFrame({"kind": "blank", "layer": [1, 4], "r": 0.5, "lo": 0.4, "hi": 0.6})
    pictures, folder = {"0-3": Image.new("RGB", (64, 64))}, tmp_path / "deep" / "atlas"
    atlas = BiasAtlas.from_maps(stored, removal=removal_table(), controls=controls, pictures=pictures)
    files = atlas.save(folder)
    names = {str(f.relative_to(folder)) for f in files}
    drawn = ("variance", "profile", "heads", "reliability", "dependence", "removal", "attention")
    assert {f"figures/{n}.{kind}" for n in drawn for kind in ("pdf", "png", "csv")} <= names
    tables = ("summary", "variance", "reliability", "mass", "dependence", "strength", "removal", "controls")
    assert {f"tables/{n}.csv" for n in tables} | {"tables/summary.tex", "card.md"} == names - {
        n for n in names if n.startswith("figures/")
    }
    assert all(f.stat().st_size for f in files) and (folder / "card.md").read_text() == atlas.card()
    read = pd.read_csv(folder / "tables" / "summary.csv")
    np.testing.assert_allclose(read["r2"], atlas.summary()["r2"])
    tex = (folder / "tables" / "summary.tex").read_text()
    assert tex.count(r"\toprule") == 1 and r"explained, \%" in tex and "+0.050 {\\scriptsize [+0.020, +0.080]}" in tex
    assert tex.split(r"\toprule")[1].split(r"\midrule")[0].strip().startswith("layer &")
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
    assert "U-shaped" in text and "no dependence on the column" in text and "nan" not in text
