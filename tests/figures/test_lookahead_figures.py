"""Figures of a conditional profile: what is drawn is what was measured, in any axes, saved as PDF, PNG and CSV."""

import re

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image
from planted_lookahead import LAYOUT, WIDE, stored
from scipy.stats import t as scipy_t

from biaslab._util.watermark import rehearsal_name
from biaslab.core.boxes import Box
from biaslab.core.layout import TokenLayout
from biaslab.diagnostics.probe import ProbeResult
from biaslab.errors import InputError, ProfileMismatchError
from biaslab.figures import LearnedPlacesDisplay, LearningCurveDisplay, RelevanceDisplay, WordWeightsDisplay, save
from biaslab.profiles import LookaheadProfile, MeanProfile, load
from biaslab.profiles.lookahead.foresight import Foresight
from biaslab.profiles.lookahead.learned import learned_places
from biaslab.pruning import Selection

pytestmark = pytest.mark.slow

mpl.use("Agg")

GRID = TokenLayout.raster(4, 4, size=(64, 64), family="internvl")


@pytest.fixture(autouse=True)
def _close():
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before  # no figure writes a global setting


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("planted") / "maps", n=60)


@pytest.fixture(scope="module")
def profile(maps):
    return LookaheadProfile(rank=8, epochs=4, batch_size=32, learning_rate=2e-2).fit(maps)


def words(n=40):
    names = [f"word{i}" for i in range(n)]
    return pd.DataFrame({"token": names, "n": np.arange(n) + 1, "weight": np.linspace(0.9, 0.01, n), "se": 0.02,
                         "share": np.linspace(0.01, 0.03, n), "even": 0.05})  # fmt: skip


def probe_of(profile, grid=(7, 9), layers=(3,), heads=(0, 1), **settings):
    rng = np.random.default_rng(0)
    log = rng.normal(size=(5, *grid, 1, len(layers), len(heads)))
    known = {name: profile.provenance_.get(name) for name in ("model", "revision", "fingerprint", "family")}
    boxes = np.zeros((5, *grid, 1, 4))
    return ProbeResult(log, None, boxes, list("abcde"), list(layers), list(heads), ["tiles"], LAYOUT, known | settings)


def displays(profile, maps):
    places = learned_places(profile, maps)
    picture = Image.new("RGB", (64, 64), "orange")
    scores = np.arange(16.0)
    return {
        "curve": LearningCurveDisplay.from_profile(profile),
        "places": LearnedPlacesDisplay.from_places(places, LAYOUT, profile=profile),
        "places+probe": LearnedPlacesDisplay.from_places(places, LAYOUT, profile=profile, probe=probe_of(profile)),
        "words": WordWeightsDisplay.from_words(words(), profile=profile),
        "relevance": RelevanceDisplay.from_relevance(picture, GRID, scores),
        "relevance+all": RelevanceDisplay.from_relevance(
            picture, GRID, torch.arange(16), attention=scores[::-1], kept=[0, 5], target=Box(0, 0, 20, 20),
            expression="a $100 bill",
        ),
    }  # fmt: skip


NAMES = ("curve", "places", "places+probe", "words", "relevance", "relevance+all")


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_saved_and_drawn_into_given_axes(name, profile, maps, tmp_path):
    display = displays(profile, maps)[name]
    files = save(display, tmp_path / "figure", close=True)
    assert [file.suffix for file in files] == [".pdf", ".png", ".csv"] and all(file.stat().st_size for file in files)
    assert len(pd.read_csv(files[2])) == len(display.data)
    panels = np.size(display.ax_)
    figure, axes = plt.subplots(1, panels)
    again = displays(profile, maps)[name]
    assert again.plot(axes) is again and again.figure_ is figure
    if panels > 1:
        with pytest.raises(InputError, match=f"this display has {panels} panels"):
            displays(profile, maps)[name].plot(axes[:1])


# -- the curve -------------------------------------------------------------------------------------------------------
def test_the_curve_of_a_loaded_profile_is_that_of_the_fit(profile, tmp_path):
    loaded = load(profile.save(tmp_path / "la"))
    display = LearningCurveDisplay.from_profile(loaded).plot()
    pd.testing.assert_frame_equal(display.data, profile.curve_, check_like=True)
    train, held, floor, kept = display.ax_.get_lines()
    np.testing.assert_allclose(held.get_ydata(), profile.curve_["held_out"])
    np.testing.assert_allclose(train.get_ydata(), profile.curve_["train"])
    np.testing.assert_allclose(floor.get_ydata(), profile.curve_["floor"])
    assert kept.get_xdata()[0] == profile.curve_["held_out"].idxmin() + 1 == display.best + 1
    assert kept.get_ydata()[0] == profile.curve_["held_out"].min()


