"""A profile of few images is called noise, with the reliability it has where that can be computed."""

import re
from contextlib import nullcontext as nothing

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_maps import ONE, planted, u_shape

from biaslab.diagnostics.measures.reliability import reliability
from biaslab.maps.views import mean_over_heads
from biaslab.profiles import MeanProfile, variance_table
from biaslab.profiles.file import card
from biaslab.profiles.sample_size import FEW_IMAGES, few_images_text, map_reliability

NAN = float("nan")


def variance(*rows, head="all"):
    names = ["layer", "r2_asymptotic", "r2_asymptotic_lo", "r2_asymptotic_hi"]
    return pd.DataFrame([dict(zip(names, row, strict=True)) for row in rows]).assign(head=head)


ALONE = "The profile alone does not tell its reliability."
NOT_KNOWN = "Its reliability is not known."


def noise(n, unless="", end=""):
    return f"The profile rests on {n}, fewer than 20: take its map for noise{unless}. {end}"


def known(n, size):
    """Few images with a reliability that has an interval."""
    size = f"Its reliability (correlation with the map of {n} other images) is an estimated {size}."
    return noise(f"{n} images", " unless its reliability says otherwise", size)


@pytest.mark.parametrize(
    ("counts", "table", "transports", "said"),
    [
        ({}, None, False, ""),
        ({"a": 20}, None, False, ""),
        ({"a": 19}, None, False, noise("19 images", end=ALONE)),
        ({"a": 1}, variance((3, NAN, NAN, NAN)), False, noise("1 image", end=NOT_KNOWN)),
        ({"a": 1}, pd.DataFrame(columns=["layer", "r2", "n"]), False, noise("1 image", end=NOT_KNOWN)),
        ({"a": 9}, variance((3, 0.5, 0.25, 0.75)), False, known(9, "0.90 [0.75, 0.96]")),
        ({"a": 2}, variance((3, 0.5, NAN, NAN)), False,  # two images that are alike look reliable
         noise("2 images", end="Its reliability (correlation with the map of 2 other images) is an estimated 0.67, "
         "without an interval.")),
        ({"a": 9}, variance((3, 0.5, 0.25, 0.75), (4, -0.1, -0.2, 0.05), (5, NAN, NAN, NAN)), False,
         known(9, "0.00 [0.00, 0.32] in layer 4 to 0.90 [0.75, 0.96] in layer 3, not known in layer 5")),
        ({"a": 300, "b": 3}, None, False,
         f"1 of 2 layouts of the profile has fewer than 20 images (3): take its map for noise. {ALONE}"),
        ({"a": 30, "b": 3, "c": 9}, None, False,
         f"2 of 3 layouts of the profile have fewer than 20 images (3 to 9): take their maps for noise. {ALONE}"),
        ({"a": 30, "b": 3, "c": 9}, None, True, ""),
        ({"a": 9, "b": 9}, variance((3, 0.5, 0.25, 0.75)), True, known(18, "0.95 [0.86, 0.98]")),
    ],
)  # fmt: skip
def test_few_images_are_named(counts, table, transports, said):
    assert few_images_text(counts, table, transports=transports) == said and FEW_IMAGES == 20


def test_the_mean_over_heads_speaks_for_a_layer():
    table = pd.concat([variance((3, 0.5, 0.25, 0.75)), variance((3, 0.1, 0.1, 0.1), head="mean")])
    assert "0.50 [0.50, 0.50]" in few_images_text({"a": 9}, table)
    assert "0.90 [0.75, 0.96]" in few_images_text({"a": 9}, table[table["head"] == "all"])


def test_reliability_from_the_explained_share_is_that_of_the_maps_themselves(tmp_path):
    maps = mean_over_heads(planted(tmp_path, [(ONE, 12)], u_shape, heads=2, layers=(4,)))
    row = reliability(maps, n_resamples=1).query("n == 12").iloc[0]
    share = variance_table(maps)["r2_asymptotic"].iloc[0]
    assert map_reliability(share, 12) == pytest.approx(row["predicted"], abs=1e-6)
    assert 0 < row["predicted"] < 1 and map_reliability(share, 10**9) == pytest.approx(1)


value = st.one_of(st.floats(-1, 1), st.sampled_from([NAN, float("inf"), float("-inf")]))


@settings(max_examples=100, deadline=None)
@given(
    counts=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 60), max_size=4),
    rows=st.lists(st.tuples(st.integers(0, 40), value, value, value), max_size=5, unique_by=lambda row: row[0]),
    transports=st.booleans(),
)
def test_any_counts_and_shares_make_a_sentence(counts, rows, transports):
    text = few_images_text(counts, variance(*rows) if rows else None, transports=transports)
    assert not re.search(r"\b(nan|inf|None|1 images)\b|\[\s*,|  | \.|\.\.", text), text
    total = sum(counts.values())
    expected = bool(counts) and (total < 20 or (not transports and min(counts.values()) < 20))
    assert bool(text) == expected
    if text:
        assert (ALONE in text) == (not rows)
        assert (NOT_KNOWN in text) == (bool(rows) and not any(np.isfinite(row[1]) for row in rows))
        interval = any(np.isfinite(row[1:]).all() for row in rows)
        assert ("says otherwise" in text) <= interval and ("without an interval" in text) <= ("[" not in text)


@pytest.mark.parametrize("n", [1, 2, 5, 24])
def test_the_card_of_a_profile(tmp_path, n):
    maps = planted(tmp_path, [(ONE, n)], u_shape, heads=2, layers=(1, 4))
    maps.settings["revision"] = None
    with pytest.warns(UserWarning) if n == 1 else nothing():
        profile = MeanProfile().fit(maps)
    table = variance_table(maps) if n > 2 else None
    text = card(profile, diagnostics=table)
    assert ("take its map for noise" in text) == (n < 20)
    assert ("Its reliability (correlation" in text) == (2 < n < 20)
    assert f"{ONE.key} ({n} image{'s' * (n > 1)})" in text and "| revision | - |" in text
    assert not re.search(r"\b(nan|None|null)\b", text)
    missing = pd.DataFrame([{"layer": 1, "head": "all", "r2": 0.1, "r2_lo": NAN, "r2_hi": NAN, "r2_asymptotic": NAN,
                             "r2_asymptotic_lo": NAN, "r2_asymptotic_hi": NAN, "n": n}])  # fmt: skip
    row = f"| 1 | all | 0.100 | not known | not known | not known | {n} |"
    assert row in card(profile, diagnostics=missing)
