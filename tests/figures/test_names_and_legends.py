"""Names and legends that would lie on each other, or on what is drawn."""

import pandas as pd
import pytest
from matplotlib import pyplot as plt

from biaslab.figures import AurocDisplay, FrameMassDisplay, HeadRatingDisplay, VarianceDisplay


def test_names_of_heads_that_lie_close_are_one_text():
    table = pd.DataFrame({"layer": [0, 0, 0, 3], "head": [2, 0, 1, 3], "value": [0.17, 0.12, 0.02, 1.5]})
    (panel,) = HeadRatingDisplay.from_table(table.assign(lo=table["value"], hi=table["value"])).plot().figure_.axes
    assert [text.get_text() for text in panel.texts] == ["L0h2, h0", "L0h1", "L3h3"]
    plt.close("all")


def test_the_legend_of_frames_lies_above_the_bars():
    frames = pd.DataFrame({"frame": range(4), "ratio": [1.0, 1.0, 1.0, 3.0]})
    table = pd.concat([frames.assign(layer=layer, frames=4, n=9) for layer in range(5)])
    table = table.assign(ratio_lo=table["ratio"] - 0.5, ratio_hi=table["ratio"] + 0.5)
    display = FrameMassDisplay.from_table(table).plot()
    (panel,) = display.figure_.axes
    display.figure_.canvas.draw()
    bottom = panel.get_legend().get_window_extent().y0
    assert bottom > panel.transData.transform((4, table["ratio_hi"].max()))[1]
    plt.close("all")


def test_a_legend_of_many_lines_takes_no_room_from_the_panel():
    raw = pd.DataFrame({"layer": [0, 1], "score": "raw", "auroc": [0.6, 0.7], "lo": 0.5, "hi": 0.8})
    both = pd.concat([raw, raw.assign(score="ratio", p_adjusted=0.01)])
    heights = []
    for table in (raw, both):
        display = AurocDisplay.from_table(table).plot()
        display.figure_.canvas.draw()
        (legend,) = display.figure_.legends
        heights.append((len(legend.get_texts()), display.ax_.get_window_extent().height))
        label = display.ax_.yaxis.label.get_window_extent()
        assert label.y0 >= 0 and label.y1 <= display.figure_.bbox.y1
    (few, high), (many, low) = heights
    assert few == 1 and many == 4 and low == pytest.approx(high, rel=0.02)
    plt.close("all")


def test_the_mean_is_named_where_single_heads_are_drawn_beside_it():
    table = pd.DataFrame({"layer": 0, "head": ["all", 0, 1], "r2": 0.5, "r2_lo": 0.4, "r2_hi": 0.6})
    for rows, names in ((table, ["single heads", "mean over heads"]), (table[:1], [])):
        legends = VarianceDisplay.from_table(rows).plot().figure_.legends
        assert [text.get_text() for legend in legends for text in legend.get_texts()] == names
    plt.close("all")
