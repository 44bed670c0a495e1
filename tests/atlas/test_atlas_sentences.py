"""The atlas in sentences: they say what their numbers allow, and no more."""

import re

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
                "probe_r_hi": 0.9, "probe_r_disattenuated": 0.9, "probe_ceiling": 0.89, "probe_q": 0.002,
                "probe_reliability": 0.8, "probe_groups": 12}  # fmt: skip
GAIN = BASE | {"auroc_raw": 0.6, "auroc": 0.65, "gain": 0.05, "gain_lo": 0.02, "gain_hi": 0.08, "gain_p": 0.01,
               "gain_n": 90, "gain_debias": "ratio"}  # fmt: skip
IMAGES = BASE | {"n_for_target": 30.0, "reliability": 0.989, "reliability_lo": 0.98, "reliability_hi": 0.995,
                 "reliability_n": 300}  # fmt: skip
NAN = float("nan")


@pytest.mark.parametrize(
    ("row", "said", "unsaid"),
    [
        (EXPLAINED, "position explains 41 % [38, 44] of the variance of log attention", "significant"),
        (EXPLAINED | {"r2": 0.01, "r2_lo": -0.02},
         "position explains no significant part of the variance of log attention on held-out images (1 % [-2, 44]",
         "position explains"),
        (EXPLAINED | {"r2": -0.1, "r2_lo": -0.2, "r2_hi": -0.05},
         "position predicts worse than uniform attention: it explains -10 % [-20, -5]", "no significant"),
        (EXPLAINED | {"r2_lo": NAN},
         "an estimated 41 % of the variance of log attention on held-out images (n = 300), which may be noise: too few",
         "["),
        (EXPLAINED | {"r2": NAN}, "the share of variance that position explains is not known.", "%"),
        (LIMIT, "in the limit of many calibration images, 45 % [40, 50].", "nothing"),
        (LIMIT | {"r2_asymptotic": 0.01, "r2_asymptotic_lo": -0.1}, "1 % [-10, 50], not significantly different from "
         "0", "below"),
        (LIMIT | {"r2_asymptotic_lo": NAN}, "45 %, without an interval", "significant"),
        (LIMIT | {"r2_asymptotic": -0.1, "r2_asymptotic_lo": -0.2, "r2_asymptotic_hi": -0.05}, ", below 0.", "not "
         "shown"),
        (IMAGES, "About 30 images [14, 56] suffice for a reliability of 0.9.", "would take"),
        (IMAGES | {"reliability_n": 40, "reliability_lo": 0.8, "reliability_hi": 0.96},
         "a reliability of 0.9 would take about 30 images [15, 90]; these are 40.", "suffice"),
        (IMAGES | {"n_for_target": 900.0, "reliability": 0.75, "reliability_lo": 0.7, "reliability_hi": 0.8},
         "would take about 900 images [675, 1,158], more than these", "suffice"),
        (IMAGES | {"n_for_target": 900.0, "reliability_lo": 5e-324, "reliability": 0.4, "reliability_hi": 0.8},
         "a reliability of 0.9 would take about 900 images [675, over 1,000,000], more than these.", "suffice"),
        (IMAGES | {"n_for_target": 1.0, "reliability_lo": 0.9999, "reliability_hi": 1.0},
         "About 1 image suffices for", "images"),
        (IMAGES | {"n_for_target": np.inf, "reliability": 0.0, "reliability_lo": -0.1, "reliability_hi": 0.1},
         "its map does not repeat significantly from image to image: reliability 0.00 [-0.10, 0.10] (n = 300)",
         "suffice"),
        (IMAGES | {"reliability_lo": -0.1}, "its map does not repeat significantly from image to image", "suffice"),
        (IMAGES | {"reliability_lo": NAN}, "whether its map repeats from image to image is not known", "suffice"),
        (DEPENDS | ENDS, "depends on the row (eta2 0.21 [0.18, 0.24], q 0.001; U-shaped", "significant"),
        (DEPENDS | ENDS | {"row_q": 0.2},
         "dependence on the row (eta2 0.21 [0.18, 0.24], q 0.2) is not significant.", "U-sh"),
        (DEPENDS | ENDS | {"row_eta2_lo": -0.01}, "dependence on the row (eta2 0.21 [-0.01, 0.24], q 0.001) is not",
         "U-sh"),
        (DEPENDS | ENDS | {"row_eta2_lo": NAN}, "whether it depends on the row (eta2 0.21, q 0.001) is not "
         "known.", "U-"),
        (DEPENDS | ENDS | {"row_q": NAN}, "whether it depends on the row (eta2 0.21 [0.18, 0.24], q not known) is not",
         "U-"),
        (DEPENDS | {"row_q": 1e-7}, "q < 0.0001; of no clear shape", "e-"),
        (DEPENDS | ENDS | {"top_lo": 0.9}, "neither a slope nor a U is significant", "U-shaped"),
        (DEPENDS | ENDS | {"row_rho": 0.8, "top_hi": 0.9, "top_lo": 0.7}, "it rises from top to bottom", "U-shaped"),
        (DEPENDS | ENDS | {"row_rho": -0.8, "bottom_hi": 0.9, "bottom_lo": 0.7}, "it falls from top to bottom", "U"),
        (DEPENDS | ENDS | {"row_rho": 0.8}, "both ends above uniform attention: rank correlation 0.80", "more to the"),
        (DEPENDS | ENDS | {"row_rho": 0.8, "bottom_lo": 1.55}, "above uniform attention, more to the bottom", "rises"),
        (DEPENDS | ENDS | {"row_rho": 0.8, "top_lo": 0.9}, "neither a slope nor a U is significant", "rises"),
        (DEPENDS | ENDS | {"row_rho": -0.8, "top_hi": 0.9, "top_lo": 0.7}, "less at the top end and more", "slope"),
        (BORDER, "The border draws 1.80 [1.60, 2.00] times as much as under uniform attention", "significant"),
        (BORDER | {"border_lo": 0.9}, "The border does not draw significantly more or less than under uniform "
                                      "attention (1.80",
         "draws 1.80"),
        (BORDER | {"border_lo": NAN}, "The border draws an estimated 1.80 times its share", "times as much"),
        (PROBE, "agrees with the causal effect of the place beyond chance (r 0.80 [0.70, 0.90]", "significantly"),
        (PROBE, "removes too little (slope 1.30 [1.10, 1.50])", "too much"),
        (PROBE | {"probe_slope_lo": 0.9},
         "removes neither significantly too much nor too little, nor is the right amount established (slope "
         "1.30 [0.90, 1.50], interval width "
         "0.60)",
         "removes about"),
        (PROBE | {"probe_slope": 1.02, "probe_slope_lo": 0.9, "probe_slope_hi": 1.1},
         "removes about the right amount (slope 1.02 [0.90, 1.10], wholly within 0.8 to 1.25)", "too"),
        (PROBE | {"probe_slope": NAN}, "does not vary over places: no comparison", "agrees"),
        (PROBE | {name: NAN for name in PROBE if name.startswith("probe_")}, "Nothing was measured", "probe"),
        (PROBE | {"probe_slope": 0.5, "probe_slope_lo": 0.3, "probe_slope_hi": 0.7}, "removes too much", "too little"),
        (PROBE | {"probe_q": 0.3}, "does not agree significantly with the causal effect", "beyond chance"),
        (PROBE | {"probe_r": -0.8, "probe_r_lo": -0.9, "probe_r_hi": -0.7}, "is opposed to the causal effect", "agree"),
        (PROBE | {"probe_r_lo": NAN, "probe_groups": 2},
         "agrees with the causal effect of the place is not known (r 0.80 without an interval, q 0.002): too few "
         "different objects (2): at least 6", "beyond chance"),
        (PROBE | {"probe_r_disattenuated": NAN, "probe_reliability": -0.1}, "own map does not repeat "
            "significantly", "beyond"),
        (PROBE | {"probe_r_disattenuated": NAN, "probe_reliability": NAN}, "place is not known (r 0.80", "beyond"),
        (GAIN, "Removal ranks the target better (+0.050 [+0.020, +0.080]; AUROC 0.600 before", "open"),
        (GAIN | {"gain_p": 0.4}, "whether removal helps is open", "ranks the target better"),
        (GAIN | {"gain_lo": -0.01}, "does not rank the target significantly better or worse", "target better ("),
        (GAIN | {"gain_p": NAN}, "Removal ranks the target better (+0.050 [+0.020, +0.080]; AUROC 0.600 before, 0.650 "
         "after, n = 90, not adjusted for the number of tests)", "open"),
        (GAIN | {"gain_hi": NAN}, "whether removal ranks the target better is not known (+0.050; AUROC", "[+"),
        (GAIN | {"gain": -0.05, "gain_lo": -0.08, "gain_hi": -0.02}, "ranks the target worse", "better"),
        (BASE | {"auroc_raw": 0.6, "auroc": 0.65, "gain": 0.05, "gain_n": 9}, "no interval of the difference", "open"),
        (BASE | {"tile_slope": -0.2, "tile_slope_lo": -0.3, "tile_slope_hi": -0.1},
         "falls from tile to tile", "significant"),
        (BASE | {"tile_slope": -0.2, "tile_slope_lo": -0.5, "tile_slope_hi": 0.1},
         "a trend from tile to tile is not significant (-0.20 [-0.50, +0.10] per tile", "falls"),
        (BASE | {"tile_slope": -0.2, "tile_slope_lo": NAN, "tile_slope_hi": NAN},
         "whether log attention has a trend from tile to tile is not known (-0.20 per tile, no interval)", "falls"),
        (BASE | {"map_sd_factor": 1.9, "top": 1.2, "border": 0.8},
         "the profile's map varies by a factor of 1.90 (one standard deviation; no interval, noise included); times "
         "uniform attention: border 0.80, top 1.20.", "draws"),
        (BASE, "Layer 3: Nothing was measured.", "not"),
    ],
)  # fmt: skip
def test_a_sentence_says_what_its_numbers_allow(row, said, unsaid):
    text = layer_sentences(row)
    assert said.lower() in text.lower() and unsaid not in text and text.startswith("Layer 3: ")
    assert not re.search(r"\b(nan|inf|None)\b", text) and " ." not in text and ".." not in text


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


