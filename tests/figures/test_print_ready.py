"""A paper takes every figure as it is: no wider than its column, no letter below 6 points, no text over a target."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from figure_gallery import DISTINCT, SQUARE, faults, gallery, photograph
from matplotlib import pyplot as plt
from PIL import Image

from biaslab.core.boxes import Box
from biaslab.figures import AttentionDisplay, KeptTokensDisplay, save, style
from biaslab.figures.styling import VENUES

pytestmark = pytest.mark.slow

mpl.use("Agg")
DISPLAYS = gallery()
TURNS = ("accuracy-runs", "attention", "kept", "reliability", "auroc", "heads", "relevance")
NARROW, OTHERS = "acl", [venue for venue in sorted(DISTINCT) if venue != "acl"]


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.mark.parametrize("name", DISPLAYS)
def test_every_display_is_fit_for_the_narrowest_column(name, tmp_path):
    assert min(VENUES.values())[0] == VENUES[NARROW].column
    assert faults(DISPLAYS[name], NARROW, tmp_path) == []


@pytest.mark.parametrize(("venue", "name"), zip(OTHERS, TURNS, strict=True))
def test_displays_are_fit_for_the_other_venues(venue, name, tmp_path):
    """One of each kind by turns; `python tests/figures/figure_gallery.py OUT` draws all at all venues, in minutes."""
    DISPLAYS[name].figure_ = None
    assert faults(DISPLAYS[name], venue, tmp_path) == []


def test_faults_are_found(tmp_path):
    display = DISPLAYS["variance"]
    with style("cvpr"):
        display.plot()
    display.figure_.text(0.95, 0.5, "outside of the figure", fontsize=5)
    found = faults(display, "cvpr", tmp_path)
    assert any("in wide" in fault for fault in found) and any("5.0 pt" in fault for fault in found)
    display.figure_ = None
    kept = DISPLAYS["kept-two"]
    with style("cvpr"):
        kept.plot()
    kept.ax_[0].text(10, 10, "on it")
    assert any("over the target" in fault for fault in faults(kept, "cvpr", tmp_path))
    kept.figure_ = None


def test_the_font_is_the_venues_and_can_be_chosen():
    with style("cvpr"):
        assert mpl.rcParams["font.family"][0] == "STIXGeneral"
        with style():  # as a display enters it
            assert mpl.rcParams["font.family"][0] == "STIXGeneral"
        with style(font="sans"):
            assert mpl.rcParams["font.family"][0] == "DejaVu Sans"
    for venue, sans in (("tmlr", None), (None, None), ("cvpr", "sans")):
        with style(venue, font=sans):
            assert mpl.rcParams["font.family"][0] == "DejaVu Sans"
    with style("icml", font="DejaVu Serif"):
        assert mpl.rcParams["font.family"][0] == "DejaVu Serif"


def test_fonts_are_in_the_file_and_none_is_missing(tmp_path, recwarn):
    with style("cvpr"):
        pdf = save(DISPLAYS["dependence"], tmp_path / "f", formats=["pdf"], close=True)[0].read_bytes()
    DISPLAYS["dependence"].figure_ = None
    assert b"STIXGeneral" in pdf and b"/Type3" not in pdf
    assert not [str(w.message) for w in recwarn if "Glyph" in str(w.message) or "font" in str(w.message).lower()]


def test_the_unpruned_panel_is_first_and_shows_the_image_as_it_is():
    picks = {"FastV": [0], "no pruning": None, "DivPrune": [5]}
    answers = {"FastV": None, "no pruning": Box(0, 0, 40, 40), "DivPrune": Box(0, 0, 200, 200)}
    display = KeptTokensDisplay.from_selections(
        photograph(), SQUARE, picks, target=Box(0, 0, 50, 50), answers=answers, model="org/m-1B",
        title="10 % kept before layer 4", expression="the cat",
    ).plot()  # fmt: skip
    assert [ax.get_title().split("\n")[0] for ax in display.ax_] == ["no pruning", "FastV", "DivPrune"]
    first, fastv, divprune = display.ax_
    np.testing.assert_allclose(first.images[0].get_array(), np.asarray(photograph(), float) / 255)
    assert "all 64 tokens, IoU 0.64" in first.get_title() and not first.collections
    faded = np.asarray(fastv.images[0].get_array())[60:, 60:]
    assert np.ptp(faded) > 0.1 and faded.min() >= 0.5  # paler, but objects can be told
    for ax in (fastv, divprune):
        assert not any(artist.get_clip_on() for artist in [*ax.patches, *ax.collections])
    target, answer = divprune.patches
    x, y = answer.get_x() + answer.get_width(), answer.get_y() + answer.get_height()
    assert (x, y) == (111.5, 111.5)  # an answer outside ends at the image's edge
    title = display.figure_.get_suptitle().replace("\n", " ")
    assert (
        title == "\N{LEFT DOUBLE QUOTATION MARK}the cat\N{RIGHT DOUBLE QUOTATION MARK}: m-1B, 10 % kept before layer 4"
    )


def test_images_share_their_scales_and_captions_stand_below():
    display = DISPLAYS["attention"]
    with style("cvpr"):
        display.plot()
    for k in (0, 1):
        norms = {(ax.images[1].norm.vmin, ax.images[1].norm.vmax) for ax in display.ax_[k::2]}
        assert len(norms) == 1
    bars = [ax for ax in display.figure_.axes if ax not in set(display.ax_)]
    assert len(bars) == 2  # one for attention, one for the score
    assert "left cupcake" in [ax.get_xlabel() for ax in display.ax_] and not any(ax.texts for ax in display.ax_)
    assert display.figure_.get_suptitle() == "simulated, layer 3"
    display.figure_ = None


def test_layers_that_are_left_out_are_said():
    assert "1 of 10 layers" in DISPLAYS["profile-one"].title and "layers" not in DISPLAYS["profile"].title
    with style("cvpr"):
        assert "6 of 10 layers" in DISPLAYS["reliability"].plot().ax_.get_title()
    DISPLAYS["reliability"].figure_ = None


def test_titles_of_maps_stand_at_one_height():
    display = DISPLAYS["profile"]
    with style("cvpr"):
        display.plot()
    display.figure_.canvas.draw()
    top = [round(ax.title.get_window_extent().y0, 1) for ax in display.ax_[:5]]
    assert len(set(top)) == 1
    display.figure_.clear()
    display.figure_ = None


def test_svg_is_the_same_twice(tmp_path):
    one, two = (save(DISPLAYS["curve"], tmp_path / name, formats=["svg"])[0].read_bytes() for name in ("a", "b"))
    DISPLAYS["curve"].figure_ = None
    assert one == two and b"<svg" in one


def test_an_image_beside_a_wide_one_stays_in_the_column(tmp_path):
    wide = Image.new("RGB", (300, 60), "orange")
    display = AttentionDisplay.from_attention(
        wide, SQUARE, np.ones(64), profile=_flat(), layer=0, titles="a very wide image of one colour"
    )
    assert faults(display, "cvpr", tmp_path) == []


def _flat():
    from figure_gallery import profile

    return profile()
