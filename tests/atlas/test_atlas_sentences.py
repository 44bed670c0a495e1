"""The atlas in sentences: they say what their numbers allow, and no more."""

import numpy as np
import pandas as pd
import pytest
from atlases import removal_table

from biaslab._util.number_text import interval_text, percent_text
from biaslab.atlas.layer_text import layer_sentences, layers_text, shape_name
from biaslab.atlas.summary import summary_table, text_cells
from biaslab.atlas.summary_text import summary_paragraphs

BASE = {"layer": 3, "n": 300}
EXPLAINED = BASE | {"r2": 0.41, "r2_lo": 0.38, "r2_hi": 0.44}
LIMIT = EXPLAINED | {"r2_asymptotic": 0.45, "r2_asymptotic_lo": 0.4, "r2_asymptotic_hi": 0.5}
DEPENDS = BASE | {"row_eta2": 0.21, "row_eta2_lo": 0.18, "row_eta2_hi": 0.24, "row_q": 0.001, "row_rho": 0.02}
ENDS = {"top": 1.3, "top_lo": 1.1, "top_hi": 1.5, "bottom": 1.4, "bottom_lo": 1.2, "bottom_hi": 1.6}
BORDER = BASE | {"border": 1.8, "border_lo": 1.6, "border_hi": 2.0}
PROBE = BASE | {"probe_slope": 1.3, "probe_slope_lo": 1.1, "probe_slope_hi": 1.5, "probe_r": 0.8, "probe_r_lo": 0.7,
                "probe_r_hi": 0.9, "probe_r_disattenuated": 0.9, "probe_ceiling": 0.89, "probe_q": 0.002}  # fmt: skip
GAIN = BASE | {"auroc_raw": 0.6, "auroc": 0.65, "gain": 0.05, "gain_lo": 0.02, "gain_hi": 0.08, "gain_p": 0.01,
               "gain_n": 90, "gain_debias": "ratio"}  # fmt: skip
IMAGES = BASE | {"n_for_target": 12.0, "reliability_lo": 0.95, "reliability_n": 300}


@pytest.mark.parametrize(
    ("row", "said", "unsaid"),
    [
        (EXPLAINED, "position explains 41 % [38, 44] of the variance of log attention", "significant"),
        (EXPLAINED | {"r2": 0.01, "r2_lo": -0.02},
         "no significant part of the variance of log attention on held-out images is explained by position",
         "position explains"),
        (EXPLAINED | {"r2_lo": np.nan}, "41 % of the variance of log attention on held-out images (n = 300: too", "["),
        (LIMIT, "in the limit of many calibration images, 45 % [40, 50].", "nothing"),
        (LIMIT | {"r2_asymptotic": 0.01, "r2_asymptotic_lo": -0.1}, "which may be nothing", "none"),
        (IMAGES, "About 12 images suffice for a reliability of 0.9.", "would take"),
        (IMAGES | {"n_for_target": 900.0}, "would take about 900 images, more than these", "suffice"),
        (IMAGES | {"n_for_target": np.inf}, "no part of its map repeats significantly", "suffice"),
        (IMAGES | {"reliability_lo": -0.1}, "no part of its map repeats significantly", "suffice"),
        (DEPENDS | ENDS, "depends on the row (eta2 0.21 [0.18, 0.24], q 0.001; U-shaped", "significant"),
        (DEPENDS | ENDS | {"row_q": 0.2},
         "no significant dependence on the row (eta2 0.21 [0.18, 0.24], q 0.2).", "U-sh"),
        (DEPENDS | ENDS | {"row_eta2_lo": -0.01}, "no significant dependence on the row", "U-shaped"),
        (DEPENDS | ENDS | {"top_lo": 0.9}, "neither a slope nor a U is significant", "U-shaped"),
        (DEPENDS | ENDS | {"row_rho": 0.8, "top_hi": 0.9, "top_lo": 0.7}, "it rises from top to bottom", "U-shaped"),
        (DEPENDS | ENDS | {"row_rho": -0.8, "bottom_hi": 0.9, "bottom_lo": 0.7}, "it falls from top to bottom", "U"),
        (DEPENDS | ENDS | {"row_rho": 0.8}, "both ends above uniform attention, more to the bottom", "rises"),
        (BORDER, "The border draws 1.80 [1.60, 2.00] times as much as under uniform attention", "significant"),
        (BORDER | {"border_lo": 0.9}, "The border does not draw significantly more or less", "draws 1.80"),
        (PROBE, "agrees with the map beyond chance (r 0.80 [0.70, 0.90]", "does not confirm"),
        (PROBE, "removes too little (slope 1.30 [1.10, 1.50])", "too much"),
        (PROBE | {"probe_slope_lo": 0.9}, "does not remove significantly too much or too little", "removes too little"),
        (PROBE | {"probe_slope": 0.5, "probe_slope_lo": 0.3, "probe_slope_hi": 0.7}, "removes too much", "too little"),
        (PROBE | {"probe_q": 0.3}, "does not confirm the map", "beyond chance"),
        (PROBE | {"probe_r": -0.8}, "does not confirm the map", "beyond chance"),
        (PROBE | {"probe_r_disattenuated": np.nan}, "probe is not reliable here", "beyond chance"),
        (GAIN, "Removal ranks the target better (+0.050 [+0.020, +0.080]; AUROC 0.600 before", "open"),
        (GAIN | {"gain_p": 0.4}, "whether removal helps is open", "ranks the target better"),
        (GAIN | {"gain_lo": -0.01}, "does not rank the target significantly better or worse", "target better ("),
        (GAIN | {"gain": -0.05, "gain_lo": -0.08, "gain_hi": -0.02}, "ranks the target worse", "better"),
        (BASE | {"auroc_raw": 0.6, "auroc": 0.65, "gain": 0.05, "gain_n": 9}, "no interval of the difference", "bett"),
        (BASE | {"tile_slope": -0.2, "tile_slope_lo": -0.3, "tile_slope_hi": -0.1},
         "falls from tile to tile", "significant"),
        (BASE | {"tile_slope": -0.2, "tile_slope_lo": -0.5, "tile_slope_hi": 0.1},
         "the trend from tile to tile is not significant", "falls"),
    ],
)  # fmt: skip
def test_a_sentence_says_what_its_numbers_allow(row, said, unsaid):
    text = layer_sentences(row)
    assert said.lower() in text.lower() and unsaid not in text and text.startswith("Layer 3: ")
    assert "nan" not in text and "None" not in text