def test_what_has_no_curve_is_refused(maps, profile):
    with pytest.raises(InputError, match="no learning curve"):
        LearningCurveDisplay.from_profile(MeanProfile().fit(maps))
    with pytest.raises(InputError, match="has no column 'floor'"):
        LearningCurveDisplay.from_curve(profile.curve_.drop(columns="floor"))
    with pytest.raises(InputError, match="is empty"):
        LearningCurveDisplay.from_curve(profile.curve_.iloc[:0])


# -- places ----------------------------------------------------------------------------------------------------------
def test_places_are_drawn_where_they_lie_on_one_scale(profile, maps):
    places = learned_places(profile, maps)
    probe = probe_of(profile)
    display = LearnedPlacesDisplay.from_places(places, LAYOUT, profile=profile, probe=probe).plot()
    assert [panel.get_title() for panel in display.ax_] == [
        "teacher's positional profile", "causal probe of the teacher", "student",
    ]  # fmt: skip
    drawn = [panel.images[0] for panel in display.ax_]
    assert len({image.get_clim() for image in drawn}) == 1
    for image, values in zip(drawn, (places["teacher"], probe.map(3, 1).ravel(), places["student"]), strict=True):
        np.testing.assert_allclose(image.get_array().ravel() * np.log(2), values, atol=1e-12)
    text = display.ax_[2].get_xlabel()
    r = np.corrcoef(places["teacher"], places["student"])[0, 1]
    assert f"varies by {np.exp(places['student'].std(ddof=0)):.2f}" in text and f"r {r:.2f}" in text and "noise" in text
    # heads weigh in the probe as they do in the teacher
    two = LookaheadProfile(rank=8, epochs=1, heads=[(3, 0), (3, 1)]).fit(maps)
    both = LearnedPlacesDisplay.from_places(learned_places(two, maps), LAYOUT, profile=two, probe=probe)
    np.testing.assert_allclose(both.data["probe"], (probe.map(3, 0) + probe.map(3, 1)).ravel() / 2)


def test_places_of_tiles_leave_the_thumbnail_out(tmp_path):
    maps = stored(tmp_path / "maps", n=30, layouts=(WIDE,))
    fitted = LookaheadProfile(rank=8, epochs=1).fit(maps)
    display = LearnedPlacesDisplay.from_places(learned_places(fitted, maps), WIDE, profile=fitted).plot()
    assert len(display.data) == 50 and display.data["col"].max() == 9
    assert display.ax_[0].images[0].get_array().shape == (5, 10)


def test_probes_that_do_not_fit_are_refused(profile, maps):
    places = learned_places(profile, maps)
    make = lambda **given: LearnedPlacesDisplay.from_places(places, LAYOUT, **given)  # noqa: E731
    with pytest.raises(InputError, match="pass the profile as well"):
        make(probe=probe_of(profile))
    with pytest.raises(InputError, match="the probe holds heads"):
        make(profile=profile, probe=probe_of(profile, heads=("mean",)))
    with pytest.raises(InputError, match="measure it on that grid"):
        make(profile=profile, probe=probe_of(profile, grid=(3, 3)))
    with pytest.raises(ProfileMismatchError):
        make(profile=profile, probe=probe_of(profile, model="other"))
    with pytest.raises(InputError, match="covers 63 tokens but the layout has 16"):
        LearnedPlacesDisplay.from_places(places, GRID)


# -- words -----------------------------------------------------------------------------------------------------------
def test_words_are_those_that_weigh_then_those_that_are_shared_then_the_frequent():
    table = words()
    display = WordWeightsDisplay.from_words(table, most=5, rest=2, frequent=2, least=3).plot()
    assert display.data["token"].tolist() == [
        *table["token"][2:7], "word39", "word38", "word37", "word36",
    ]  # fmt: skip
    lengths = [bar.get_width() for bar in display.ax_.patches]
    np.testing.assert_allclose(lengths, display.data["weight"])
    ends = [segment[:, 0] for segment in display.ax_.containers[1].errorbar.lines[2][0].get_segments()]
    half = 0.02 * scipy_t.ppf(0.975, display.data["n"] - 1)
    low, high = np.array(ends).T
    np.testing.assert_allclose(low, (display.data["weight"] - half).clip(lower=0))
    np.testing.assert_allclose(high, (display.data["weight"] + half).clip(upper=1))
    assert [label.get_text() for label in display.ax_.get_yticklabels()][:2] == ["word2 (3)", "word3 (4)"]