def share(layer, r2, half=0.02):
    return {"layer": layer, "n": 50, "r2": r2, "r2_lo": r2 - half, "r2_hi": r2 + half}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([share(0, 0.1)], "The interval on held-out images lies above 0 in layer 0."),
        ([share(0, 0.1), share(1, 0.6)],
         "Among layers, the variance of log attention that position explains is estimated highest in layer 1 (60 % "
         "[58, 62]) and lowest in layer 0 (10 % [8, 12]). The interval on held-out images lies above 0 in both "
         "layers."),
        ([share(0, 0.1), share(1, 0.6), share(2, 0.3)], "in layer 0 (10 % [8, 12]). The interval on held-out images "
         "lies above 0 in all 3 layers."),
        ([share(0, 0.1), share(1, 0.6), share(2, 0.57)],
         "; which layer is the highest is open, as the interval of layer 2 may reach that one's. The"),
        ([share(0, 0.1), share(1, 0.6), share(2, 0.12), share(3, 0.11)],
         "; which layer is the lowest is open, as the intervals of layers 2 and 3 may reach that one's. The"),
        ([share(0, 0.1), share(1, 0.6), share(2, 0.3, NAN)],
         "highest is open, as the interval of layer 2 may reach that one's; which layer is the lowest is open, as the "
         "interval of layer 2 may reach that one's. The interval on held-out images lies above 0 in layers 0 and 1. In "
         "layer 2 the interval is not known (too few images)."),
        ([share(0, 0.1, NAN), share(1, 0.6)], "; without intervals this order may be chance."),
        ([share(0, 0.1, 0.5), share(1, 0.2, 0.5)],
         "; the two intervals overlap, so that no order of layers is claimed. In layers 0 and 1 position explains no "
         "significant part (the interval holds 0)."),
        ([share(0, -0.3), share(1, -0.2)], "In layers 0 and 1 position predicts worse than uniform attention."),
        ([{"layer": 0, "map_sd_factor": 1.2}, {"layer": 1, "map_sd_factor": 1.8}],
         "Over positions the profile's map varies most in layer 1 (by a factor of 1.80, one standard deviation) and "
         "least in layer 0 (1.20); without intervals this order may be chance."),
        ([DEPENDS | ENDS | {"layer": k, "row_q": q} for k, q in ((0, 0.01), (1, 0.01), (2, 0.01), (5, 0.5), (6, NAN))],
         "Dependence on the row is U-shaped (both ends draw more than under uniform attention) in layers 0 to 2; not "
         "significant in layer 5; not known in layer 6."),
        ([DEPENDS | {"layer": 4}], "Dependence on the row is significant, but of no clear shape, in layer "
         "4."),
        ([BORDER | {"layer": 0}, BORDER | {"layer": 1, "border_lo": 0.9}, BORDER | {"layer": 2, "border_lo": NAN}],
         "The border draws more than under uniform attention in layer 0; it does not draw significantly more or "
         "less in "
         "layer 1; it has no interval in layer 2."),
        ([BORDER | {"border": 0.5, "border_lo": 0.4, "border_hi": 0.6}], "draws less than under uniform attention in"),
        ([{"layer": k, "tile_slope": 0.1, "tile_slope_lo": lo, "tile_slope_hi": hi}
          for k, (lo, hi) in enumerate(((0.05, 0.2), (-0.3, -0.1), (-1, 1), (NAN, NAN)))],
         "Log attention rises from tile to tile in layer 0; it falls from tile to tile in layer 1; it does not "
         "rise or fall significantly over tiles in layer 2; it may rise or fall over tiles in layer 3, where no "
         "interval is known."),
        ([GAIN | {"layer": 0}, GAIN | {"layer": 1, "gain": 0.09}, GAIN | {"layer": 2, "gain_p": 0.5},
          GAIN | {"layer": 3, "gain": -0.05, "gain_lo": -0.08, "gain_hi": -0.02}, GAIN | {"layer": 4, "gain_lo": NAN}],
         "Removal (ratio) ranks the target's tokens better in layers 0 and 1 (AUROC +0.090 [+0.020, +0.080] in layer "
         "1, the largest estimate); it ranks them worse in layer 3 (AUROC -0.050 [-0.080, -0.020]); it does not "
         "rank them significantly better or worse in layer 2; it has an effect on them that is not known (no "
         "interval) in layer 4 "
         "(n = 90 expressions)."),
        ([GAIN | {"gain_p": 0.5, "gain_n": 1}],
         "Removal (ratio) does not rank the target's tokens significantly better or worse in layer 3 (n = 1 "
         "expression)."),
        ([GAIN | {"gain_p": NAN}], "not adjusted for the number of tests in layer 3."),
        ([{"layer": 0, "gain": 0.1, "auroc": 0.6, "auroc_raw": 0.5, "gain_n": 3}], "so that no gain is claimed."),
    ],
)  # fmt: skip
def test_all_layers_together(rows, said):
    text = said_of(rows)
    assert said in text and not re.search(r"\b(nan|inf|None)\b", text)


