"""The probe in sentences: equivalence needs a margin, a direction an interval, and missing evidence is no evidence."""

import re
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import SETTINGS, probe_of

from biaslab.core.layout import TokenLayout
from biaslab.diagnostics.probe import ProbeDesign, compare, measure
from biaslab.diagnostics.probe.card import accuracy_text, card, location_text
from biaslab.diagnostics.probe.claims import FEWEST_OBJECTS, SLOPE_MARGIN, comparison_text, few_objects_text
from biaslab.diagnostics.probe.verdict import verdict
from biaslab.errors import InputError
from biaslab.maps.base import ImageRecord
from biaslab.maps.streamed import StreamedMaps
from biaslab.profiles import MeanProfile

NAN, INF = float("nan"), float("inf")
LINE = {"layer": 3, "head": "mean", "region": "tiles", "slope": 1.3, "slope_lo": 1.1, "slope_hi": 1.5, "r": 0.8,
        "r_lo": 0.7, "r_hi": 0.9, "reliability": 0.81, "ceiling": 0.9, "r_disattenuated": 0.889, "p": 0.001, "q": 0.002,
        "groups": 12}  # fmt: skip
RIGHT = LINE | {"slope": 1.02, "slope_lo": 0.9, "slope_hi": 1.1}
WIDE = LINE | {"slope": 1.02, "slope_lo": 0.6, "slope_hi": 1.4}
MUCH = LINE | {"slope": 0.5, "slope_lo": 0.3, "slope_hi": 0.7}
NO_SLOPE = LINE | {"slope_lo": NAN, "slope_hi": NAN}
TWO_PAIRS = NO_SLOPE | {"slope": 1.64, "r_lo": NAN, "r_hi": NAN, "groups": 2}
OPEN = LINE | {"q": 0.3}
OPPOSED = LINE | {"r": -0.8, "r_lo": -0.9, "r_hi": -0.7}
UNRELIABLE = LINE | {"reliability": -0.1, "ceiling": NAN, "r_disattenuated": NAN}
FLAT = LINE | {"slope": NAN, "slope_lo": NAN, "slope_hi": NAN, "r": NAN, "r_lo": NAN, "r_hi": NAN, "p": NAN, "q": NAN,
               "r_disattenuated": NAN}  # fmt: skip

AGREES = (
    "the profile agrees with the causal effect of the place beyond chance (r 0.80 [0.70, 0.90], at most 0.90 "
    "possible, p 0.001, q 0.002, n = 12 objects), by an estimated 79 % of the variance once the probe's noise is "
    "allowed for; dividing by it "
)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (LINE, AGREES + "removes too little (slope 1.30 [1.10, 1.50])"),
        (MUCH, AGREES + "removes too much (slope 0.50 [0.30, 0.70])"),
        (RIGHT, AGREES + "removes about the right amount (slope 1.02 [0.90, 1.10], wholly within 0.8 to 1.25)"),
        (RIGHT | {"slope_lo": 1.004},
         AGREES + "removes about the right amount, slightly too little (slope 1.020 [1.004, 1.100], wholly within 0.8 "
          "to 1.25)"),
        (RIGHT | {"slope": 0.9, "slope_lo": 0.82, "slope_hi": 0.97},
         AGREES + "removes about the right amount, slightly too much (slope 0.90 [0.82, 0.97], wholly within 0.8 to "
          "1.25)"),
        (WIDE, AGREES + "removes neither significantly too much nor too little, nor is the right amount "
                        "established (slope 1.02 [0.60, 1.40], "
         "interval width 0.80)"),
        (NO_SLOPE, AGREES.removesuffix("dividing by it ") + "whether dividing by it removes the right amount is not "
         "known (slope 1.30 without an interval): more pairs of different objects would tell"),
        (LINE | {"groups": 1, "ceiling": NAN},
         AGREES.replace("12 objects", "1 object").replace(", at most 0.90 possible", "") + "removes too little (slope "
          "1.30 [1.10, 1.50])"),
        (TWO_PAIRS, "whether the profile agrees with the causal effect of the place is not known (r 0.80 without an "
         "interval, p 0.001, q 0.002): too few different objects (2): at least 6"),
        (LINE | {"q": NAN}, "whether the profile agrees with the causal effect of the place is not known (r 0.80 "
         "[0.70, 0.90], p 0.001, q not known): more pairs of different objects would tell"),
        (LINE | {"reliability": NAN, "r_disattenuated": NAN, "groups": 1},
         "whether the profile agrees with the causal effect of the place is not known (r 0.80 [0.70, 0.90], p 0.001, q "
         "0.002): too few different objects (1): at least 6"),
        (OPEN, "the profile does not agree significantly with the causal effect of the place (r 0.80 [0.70, "
               "0.90], at most "
         "0.90 possible, p 0.001, q 0.3, n = 12 objects)"),
        (LINE | {"r_lo": -0.1}, "the profile does not agree significantly with the causal effect of the place "
                                "(r 0.80 [-0.10, "
         "0.90], at most 0.90 possible, p 0.001, q 0.002, n = 12 objects)"),
        (OPPOSED, "the profile is opposed to the causal effect of the place beyond chance (r -0.80 [-0.90, -0.70], at "
         "most 0.90 possible, p 0.001, q 0.002, n = 12 objects)"),
        (UNRELIABLE, "the probe's own map does not repeat significantly from object to object (estimated "
                     "reliability -0.10), "
         "so nothing is said of the profile: more pairs of different objects would tell"),
        (FLAT, "the profile or the probe's map does not vary over places: no comparison"),
    ],
)  # fmt: skip
def test_a_line_of_the_comparison(row, said):
    assert comparison_text(row) == said


