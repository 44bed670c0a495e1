"""Where in the image removal helps: places and gaps between them, against loops, from one run of the model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tiny
from toy_grounding import Toy

from biaslab import collect
from biaslab.diagnostics import location_gaps, location_table, removal_report
from biaslab.diagnostics.ranking import ranking_values
from biaslab.diagnostics.ranking_table import RankingValues
from biaslab.diagnostics.removal import LOCATIONS, location_of
from biaslab.errors import InputError, ProfileMismatchError
from biaslab.profiles import MeanProfile

VLM = tiny.vlm("internvl")
TOY = Toy(8)
OPTIONS = {"layers": [0, 2], "batch_size": 4, "progress": False}


@pytest.fixture(scope="module")
def profile():
    return MeanProfile().fit(collect(VLM, tiny.images(8), ids=[str(i) for i in range(8)], progress=False))


@pytest.fixture(scope="module")
def measured(profile):
    return ranking_values(VLM, TOY, profile=profile, **OPTIONS)


def made(n_images=40, seed=0, gap=(0.2, 0.05)):
    """Values of 3 expressions per image: raw and one operation, two layers, AUROC higher on the right by ``gap``."""
    rng = np.random.default_rng(seed)
    n = 3 * n_images
    centres = rng.random((n, 2))
    images = np.repeat([f"i{i}" for i in range(n_images)], 3)
    values = np.repeat(rng.normal(0.6, 0.03, n_images), 3)[:, None, None, None, None] + np.zeros((1, 2, 2, 1, 2))
    values = values + rng.normal(0, 0.02, values.shape)
    values[..., 0] += np.array(gap)[None, None, :, None] * (centres[:, 0] > 2 / 3)[:, None, None, None]
    values[rng.random(n) < 0.1] = np.nan
    failed = np.zeros(n, bool)
    return RankingValues(values, [1, 4], ["raw", "ratio"], [["mean"]] * 2, ["auroc", "kept@0.1"], np.arange(n), images,
                         centres, failed)  # fmt: skip


def test_the_model_runs_once_and_the_report_is_the_table_of_its_values(profile, measured, monkeypatch):
    forward, calls = type(VLM).forward, []
    monkeypatch.setattr(type(VLM), "forward", lambda self, *a, **k: calls.append(1) or forward(self, *a, **k))
    report = removal_report(VLM, TOY, profile, n_resamples=50, **OPTIONS)
    assert len(calls) == 2
    pd.testing.assert_frame_equal(report, location_table(measured, n_resamples=50))
    assert report.columns[0] == "location" and set(report["debias"]) == {"raw", "ratio"}
    where = [location_of(s) for s in TOY]
    for place, (axis, third) in LOCATIONS.items():
        mine = [i for i, w in enumerate(where) if w[axis] == third]
        rows = report[report["location"] == place]
        if not mine:
            assert rows.empty
            continue
        expected = np.nanmean(measured.values[mine], axis=0)
        assert rows["auroc"].to_numpy() == pytest.approx(expected[..., 0].ravel())
        assert rows["kept@0.1"].to_numpy() == pytest.approx(expected[..., 1].ravel())
        assert (rows["n"] == len(mine)).all()
    assert len(set(report["location"])) > 3


def test_one_family_over_all_places():
    table = location_table(made(gap=(0.0, 0.0)), n_resamples=20, n_sign_flips=500)
    alone = pd.concat(
        [location_table(made(gap=(0.0, 0.0)), locations=[p], n_resamples=20, n_sign_flips=500) for p in LOCATIONS]
    )
    key = ["location", "layer", "debias"]
    both = table.merge(alone[alone["location"] != "all"], on=key, suffixes=("", "_alone")).query("debias == 'ratio'")
    assert len(both) == 12 and (both["p"] == both["p_alone"]).all()
    assert (both["p_adjusted"] >= both["p_adjusted_alone"]).all()
    assert (both["p_adjusted"] > both["p_adjusted_alone"]).sum() > 6


def test_strength_and_score_reach_the_measurement(profile):
    options = {**OPTIONS, "locations": (), "n_resamples": 20}
    table = removal_report(VLM, TOY, profile, strength={0: 0.0, 2: 1.0}, **options).set_index(["layer", "debias"])
    assert table.loc[(0, "ratio"), "gain"] == pytest.approx(0, abs=1e-9) and table.loc[(0, "ratio"), "p"] > 0.99
    assert table.loc[(2, "ratio"), "gain"] != 0
    with pytest.raises(ProfileMismatchError, match="score"):
        removal_report(VLM, TOY, profile, score="value_norm", **options)
    with pytest.raises(InputError, match="unknown location 'north'"):
        removal_report(VLM, TOY, profile, locations=["north"])
    with pytest.raises(InputError, match="empty"):
        removal_report(VLM, Toy(0), profile)


def test_gaps_equal_a_loop_over_images():
    measured = made(n_images=12)
    table = location_gaps(measured, n_resamples=60).set_index(["location", "layer", "debias"])
    names = np.unique(measured.images)
    draws = np.random.default_rng(0).integers(0, len(names), (60, len(names)))
    x, y = measured.centres.T
    sides = {"right": (x >= 2 / 3, x < 1 / 3), "bottom": (y >= 2 / 3, y < 1 / 3)}
    for place, (one, other) in sides.items():
        for i, layer in enumerate((1, 4)):
            for m, prefix in enumerate(("", "kept@0.1_")):
                per_op = measured.values[:, i, :, 0, m]
                change = per_op[:, 1] - per_op[:, 0]
                columns = {("raw", "gap"): per_op[:, 0], ("ratio", "gap"): per_op[:, 1], ("ratio", "change"): change}
                for (op, name), values in columns.items():
                    gaps = []
                    for row in draws:
                        s = np.concatenate([np.flatnonzero(measured.images == names[k]) for k in row])
                        gaps.append(np.nanmean(values[s[one[s]]]) - np.nanmean(values[s[other[s]]]))
                    got = table.loc[(place, layer, op), [f"{prefix}{name}{end}" for end in ("", "_lo", "_hi")]]
                    expected = np.nanmean(values[one]) - np.nanmean(values[other])
                    np.testing.assert_allclose(got.astype(float), [expected, *np.percentile(gaps, [2.5, 97.5])])
            known = np.isfinite(measured.values[:, i, 0, 0, 0])
            row = table.loc[(place, layer, "raw")]
            assert (row["n"], row["n_against"]) == ((known & one).sum(), (known & other).sum())
            assert np.isnan(row["change"])


def test_planted_gap_and_its_removal_are_found():
    table = location_gaps(made(n_images=120), n_resamples=300).set_index(["location", "layer", "debias"])
    for layer in (1, 4):
        raw, ratio = table.loc[("right", layer, "raw")], table.loc[("right", layer, "ratio")]
        assert raw["gap_lo"] < 0.2 < raw["gap_hi"] and ratio["gap_lo"] < 0.05 < ratio["gap_hi"]
        assert ratio["change_lo"] < -0.15 < ratio["change_hi"] < 0
        assert raw["gap_hi"] - raw["gap_lo"] > ratio["change_hi"] - ratio["change_lo"]  # the change is paired
        bottom = table.loc[("bottom", layer, "raw")]
        assert abs(bottom["gap"]) < 0.05


def test_without_targets_on_a_side_there_is_no_gap(measured):
    measured = made(n_images=6)
    measured.centres[:, 0] = 0.9
    table = location_gaps(measured, n_resamples=20)
    right = table[table["location"] == "right"]
    assert right[["gap", "gap_lo", "gap_hi", "change"]].isna().all(axis=None) and (right["n_against"] == 0).all()
    assert "left" not in set(location_table(measured, n_resamples=20, n_sign_flips=50)["location"])
    only = made(n_images=6)
    only.debias[:] = ["log", "ratio"]
    assert not any("change" in c for c in location_gaps(only, n_resamples=20))