def test_nothing_is_said_of_nothing():
    assert summary_paragraphs(pd.DataFrame([{"layer": 0}]), {}) == []
    assert said_of([share(0, NAN)]) == "" and said_of([BASE], {"comparison": pd.DataFrame()}) == ""


def heads_of(intervals):
    rows = [{"layer": 0, "head": "mean", "r2": 0.5, "r2_lo": 0.4, "r2_hi": 0.6}]
    rows += [{"layer": k // 2, "head": str(k % 2), "r2": r2, "r2_lo": lo, "r2_hi": hi}
             for k, (lo, r2, hi) in enumerate(intervals)]  # fmt: skip
    return said_of([BASE], {"variance": pd.DataFrame(rows)})


@pytest.mark.parametrize(
    ("intervals", "said"),
    [
        ([(0.2, 0.3, 0.4), (-0.1, 0.02, 0.1), (0.7, 0.8, 0.9), (0.3, 0.4, 0.5)],
         "Of 4 heads the least positional by estimate are layer 0 head 1 (2 % [-10, 10]), layer 0 head 0 (30 % [20, "
         "40]) and layer 1 head 1 (40 % [30, 50]), the most layer 1 head 0 (80 % [70, 90]) (shares of variance "
         "explained; extremes of many are flattered by their choice). The interval lies above 0 in 3 and holds 0 in "
         "1 of 4 heads."),
        ([(-0.1, 0.02, 0.1), (-0.4, -0.3, -0.2), (NAN, 0.8, NAN), (0.3, 0.4, 0.5)],
         "The interval lies above 0 in 1, holds 0 in 1, lies below 0 in 1 and is not known in 1 of 4 heads."),
        ([(0.2, 0.3, 0.4), (0.1, 0.2, 0.3)], "Of 2 heads the least positional by estimate is layer 0 head 1 (20 %"),
        ([(0.2, 0.3, 0.4), (0.1, 0.2, 0.3)], "The interval lies above 0 in both heads."),
        ([(NAN, 0.3, NAN), (NAN, 0.2, NAN), (NAN, 0.1, NAN)], "The interval is not known in all 3 heads."),
    ],
)  # fmt: skip
def test_heads_are_named_with_their_intervals(intervals, said):
    assert said in heads_of(intervals)
    assert heads_of(intervals[:1]) == "" == heads_of([(NAN, NAN, NAN), intervals[0]])  # one head has no order


@pytest.mark.parametrize(
    ("intervals", "said"),
    [
        ([(-0.2, 0.1, 0.4), (0.8, 0.9, 1.0)], "by an estimated 0.10 to 0.90; the interval lies above 0 in 1 and holds "
         "0 in 1 of 2 maps."),
        ([(0.7, 0.8, 0.9), (0.8, 0.9, 1.0)], "0.80 to 0.90; the interval lies above 0 in both maps."),
        ([(0.8, 0.9, 1.0)], "by an estimated 0.90; the interval lies above 0."),
        ([(-0.8, 0.1, 0.9)], "by an estimated 0.10; the interval holds 0."),
        ([(NAN, 0.9, NAN)] * 3, "by an estimated 0.90; the interval is not known in all 3 maps."),
        ([(NAN, NAN, NAN), (0.8, 0.9, 1.0)], "0.90; the interval lies above 0 (1 without variation left out)."),
        ([(NAN, NAN, NAN)], "Control blank (removes all content): its attention, or the profile, does not vary over"),
    ],
)  # fmt: skip
def test_controls_are_told_with_their_intervals(intervals, said):
    rows = [{"control": "blank", "layer": k, "r_lo": lo, "r": r, "r_hi": hi, "removes": "all content"}
            for k, (lo, r, hi) in enumerate(intervals)]  # fmt: skip
    text = said_of([BASE], {"controls": pd.DataFrame(rows)})
    assert said in text and text.startswith("Control blank (removes all content): ") and "nan" not in text


def test_numbers_never_seem_to_touch_what_their_interval_excludes():
    assert interval_text(0.012, 0.003, 0.021) == "0.012 [0.003, 0.021]"
    assert interval_text(0.012, -0.003, 0.02) == "0.01 [0.00, 0.02]"
    assert interval_text(1.004, 1.002, 1.006, null=1) == "1.004 [1.002, 1.006]" and interval_text(np.nan) == ""
    assert interval_text(-0.001, sign=True) == "+0.00" and interval_text(2.0, 1.0, np.nan) == "2.00"
    assert percent_text({"r2": 0.004, "r2_lo": 0.001, "r2_hi": 0.008}, "r2") == "0.4 % [0.1, 0.8]"
    assert percent_text({"r2": np.nan}, "r2") == "" == interval_text(None) == interval_text(np.inf)
    assert interval_text(2, -np.inf, 3) == "2.00"
    assert layers_text([]) == "" and layers_text([4, 0, 1, 2, 7, 8]) == "layers 0 to 2, 4, 7 and 8"
    assert layers_text([3]) == "layer 3"


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