ONE = "The profile agrees with the causal effect of the place beyond chance (q <= 0.05, interval of r above 0) in "
SHARED = (
    " There it shares an estimated 79 % of its variance with the causal map, once the probe's noise is allowed for. "
)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([LINE], ONE + "the one map compared." + SHARED + "Dividing by it would there remove too little (slope above "
         "1)."),
        ([LINE] * 2, ONE + "both maps." + SHARED + "Dividing by it would there remove too little in both (slope above "
         "1)."),
        ([RIGHT] * 3, ONE + "all 3 maps." + SHARED + "Dividing by it would there remove about the right amount in all "
         "3 (the whole interval within 0.8 to 1.25)."),
        ([RIGHT, RIGHT | {"slope_lo": 1.01}, RIGHT | {"slope_lo": 0.85, "slope_hi": 0.97}],
         ONE + "all 3 maps." + SHARED + "Dividing by it would there remove about the right amount in all 3 (the whole "
         "interval within 0.8 to 1.25, in 1 above 1 and in 1 below 1)."),
        ([WIDE], ONE + "the one map compared." + SHARED + "The amount is not significantly too much or too little, nor "
         "established to be right (the interval holds 1 but does not lie wholly within 0.8 to 1.25; interval "
         "width 0.80)."),
        ([NO_SLOPE | {"groups": 4}], ONE + "the one map compared." + SHARED + "Whether division removes the right "
         "amount is not known: too few different objects (4): at least 6."),
        ([LINE | {"layer": 1, "r_disattenuated": 0.5}, MUCH, RIGHT, WIDE, WIDE | {"slope_hi": 2.0}, NO_SLOPE, OPEN,
          OPPOSED, TWO_PAIRS, UNRELIABLE, FLAT],
         ONE + "6 of 11 maps. There it shares an estimated 25 to 79 % of its variance with the causal map, once the "
         "probe's noise is allowed for (the highest estimate is of layer 3). Dividing by it would there remove too"
         " much in 1 (slope below 1), too little in 1 (slope above 1) and about the right amount in 1 (the whole "
         "interval within 0.8 to 1.25). The amount in 2 is not significantly too much or too little, nor "
         "established to be right"
         " (the interval holds 1 but does not lie wholly within 0.8 to 1.25; interval width 0.80 to 1.40). Whether"
         " division in 1 removes the right amount is not known: more pairs of different objects would tell. In 1 "
         "of 11 maps the two are opposed beyond chance (interval of r below 0): division would add to the effect "
         "of the place. In 1 of 11 maps the two do not agree significantly: whether the profile is the model's or the "
         "images' is open. In 1 of 11 maps it is not known whether the two agree: too few different objects (2):"
         " at least 6. In 1 of 11 maps the probe's own map does not repeat significantly from object to object, so "
         "nothing is said of the profile: more pairs of different objects would tell. In 1 of 11 maps the profile "
         "or the probe's map does not vary over places."),
        ([TWO_PAIRS] * 10, "In all 10 maps it is not known whether the two agree: too few different objects (2): at "
         "least 6."),
        ([OPEN], "In the one map compared the two do not agree significantly: whether the profile is the "
                 "model's or the "
         "images' is open."),
    ],
)  # fmt: skip
def test_the_verdict_over_all_maps(rows, said):
    assert verdict(pd.DataFrame(rows)) == said


def test_the_margin_is_a_choice():
    assert SLOPE_MARGIN[0] * SLOPE_MARGIN[1] == 1  # reciprocal
    assert "about the right amount" in verdict(pd.DataFrame([WIDE]), margin=(0.5, 2))
    assert "not significantly too much" in verdict(pd.DataFrame([RIGHT]), margin=(0.95, 1.05))
    for margin in ((1.1, 1.5), (0.5, 0.9), (0.8,)):
        with pytest.raises(InputError, match="with 1 between them"):
            verdict(pd.DataFrame([LINE]), margin=margin)


