"""Whatever the tables hold, missing values included, the atlas claims no more than they allow: random tables."""

import math
import re

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biaslab.atlas.layer_text import layer_sentences
from biaslab.atlas.summary import text_cells
from biaslab.atlas.summary_text import summary_paragraphs

pytestmark = pytest.mark.slow

NAN, INF = float("nan"), float("inf")
FORBIDDEN = re.compile(
    r"\b(nan|inf|infinity|None|NaN|never|in 0|(?<!layer )1 (images|expressions|heads|maps|layers))\b"
    r"|\[\s*,|  |\.\.(?!\.)| \.| ,|\(\)|layers (\d+)[ .;](?!to|and)"
)

number = st.one_of(st.floats(-2, 2), st.sampled_from([NAN, INF, -INF, 0.0, 1.0, 0.8, 1.25]))
share = st.one_of(st.floats(0, 1), st.just(NAN))
interval = st.tuples(number, number, number).map(lambda v: sorted(v) if not any(map(math.isnan, v)) else v)
count = st.integers(1, 400)


@st.composite
def rows_of_layers(draw, least=1, most=4):
    """Rows of a summary: the same columns in each, some of them left out, any value missing."""
    intervals = ["r2", "r2_asymptotic", "reliability", "row_eta2", "col_eta2", "border", "top", "bottom", "left",
                 "right", "thumbnail", "tile_slope", "probe_slope", "probe_r", "gain"]  # fmt: skip
    columns = draw(st.sets(st.sampled_from([*intervals, "map_sd_factor"])))
    rows = []
    for layer in draw(st.lists(st.integers(0, 40), min_size=least, max_size=most, unique=True)):
        row = {"layer": layer, "n": draw(count)}
        for name in columns & set(intervals):
            row[f"{name}_lo"], row[name], row[f"{name}_hi"] = draw(interval)
        if "reliability" in columns:
            needed = st.sampled_from([1.0, 2.0, 30.0, 900.0, INF, NAN])
            row |= {"reliability_n": draw(count), "n_for_target": draw(needed)}
        for axis in ("row", "col"):
            if f"{axis}_eta2" in columns:
                row |= {f"{axis}_q": draw(share), f"{axis}_rho": draw(number)}
        if {"probe_slope", "probe_r"} & columns:
            row |= {"probe_q": draw(share), "probe_reliability": draw(number), "probe_ceiling": draw(share),
                    "probe_r_disattenuated": draw(number), "probe_groups": draw(st.integers(1, 24))}  # fmt: skip
        if "gain" in columns:
            row |= {"auroc_raw": draw(share), "auroc": draw(share), "gain_p": draw(share), "gain_n": draw(count),
                    "gain_debias": "ratio"}  # fmt: skip
        if "map_sd_factor" in columns:
            row["map_sd_factor"] = draw(number)
        rows.append(row)
    return rows


def excludes(row, name, null):
    """By hand: 1, -1, or 0 where the interval shows no side."""
    lo, hi = row.get(f"{name}_lo", NAN), row.get(f"{name}_hi", NAN)
    return 0 if not (math.isfinite(lo) and math.isfinite(hi)) else (lo > null) - (hi < null)


def finite(row, *names):
    return all(math.isfinite(row.get(name, NAN)) for name in names)


def shown(row, axis):
    return (
        finite(row, f"{axis}_eta2") and excludes(row, f"{axis}_eta2", 0) > 0 and row[f"{axis}_q"] <= 0.05
    )  # a missing q is not <= 0.05


