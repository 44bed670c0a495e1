"""Names and legends that would lie on each other, or on what is drawn."""

import pandas as pd
from matplotlib import pyplot as plt

from biaslab.figures import FrameMassDisplay, HeadRatingDisplay


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