FORBIDDEN = re.compile(r"\b(nan|inf|infinity|None|NaN|in 0|1 (images|objects|pairs|maps))\b|\[\s*,|  |\.\.| \.| ,")
number = st.one_of(st.floats(-3, 3), st.sampled_from([NAN, INF, -INF, 0.0, 0.8, 1.0, 1.25, None]))
ordered = st.tuples(number, number).map(lambda ends: tuple(sorted(ends)) if None not in ends else ends)


@st.composite
def lines(draw):
    row = LINE | {"layer": draw(st.integers(0, 40)), "groups": draw(st.integers(1, 24))}
    for name in draw(st.sets(st.sampled_from(["slope", "r", "reliability", "ceiling", "r_disattenuated", "p", "q"]))):
        row[name] = draw(number)
    for name in draw(st.sets(st.sampled_from(["slope", "r"]))):
        row[f"{name}_lo"], row[f"{name}_hi"] = draw(ordered)
    return row


def finite(*values):
    return all(v is not None and np.isfinite(v) for v in values)


def agrees(row):
    """By hand: whether this line may be said to agree."""
    known = finite(row["r"], row["slope"], row["r_disattenuated"], row["r_lo"], row["r_hi"], row["q"])
    return known and row["q"] <= 0.05 and row["r_lo"] > 0


@settings(max_examples=300, deadline=None)
@given(row=lines())
def test_a_line_never_claims_more_than_its_numbers(row):
    text = comparison_text(row)
    assert not FORBIDDEN.search(text), text
    known = finite(row["slope_lo"], row["slope_hi"])
    within = known and row["slope_lo"] >= 0.8 and row["slope_hi"] <= 1.25
    assert ("about the right amount" in text) == (agrees(row) and within)
    assert ("removes too little" in text) == (agrees(row) and known and not within and row["slope_lo"] > 1)
    assert ("removes too much" in text) == (agrees(row) and known and not within and row["slope_hi"] < 1)
    assert ("agrees with the causal effect of the place beyond chance" in text) == agrees(row)
    if "slightly too little" in text:
        assert row["slope_lo"] > 1
    if "slightly too much" in text:
        assert row["slope_hi"] < 1
    if "opposed" in text:
        assert row["r_hi"] < 0 and row["q"] <= 0.05


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(rows=st.lists(lines(), min_size=1, max_size=6))
def test_the_verdict_counts_every_map_once(rows):
    text = verdict(pd.DataFrame(rows))
    assert text and not FORBIDDEN.search(text), text
    agreeing = [r for r in rows if agrees(r)]
    counts = {"about the right amount": 0, "remove too much": 0, "too little": 0}
    for r in agreeing:
        if not finite(r["slope_lo"], r["slope_hi"]):
            continue
        if r["slope_lo"] >= 0.8 and r["slope_hi"] <= 1.25:
            counts["about the right amount"] += 1
        elif r["slope_lo"] > 1:
            counts["too little"] += 1
        elif r["slope_hi"] < 1:
            counts["remove too much"] += 1
    assert ("agrees with" in text) == bool(agreeing)
    claimed = text.partition("Dividing by it")[2].partition(" The amount")[0].partition("Whether")[0]
    for words, count in counts.items():
        assert (words.removeprefix("remove ") in claimed.partition(". ")[0]) == bool(count), (words, text)
    spoken = [int(k) for k in re.findall(r"In (\d+) of \d+ maps", text)]
    if agreeing and len(rows) > 1 and len(agreeing) < len(rows):
        spoken += [int(re.search(r"above 0\) in (\d+) of", text)[1])]
        assert sum(spoken) == len(rows)


# ------------------------------------------------------------------------------------------ the card
@pytest.mark.parametrize(
    ("pairs", "objects", "said"),
    [
        (6, 6, ""),
        (40, 6, ""),
        (1, 1, "a probe of 1 pair is too small for intervals over objects: show at least 6 pairs"),
        (2, 2, "a probe of 2 pairs is too small for intervals over objects: show at least 6 pairs"),
        (5, 5, "a probe of 5 pairs is so small that its intervals are very wide: show at least 6 pairs"),
        (12, 1, "a probe of 1 different object is too small for intervals over objects: give at least 6 different "
         "objects"),
        (12, 5, "a probe of 5 different objects is so small that its intervals are very wide: give at least 6 "
         "different objects"),
    ],
)  # fmt: skip
def test_too_few_objects_are_named_with_the_remedy(pairs, objects, said):
    assert few_objects_text(pairs, objects) == said and FEWEST_OBJECTS == 6