@settings(max_examples=400, deadline=None)
@given(rows=rows_of_layers(most=1))
def test_a_layer_is_told_within_its_numbers(rows):
    (row,) = rows
    text = layer_sentences(row)
    assert not FORBIDDEN.search(text), text
    # explained
    claimed = re.search(r"Position explains (?!an estimated|no significant)", text)
    assert bool(claimed) == (finite(row, "r2") and excludes(row, "r2", 0) > 0)
    assert ("predicts worse" in text) == (finite(row, "r2") and excludes(row, "r2", 0) < 0)
    if "suffice" in text:
        assert row["reliability_lo"] >= 0.9 - 1e-6 or row["reliability_n"] >= 0.999 * 9 * row["reliability_n"] * (
            1 / row["reliability_lo"] - 1
        )
    if "more than these" in text:
        assert excludes(row, "reliability", 0) > 0 and row["reliability_hi"] < 0.9
    # shape
    axes = {"row": "the row", "col": "the column"}
    dependence = re.search(r"Attention depends on .*?\.(?= [A-Z]|$)", text) or [""]
    claimed = dependence[0].partition("; dependence on")[0].partition("; whether")[0]
    for axis, words in axes.items():
        assert (words in claimed) == shown(row, axis)
    for (first, last), axis in ((("top", "bottom"), "row"), (("left", "right"), "col")):
        if f"it falls from {first} to {last}" in text:
            assert shown(row, axis) and row[f"{first}_lo"] > row[f"{last}_hi"] and row[f"{axis}_rho"] < 0
        if f"it rises from {first} to {last}" in text:
            assert shown(row, axis) and row[f"{first}_hi"] < row[f"{last}_lo"] and row[f"{axis}_rho"] > 0
        if f"more to the {last}" in text:
            assert row[f"{last}_lo"] > row[f"{first}_hi"]
        if f"more to the {first}" in text:
            assert row[f"{first}_lo"] > row[f"{last}_hi"]
    # sides
    for region in ("border", "thumbnail"):
        claimed = re.search(rf"The {region} draws (?!an estimated)", text)
        assert bool(claimed) == (finite(row, region) and excludes(row, region, 1) != 0)
    slope = excludes(row, "tile_slope", 0) if finite(row, "tile_slope") else 0
    assert ("Log attention rises" in text) == (slope > 0) and ("Log attention falls" in text) == (slope < 0)
    # probe
    known = finite(row, "probe_slope", "probe_r", "probe_r_disattenuated", "probe_q")
    agrees = known and excludes(row, "probe_r", 0) > 0 and row["probe_q"] <= 0.05
    assert ("agrees with the causal effect of the place beyond chance" in text) == agrees
    within = finite(row, "probe_slope_lo", "probe_slope_hi") and row["probe_slope_lo"] >= 0.8
    within = within and row["probe_slope_hi"] <= 1.25
    side = excludes(row, "probe_slope", 1)
    assert ("removes about the right amount" in text) == bool(agrees and within)
    assert ("removes too little" in text) == bool(agrees and side > 0 and not within)
    assert ("removes too much" in text) == bool(agrees and side < 0 and not within)
    # removal
    side = excludes(row, "gain", 0) if finite(row, "gain") and not row["gain_p"] > 0.05 else 0
    assert ("Removal ranks the target better" in text) == (side > 0)
    assert ("Removal ranks the target worse" in text) == (side < 0)


@settings(max_examples=200, deadline=None)
@given(rows=rows_of_layers())
def test_all_layers_are_told_within_their_numbers(rows):
    text = " ".join(summary_paragraphs(pd.DataFrame(rows), {}))
    assert not FORBIDDEN.search(text), text
    assert ("above 0 in" in text) == any(finite(r, "r2") and excludes(r, "r2", 0) > 0 for r in rows)
    if "estimated highest" in text and not re.search("without intervals|no order of layers", text):
        measured = [r for r in rows if finite(r, "r2")]
        # of layers of one value the first is named
        top, least = (best(measured, key=lambda r: r["r2"]) for best in (max, min))
        assert top["r2_lo"] > least["r2_hi"]
        if "the highest is open" not in text:
            assert all(r["r2_hi"] < top["r2_lo"] for r in measured if r is not top)
        if "the lowest is open" not in text:
            assert all(r["r2_lo"] > least["r2_hi"] for r in measured if r is not least)
    for region in ("border", "thumbnail"):
        sides = {excludes(r, region, 1) for r in rows if finite(r, region)}
        (said,) = re.findall(rf"The {region} .*?\.(?= [A-Z]|$)", text) or [""]
        assert ("draws more than" in said) == (1 in sides) and ("draws less than" in said) == (-1 in sides)
    (said,) = re.findall(r"Log attention .*?\.(?= [A-Z]|$)", text) or [""]
    sides = {excludes(r, "tile_slope", 0) for r in rows if finite(r, "tile_slope")}
    assert ("rises from tile" in said) == (1 in sides) and ("falls from tile" in said) == (-1 in sides)
    (said,) = re.findall(r"Removal .*", text) or [""]
    sides = {excludes(r, "gain", 0) for r in rows if finite(r, "gain") and not r["gain_p"] > 0.05}
    assert ("better in layer" in re.sub("not rank .*? significantly better", "", said)) >= (1 in sides)
    assert bool(re.search(r"ranks (the target's tokens|them) better", said)) == (1 in sides)
    assert bool(re.search(r"ranks (the target's tokens|them) worse", said)) == (-1 in sides)
    cells = text_cells(pd.DataFrame(rows)).to_numpy().ravel()
    assert not any(re.search("nan|inf|never|None", cell) for cell in cells)


@settings(max_examples=150, deadline=None)
@given(intervals=st.lists(interval, min_size=1, max_size=6), control=st.booleans())
def test_heads_and_controls_are_counted_within_their_numbers(intervals, control):
    name = "r" if control else "r2"
    rows = [{"layer": k // 2, "head": str(k % 2), f"{name}_lo": lo, name: v, f"{name}_hi": hi, "control": "blank"}
            for k, (lo, v, hi) in enumerate(intervals)]  # fmt: skip
    tables = {"controls" if control else "variance": pd.DataFrame(rows)}
    text = " ".join(summary_paragraphs(pd.DataFrame([{"layer": 0}]), tables))
    assert not FORBIDDEN.search(text), text
    known = [r for r in rows if finite(r, name)]
    if len(known) < 2 and not control:
        assert text == ""
    elif known:
        sides = [excludes(r, name, 0) for r in known]
        assert ("lies above 0" in text) == (1 in sides) and ("lies below 0" in text) == (-1 in sides)