def test_shapes_need_the_intervals_of_the_ends():
    assert (
        shape_name({}, "row") is None
        and shape_name(DEPENDS, "row") == "other"
        and shape_name(DEPENDS | ENDS, "row") == "u"
    )
    below = {k: v - 0.9 for k, v in ENDS.items()}
    assert shape_name(DEPENDS | below, "row") == "arch"
    split = DEPENDS | ENDS | {"top_hi": 0.9, "top_lo": 0.7}
    assert shape_name(split, "row") == "last" and shape_name(split | {"row_rho": -0.9}, "row") == "last"


def said_of(rows, tables=None):
    return " ".join(summary_paragraphs(pd.DataFrame(rows), tables or {}))


def test_the_first_paragraph_claims_an_order_only_where_intervals_part():
    def row(layer, r2, half=0.02):
        return {"layer": layer, "n": 50, "r2": r2, "r2_lo": r2 - half, "r2_hi": r2 + half}

    text = said_of([row(0, 0.1), row(1, 0.6), row(2, 0.3)])
    assert "most of the variance of log attention in layer 1 (60 % [58, 62]) and least in layer 0" in text
    assert "open" not in text and "all 3 layers" in text
    text = said_of([row(0, 0.1), row(1, 0.6), row(2, 0.57)])
    assert "which layer is the first is open, as the intervals of layer 2 reach that one's" in text
    text = said_of([row(0, 0.1, 0.5), row(1, 0.2, 0.5)])
    assert (
        "no difference between layers is claimed" in text
        and "In layers 0 and 1 no significant part is explained" in text
    )
    assert "the interval does not lie above 0" in said_of([row(0, -0.3), row(1, -0.2)]) and "holds 0" not in text


def test_layers_are_grouped_by_shape_and_gain():
    rows = [DEPENDS | ENDS | {"layer": k} for k in (0, 1, 2)] + [DEPENDS | ENDS | {"layer": 5, "row_q": 0.5}]
    rows = [r | {k: v for k, v in BORDER.items() if k != "layer"} for r in rows]
    text = said_of(rows)
    assert (
        "U-shaped (both ends draw more than under uniform attention) in layers 0 to 2; not significant in layer 5"
        in text
    )
    assert "The border draws more than under uniform attention in layers 0 to 2 and 5." in text
    gains = [GAIN | {"layer": 0}, GAIN | {"layer": 1, "gain": 0.09}, GAIN | {"layer": 2, "gain_p": 0.5},
             GAIN | {"layer": 3, "gain": -0.05, "gain_lo": -0.08, "gain_hi": -0.02}]  # fmt: skip
    text = said_of(gains)
    assert "better in layers 0 and 1 (AUROC +0.090 [+0.020, +0.080] in layer 1, the most); worse in layer 3" in text
    assert "neither significantly better nor worse in layer 2 (n = 90 expressions)" in text
    assert "no gain is claimed" in said_of([{"layer": 0, "gain": 0.1, "auroc": 0.6, "auroc_raw": 0.5, "gain_n": 3}])


