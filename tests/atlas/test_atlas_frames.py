"""The atlas of maps of several frames: table, sentence, figure; without frames nothing of it."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from planted_maps import planted

from biaslab.atlas import BiasAtlas
from biaslab.core.frames import frames_layout
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.figures import FrameMassDisplay, HeadsDisplay, ProfileDisplay
from biaslab.maps.simulate import simulate

pytestmark = pytest.mark.slow

mpl.use("Agg")

ONE = TokenLayout.raster(4, 5, size=(50, 40), family="internvl")
VIDEO = {n: frames_layout([ONE] * n) for n in (3, 10)}


@pytest.fixture(scope="module")
def maps():
    return simulate("bottom-heavy", {VIDEO[3]: 40, VIDEO[10]: 30}, layers=2, heads=2, frames=2.0).maps


@pytest.fixture(scope="module")
def atlas(maps):
    return BiasAtlas.from_maps(maps, estimator="factorised")


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_tables_sentences_and_figures_tell_of_frames(atlas, tmp_path):
    assert {"frame_order", "frame_mass"} <= set(atlas.tables)
    summary = atlas.summary()
    assert (summary["frame_slope_lo"] > 0).all()
    files = {path.name for path in atlas.save(tmp_path)}
    assert {"frame_mass.csv", "frame_order.csv", "frames.pdf"} <= files
    above, below = (tmp_path / "tables" / "summary.tex").read_text().split("\\toprule\n")[1].splitlines()[:2]
    assert above.endswith(r"& frames' \\") and below.endswith(r"& slope \\")
    text = (tmp_path / "card.md").read_text()
    assert "Log attention rises from the first frame to the last in layers 0 and 1." in text
    assert "Prompts of several frames count as one image each" in text


def test_the_most_attended_tokens_are_told_of_stored_maps(tmp_path):
    bias = lambda layout: 2.0 * (layout.frame == layout.n_frames - 1)  # noqa: E731
    atlas = BiasAtlas.from_maps(planted(tmp_path, [(VIDEO[10], 24), (VIDEO[3], 12)], bias), estimator="factorised")
    row = atlas.tables["frame_top"].query("frames == 10 and end == 'last'").iloc[0]
    assert atlas.summary()["frame_last"].tolist() == [row["share"]]  # of the number of frames that most videos have
    share, lo, hi = (round(100 * row[f"share{end}"]) for end in ("", "_lo", "_hi"))
    said = f"Of the tenth of the tokens that draw most, {share} % [{lo}, {hi}] lie in the last frame and "
    assert said in atlas.card() and "(evenly spread: 10 %)" in atlas.card()


def test_the_figure_draws_what_the_table_says(atlas):
    table = atlas.tables["frame_mass"]
    display = FrameMassDisplay.from_table(table, frames=10).plot()
    (panel,) = display.figure_.axes
    for layer, line in zip((0, 1), panel.containers, strict=True):
        rows = table[(table["layer"] == layer) & (table["frames"] == 10) & (table["head"] == "mean")]
        np.testing.assert_allclose(line[0].get_ydata(), rows["ratio"])
    assert FrameMassDisplay.from_table(table).data["frames"].unique().tolist() == [3]
    with pytest.raises(InputError, match=r"no videos of 4 frames: choose one of \[3, 10\]"):
        FrameMassDisplay.from_table(table, frames=4)
    with pytest.raises(InputError, match="no column 'ratio_hi'"):
        FrameMassDisplay.from_table(table.drop(columns="ratio_hi"))


def test_a_profile_draws_its_frames_in_reading_order(atlas):
    display = ProfileDisplay.from_profile(atlas.profile, layers=[0], layout=VIDEO[10])
    data = display.data
    assert (data["row"].max() + 1, data["col"].max() + 1) == (3 * 4, 4 * 5)
    assert not data.duplicated(["row", "col"]).any()
    fifth = data.iloc[4 * ONE.n]  # begins the second row of frames
    assert (fifth["row"], fifth["col"]) == (4, 0)
    display.plot()
    HeadsDisplay.from_profile(atlas.heads, layers=[0]).plot()


def test_single_images_have_nothing_of_it():
    atlas = BiasAtlas.from_maps(simulate("none", {ONE: 12}).maps)
    named = {*atlas.tables, *atlas.skipped, *atlas.summary()}
    assert not [name for name in named if "frame" in name]
