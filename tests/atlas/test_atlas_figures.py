"""Figures of the atlas: every panel where it belongs, and marks that follow the numbers."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from biaslab.core.layout import TokenLayout
from biaslab.diagnostics.tables import rows_of_head, rows_of_layout
from biaslab.errors import InputError
from biaslab.figures import AttentionDisplay, DependenceDisplay, HeadsDisplay, ReliabilityDisplay, save
from biaslab.figures.layers import evenly
from biaslab.maps.simulate import simulate
from biaslab.profiles import MeanProfile, variance_table

mpl.use("Agg")

ONE = TokenLayout.raster(5, 7, size=(70, 50), family="internvl")
TILED = TokenLayout.tiled(1, 2, (4, 4), size=(128, 64), family="internvl", thumbnail=True)


@pytest.fixture(autouse=True)
def _close():
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before  # no figure writes a global setting


@pytest.fixture(scope="module")
def maps():
    return simulate("u-shaped", {ONE: 12, TILED: 6}, layers=5, heads=3).maps


@pytest.fixture(scope="module")
def profile(maps):
    return MeanProfile().fit(maps)


def reliability_table(layers=(0, 2), heads=("mean", "0"), layouts=("a", "b"), needed=20.0):
    rows = []
    for layer in layers:
        for head in heads:
            for layout in layouts:
                for n in (10, 40) if layout == "a" else (10,):
                    value = n / (n + needed / 9 + layer)
                    rows.append({"layer": layer, "head": head, "layout": layout, "n": n, "reliability": value,
                                 "draw_lo": value - 0.2, "draw_hi": value + 0.02, "predicted": value})  # fmt: skip
    return pd.DataFrame(rows)


def dependence_table(layers=(0, 1, 2), heads=("mean", "0")):
    rows = []
    for layer in layers:
        for head in heads:
            for axis in ("row", "col"):
                size, q = 0.1 * layer, 0.001 if layer else 0.4
                rows.append({"layer": layer, "head": head, "axis": axis, "eta2": size, "eta2_lo": size - 0.02,
                             "eta2_hi": size + 0.02, "null_hi": 0.01, "q": q, "n": 30})  # fmt: skip
    return pd.DataFrame(rows)


# -- heads ---------------------------------------------------------------------------------------------------------
def test_every_head_of_every_layer_stands_in_its_row_and_column(profile, maps):
    display = HeadsDisplay.from_profile(profile, variance=variance_table(maps, per_head=True)).plot()
    assert len(display.data) == 5 * 3 * 35 and "n = 12 images" in display.figure_._suptitle.get_text()
    mosaic, pitch, gap = display._mosaic([0, 1, 2, 3, 4], ["0", "1", "2"])
    shown = display.ax_.images[0].get_array()
    assert shown.shape == mosaic.shape == (5 * pitch[0] - gap, 3 * pitch[1] - gap) and gap < pitch[0] / 5
    expected = profile.expected(ONE, 3).double().numpy()[1]
    times = (pitch[0] - gap) // 5
    panel = shown[3 * pitch[0] : 3 * pitch[0] + 5 * times, pitch[1] : pitch[1] + 7 * times]
    want = np.log2(expected / expected.mean()).reshape(5, 7)
    np.testing.assert_allclose(panel[::times, ::times], want, rtol=1e-6)
    np.testing.assert_allclose(panel, want.repeat(times, 0).repeat(times, 1), rtol=1e-6)
    assert np.ma.getmaskarray(shown)[pitch[0] - gap : pitch[0]].all()  # white between the layers
    assert [t.get_text() for t in display.ax_.get_yticklabels()] == list("01234")
    assert [t.get_text() for t in display.ax_.get_xticklabels()] == list("012")
    table = variance_table(maps, per_head=True)
    numbers = [str(round(100 * r)) for r in table[table["head"] != "all"]["r2"]]
    assert sorted(t.get_text() for t in display.ax_.texts) == sorted(numbers)
    assert not HeadsDisplay.from_profile(profile).plot().ax_.texts


def test_too_many_layers_are_chosen_evenly_and_the_title_says_so(profile):
    display = HeadsDisplay.from_profile(profile, most=3).plot()
    assert list(dict.fromkeys(display.data["layer"])) == [0, 2, 4]
    assert "3 of 5 layers, evenly chosen" in " ".join(display.figure_.get_suptitle().split())
    assert evenly(range(80), 4) == [0, 26, 53, 79] and evenly([1, 2], 4) == [1, 2] and evenly([1, 2], 1) == [1]


@pytest.mark.slow
def test_a_large_model_fits_on_a_page(tmp_path):
    many = MeanProfile().fit(
        simulate("none", {TokenLayout.raster(4, 4, size=(8, 8), family="f"): 2}, layers=28, heads=28).maps
    )
    display = HeadsDisplay.from_profile(many)
    files = save(display, tmp_path / "heads", close=True)
    assert len(display.data) == 28 * 28 * 16 and all(f.stat().st_size for f in files)
    width, height = display.figure_.get_size_inches()
    assert width <= 6.9 and height <= 9 and len(display.ax_.get_xticklabels()) == 28


def test_few_layers_of_many_heads_have_their_colour_bar_below():
    many = MeanProfile().fit(
        simulate("none", {TokenLayout.raster(4, 4, size=(8, 8), family="f"): 2}, layers=2, heads=24).maps
    )
    display = HeadsDisplay.from_profile(many).plot()
    display.figure_.canvas.draw()
    maps, bar = (a.get_position() for a in display.figure_.axes)
    assert bar.y1 < maps.y0 and bar.width > 0.2 and maps.width > 0.8


def test_a_head_that_does_not_see_the_image_is_blank(maps):
    blind = MeanProfile().fit(maps)
    for named in blind.arrays_.values():
        for arrays in named.values():
            for values in arrays.values():
                values[0] = 0
    display = HeadsDisplay.from_profile(blind, layers=[0, 2]).plot()
    shown = display.data.groupby("head")["relative"].agg(lambda x: np.isfinite(x).all())
    assert shown.to_dict() == {"0": False, "1": True, "2": True}
    alone = HeadsDisplay(display.data[display.data["head"] == "0"], "none is seen", provenance=None).plot()
    assert alone.figure_ is not None


def test_tiles_and_thumbnails_are_drawn_apart(profile):
    tiles = HeadsDisplay.from_profile(profile, layers=1, layout=TILED)
    small = HeadsDisplay.from_profile(profile, layers=[1], layout=TILED.key, thumbnail=True)
    assert len(tiles.data) == 3 * 32 and len(small.data) == 3 * 16 and "thumbnail" in small.title
    assert tiles.data["col"].max() == 7 and small.data["col"].max() == 3
    even = pd.concat([tiles.data, small.data]).groupby("head")["relative"].mean()
    np.testing.assert_allclose(even, 1)
    with pytest.raises(InputError, match="no thumbnail"):
        HeadsDisplay.from_profile(profile, layout=ONE, thumbnail=True)
    with pytest.raises(InputError, match="no layout"):
        HeadsDisplay.from_profile(profile, layout="other")
    with pytest.raises(InputError, match="per_head=True"):
        HeadsDisplay.from_profile(profile, variance=pd.DataFrame({"layer": [1]}))


# -- reliability ---------------------------------------------------------------------------------------------------
def test_reliability_lines_pass_through_the_predictions_and_dash_beyond_the_images():
    table = reliability_table()
    display = ReliabilityDisplay.from_table(table).plot()
    assert set(display.data["head"]) == {"mean"} and set(display.data["layout"]) == {"a"} and display.title == "a"
    ax = display.ax_
    lines = [line for line in ax.lines if line.get_linestyle() == "-" and len(line.get_xdata()) > 2]  # no grid lines
    assert len(lines) == 2 and ax.get_xscale() == "log"
    x, y = lines[0].get_data()
    np.testing.assert_allclose(y, x / (x + 20 / 9))
    np.testing.assert_allclose(y[-1], 40 / (40 + 20 / 9))
    assert any(line.get_ydata()[0] == 0.9 for line in ax.lines)
    assert [t.get_text() for t in ax.texts] == ["0.9"]
    names = [t.get_text() for t in display.figure_.legends[0].get_texts()]
    assert names == [f"layer {layer}" for layer in sorted(set(display.data["layer"]))]
    mixed = pd.concat([table[table["n"] == 10].assign(layer=7), table])
    assert "--" in [line.get_linestyle() for line in ReliabilityDisplay.from_table(mixed).plot().ax_.lines]
    one = ReliabilityDisplay.from_table(reliability_table(layers=(0,), layouts=("a",)), head=0).plot()
    assert one.title == "head 0" and not one.figure_.legends


def test_a_layer_without_bias_is_a_flat_line():
    table = reliability_table(layers=(0,), layouts=("a",)).assign(predicted=0.0)
    display = ReliabilityDisplay.from_table(table).plot()
    assert set(display.ax_.lines[0].get_ydata()) == {0.0}


def test_reliability_refuses_what_it_cannot_draw():
    for table, words in ((pd.DataFrame(), "empty"), (pd.DataFrame({"layer": [1]}), "'n'")):
        with pytest.raises(InputError, match=words):
            ReliabilityDisplay.from_table(table)
    bad = (({"head": 5}, "no head '5'"), ({"layout": "c"}, "no layout 'c'"), ({"target": 1}, "target"))
    for arguments, words in bad:
        with pytest.raises(InputError, match=words):
            ReliabilityDisplay.from_table(reliability_table(), **arguments)


# -- dependence ----------------------------------------------------------------------------------------------------
def test_dependence_is_hollow_where_nothing_is_shown():
    display = DependenceDisplay.from_table(dependence_table()).plot()
    ax = display.ax_
    marks = [c for c in ax.collections if len(c.get_offsets())]
    points = {(tuple(np.round(p, 3)), bool((c.get_facecolors()[0][:3] == 1).all()))
              for c in marks if isinstance(c, mpl.collections.PathCollection) for p in c.get_offsets()}  # fmt: skip
    assert len(points) == 6 and sum(hollow for _, hollow in points) == 2
    assert all(hollow == (y == 0) for (_, y), hollow in points)
    assert "not significant" in [t.get_text() for t in display.figure_.legends[0].get_texts()]
    assert len(ax.patches) == 6 and "n = 30 images" in ax.get_xlabel()  # the null's bars
    sure = DependenceDisplay.from_table(dependence_table(layers=(1,)), head="0").plot()
    assert "not significant" not in [t.get_text() for t in sure.figure_.legends[0].get_texts()]
    assert sure.ax_.get_title() == "head 0"
    with pytest.raises(InputError, match="no head 'x'"):
        DependenceDisplay.from_table(dependence_table(), head="x")
    for table, words in ((pd.DataFrame(), "empty"), (pd.DataFrame({"layer": [1]}), "'axis'")):
        with pytest.raises(InputError, match=words):
            DependenceDisplay.from_table(table)


# -- all -----------------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.final_figures
def test_displays_draw_into_given_axes_and_save(profile, tmp_path):
    made = {
        "heads": HeadsDisplay.from_profile(profile),
        "reliability": ReliabilityDisplay.from_table(reliability_table()),
        "dependence": DependenceDisplay.from_table(dependence_table()),
    }
    for name, display in made.items():
        figure, ax = plt.subplots()
        assert display.plot(ax) is display and display.figure_ is figure and display.ax_ is ax
        display.figure_ = None
        files = save(display, tmp_path / name, close=True)
        assert [f.suffix for f in files] == [".pdf", ".png", ".csv"]
        pdf = files[0].read_bytes()
        assert b"/Type3" not in pdf and files[2].read_text() == display.data.to_csv(index=False)


def test_heads_and_layouts_of_tables():
    table = reliability_table()
    assert rows_of_head(table.drop(columns="head"))[1] == "mean" and rows_of_head(table, 0)[1] == "0"
    assert rows_of_head(table[table["head"] == "0"])[1] == "0"
    assert rows_of_layout(table)[1] == "a" and rows_of_layout(table[table["layout"] == "b"])[1] is None


def test_attention_takes_a_profile_per_image(profile):
    other = MeanProfile().fit(simulate("bottom-heavy", {ONE: 4}, layers=1, heads=3).maps)
    rows = np.ones((3, 35)) / 35
    pixels = plt.cm.viridis(np.zeros((5, 7)), bytes=True)
    images = [Image.fromarray(pixels).convert("RGB")] * 2
    display = AttentionDisplay.from_attention(images, [ONE] * 2, [rows] * 2, profile=[profile, other], layer=0)
    for i, own in enumerate((profile, other)):
        part = display.data[display.data["image"] == i]
        np.testing.assert_allclose(part["debiased"], 1 / 35 / own.expected(ONE, 0).mean(0), rtol=1e-4)
    with pytest.raises(InputError, match="same length"):
        AttentionDisplay.from_attention(images, [ONE] * 2, [rows] * 2, profile=[profile], layer=0)