def test_heads_and_controls_are_named_with_their_intervals():
    heads = pd.DataFrame({"layer": [0, 0, 1, 1, 1], "head": ["mean", "0", "0", "1", "2"], "n": 9,
                          "r2": [0.5, 0.02, 0.3, 0.8, 0.4], "r2_lo": [0.4, -0.1, 0.2, 0.7, 0.3],
                          "r2_hi": [0.6, 0.1, 0.4, 0.9, 0.5]})  # fmt: skip
    text = said_of([BASE], {"variance": heads})
    assert "Of 4 heads the least positional are layer 0 head 0 (2 % [-10, 10])" in text
    assert "the most layer 1 head 1 (80 % [70, 90])" in text and "In 1 of them the interval holds 0." in text
    heads["r2_lo"], heads["r2_hi"] = [0.4, -0.1, -0.4, np.nan, 0.3], [0.6, 0.1, -0.2, np.nan, 0.5]
    text = said_of([BASE], {"variance": heads})
    assert "In 1 of them the interval holds 0, in 1 it lies below 0, in 1 it is not known." in text
    controls = pd.DataFrame({"control": ["blank"] * 2, "layer": [0, 1], "r": [0.1, 0.9], "r_lo": [-0.2, 0.8],
                             "r_hi": [0.4, 1], "removes": "all content"})  # fmt: skip
    text = said_of([BASE], {"controls": controls})
    assert "Control blank (removes all content): its map correlates with the profile by 0.10 to 0.90" in text
    assert "above 0 in 1 of 2 maps" in text
    text = said_of([BASE], {"controls": controls.assign(r=np.nan, lo=np.nan, hi=np.nan)})
    assert "its attention does not vary over positions" in text and "nan" not in text


def test_numbers_never_seem_to_touch_what_their_interval_excludes():
    assert interval_text(0.012, 0.003, 0.021) == "0.012 [0.003, 0.021]"
    assert interval_text(0.012, -0.003, 0.02) == "0.01 [0.00, 0.02]"
    assert interval_text(1.004, 1.002, 1.006, null=1) == "1.004 [1.002, 1.006]" and interval_text(np.nan) == ""
    assert interval_text(-0.001, sign=True) == "+0.00" and interval_text(2.0, 1.0, np.nan) == "2.00"
    assert percent_text({"r2": 0.004, "r2_lo": 0.001, "r2_hi": 0.008}, "r2") == "0.4 % [0.1, 0.8]"
    assert layers_text([4, 0, 1, 2, 7, 8]) == "layers 0 to 2, 4, 7 and 8" and layers_text([3]) == "layer 3"


def test_the_summary_reads_the_mean_over_heads_all_places_and_optional_columns(stored):
    variance = pd.DataFrame({"layer": 1, "head": ["all", "0"], "r2": [0.3, 0.9], "r2_lo": 0.2, "r2_hi": 0.95, "n": 7,
                             "r2_asymptotic": [0.4, 0.95], "r2_asymptotic_lo": 0.3,
                             "r2_asymptotic_hi": 0.99})  # fmt: skip
    row = summary_table({"variance": variance, "removal": removal_table()}, [1]).iloc[0]
    assert (row["r2"], row["r2_asymptotic"], row["n"]) == (0.3, 0.4, 7)
    assert (row["auroc_raw"], row["gain_lo"], row["gain_p"], row["gain_debias"]) == (0.6, 0.02, 0.01, "ratio")
    plain = summary_table({"removal": removal_table(intervals=False)}, [1])
    assert plain["gain"].iloc[0] == pytest.approx(0.05) and "gain_lo" not in plain
    written = text_cells(summary_table({"variance": variance, "removal": removal_table()}, [1]))
    assert written.iloc[0].to_dict() == {
        "layer": "1", "explained, %": "30 [20, 95]", "AUROC gain": "+0.050 [+0.020, +0.080]",
    }  # fmt: skip