@pytest.mark.parametrize(
    ("effect", "error", "said"),
    [
        (np.log([[0.5, 2.0]]), np.full((1, 2), 0.1),
         "attention on an object varies over places by a factor of 2.00 (one standard deviation), from 0.5 of its "
         "average at row 1, column 1 to 2 at row 1, column 2; noise alone would make it vary by 1.11"),
        (np.log([[0.5], [2.0]]), np.full((2, 1), NAN), "row 2, column 1; how much of that is noise is not known from "
         "one object"),
        (np.zeros((2, 2)), np.zeros((2, 2)), "measured attention on an object is equal at every place"),
        (np.zeros((1, 1)), np.zeros((1, 1)), "there is one place only: nothing to compare"),
        (np.array([[NAN, 1.0]]), np.ones((1, 2)), "attention on an object is not a finite number at every place: not "
         "known"),
    ],
)  # fmt: skip
def test_the_map_of_a_layer_is_described_beside_its_noise(effect, error, said):
    assert said in location_text(effect, error)


ZONE = {"zone": "border", "n": 60, "acc50": 0.5, "acc50_lo": 0.4, "acc50_hi": 0.6, "minus_rest": -0.1,
        "minus_rest_lo": -0.2, "minus_rest_hi": -0.05}  # fmt: skip


@pytest.mark.parametrize(
    ("zone", "said"),
    [
        (ZONE, "border: 50 % [40, 60] of 60 answers; -10.0 [-20.0, -5.0] points against all other places, object by "
         "object"),
        (ZONE | {"n": 1, "acc50_lo": NAN, "acc50_hi": NAN, "minus_rest": NAN}, "border: 50 % of 1 answer (one object: "
         "no interval)"),
        (ZONE | {"acc50": 1.0, "acc50_lo": 1.0, "acc50_hi": 1.0, "minus_rest": 0.0, "minus_rest_lo": 0.0,
                 "minus_rest_hi": 0.0}, "border: 100 % of 60 answers (all objects alike: no interval); +0.0 points (no "
         "interval) against all other places, object by object"),
        (ZONE | {"minus_rest_lo": NAN}, "border: 50 % [40, 60] of 60 answers; -10.0 points (no interval) against all "
         "other places, object by object"),
        (ZONE | {"acc50": NAN}, "border: not known"),
    ],
)  # fmt: skip
def test_accuracy_of_a_zone(zone, said):
    assert accuracy_text(zone) == said


LAYOUT = TokenLayout.raster(4, 4, size=(56, 56), family="internvl")


def profile_of(n):
    maps = StreamedMaps({**SETTINGS, "layers": [3], "folds": 5, "score": "attention", "prompt": "x"})
    rng = np.random.default_rng(0)
    for i in range(n):
        values = np.exp(LAYOUT.row + rng.normal(0, 0.2, LAYOUT.n))
        maps.add(ImageRecord(f"{i}", LAYOUT, f"{i}"), values[None, None].astype(np.float32))
    return maps, MeanProfile().fit(maps)


@pytest.mark.parametrize("objects", [1, 2, 3, 6])
def test_a_whole_card(objects):
    rng = np.random.default_rng(objects)
    effects = np.arange(4.0)[:, None] + rng.normal(0, 0.1, (objects, 4, 4))
    described = {**SETTINGS, "prompt": "Where is the {}?", "design": {"size": [56, 56], "expression": "the {}"}}
    hits = (rng.random((objects, 4, 4, 1)) > 0.4) * 1.0
    probe = replace(probe_of(effects, LAYOUT, 14), iou=hits, settings=described)
    for n, (maps, profile) in ((2, profile_of(2)), (24, profile_of(24))):
        for other, name in ((profile, "mean"), (maps, "maps")):
            text = card(probe, compare(probe, other, n_resamples=99), other)
            assert not FORBIDDEN.search(text.replace("\n", " ").replace("  ", " ")), text
            assert f"## Against the profile ({name}, {n} images)" in text
            assert ("**A probe of" in text) == (objects < 6)
            assert ("take its map for noise" in text) == (n == 2)
            assert ("it is not known whether the two agree" in text) == (
                objects < 3
            ) or "not repeat significantly" in text
            if objects < 3:
                assert "the right amount" not in text and "beyond chance" not in text
    assert ("1 pair of object and background (1 different object)" in text) == (objects == 1)
    assert "## Against" not in card(probe, None)
    assert "## Against" not in card(probe, compare(probe, profile, n_resamples=9).iloc[:0], profile)


def test_a_small_probe_is_measured_with_a_warning(grounder):
    kw = {"grid": (1, 1), "scale": (0.2, 0.3)}
    with pytest.warns(UserWarning, match=r"a probe of 1 pair is too small .*at least 6 pairs"):
        found = measure(grounder, ProbeDesign(pairs=1, **kw), layers=[0], progress=False)
    assert "there is one place only" in card(found, None) and "1 image of 224 x 224 pixels" in card(found, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measure(grounder, ProbeDesign(pairs=6, **kw), layers=[0], progress=False)