def test_tokens_of_white_space_have_a_name():
    table = words(3).assign(n=9, token=["", " ", "cup"])
    display = WordWeightsDisplay.from_words(table).plot()
    names = [label.get_text() for label in display.ax_.get_yticklabels()]
    assert names == ["blank (9)", "blank (9)", "cup (9)"]


def test_words_that_are_rare_and_words_that_look_like_formulas_are_drawn_too():
    table = words(3).assign(n=1, se=np.nan, token=["$x", "a_b$", "<|im_end|>"])
    display = WordWeightsDisplay.from_words(table).plot()
    assert display.data["token"].tolist() == table["token"].tolist()
    display.figure_.canvas.draw()
    for wrong, words_ in ((table.drop(columns="share"), "no column 'share'"), (table.iloc[:0], "no word to draw")):
        with pytest.raises(InputError, match=words_):
            WordWeightsDisplay.from_words(wrong)


# -- one image -----------------------------------------------------------------------------------------------------
def test_one_picture_shows_what_is_foreseen_kept_and_attended_to(profile):
    scores, later = np.arange(16.0), np.arange(16.0) ** 2
    kept = Selection(torch.tensor([3, 15]), torch.from_numpy(scores))
    display = RelevanceDisplay.from_foresight(
        Image.new("RGB", (64, 64)), Foresight(GRID, scores, later), profile=profile, kept=kept,
        target=Box(48, 48, 64, 64), expression="it",
    ).plot()  # fmt: skip
    assert np.flatnonzero(display.data["kept"]).tolist() == [3, 15]
    assert display.data["relevance"].std(ddof=0) == pytest.approx(1) == display.data["attention"].std(ddof=0)
    assert display.data.loc[15, "on_target"] == 1 and display.data["on_target"].sum() == 1
    titles = [panel.get_title() for panel in display.ax_]
    assert re.fullmatch(r"attended to later, r = -?\d.\d\d\nL3h1", titles[2]) and titles[3] == "kept\n2 of 16 tokens"
    assert f"r = {np.corrcoef(scores, later)[0, 1]:.2f}" in titles[2]
    # above the mean in colour, below it blank: rows of the raster from the top
    values = display.ax_[1].images[1].get_array()
    assert values[8, 8] == 0 and values[-1, -1] == pytest.approx(display.data["relevance"].max())
    assert [len(own.get_paths()) for own in display.ax_[3].collections] == [2, 0]


def test_kept_tokens_of_a_thumbnail_are_outlined_and_lift_no_fading():
    kept = [0, 1, int(np.flatnonzero(WIDE.thumbnail)[0])]
    display = RelevanceDisplay.from_relevance(Image.new("RGB", (100, 50)), WIDE, np.arange(WIDE.n), kept=kept).plot()
    panel = display.ax_[2]
    assert panel.get_title() == f"kept (dotted: thumbnail)\n3 of {WIDE.n} tokens"
    assert [len(own.get_paths()) for own in panel.collections] == [2, 1]
    shown = (panel.images[0].get_array() < 0.5).all(-1)  # the image is black, what is faded nearly white
    assert shown[:10, :20].all() and not shown[:, 20:].any()


def test_one_picture_refuses_other_tokens():
    picture = Image.new("RGB", (64, 64))
    with pytest.raises(InputError, match="relevance covers 15 tokens but the layout has 16"):
        RelevanceDisplay.from_relevance(picture, GRID, np.zeros(15))
    with pytest.raises(InputError, match="must be between 0 and 15"):
        RelevanceDisplay.from_relevance(picture, GRID, np.zeros(16), kept=[16])


def test_figures_of_a_rehearsal_say_so(tmp_path):
    display = RelevanceDisplay.from_relevance(
        Image.new("RGB", (64, 64)), GRID, np.arange(16.0), model=rehearsal_name("org/model")
    )
    files = save(display, tmp_path / "one", close=True)
    assert b"ehearsal" in files[1].read_bytes() and "rehearsal" in files[2].read_text()
