"""Diagnostics of bias: planted truths, brute force, and false alarms under smooth content."""

import inspect
import json
import warnings

import numpy as np
import pytest
from planted_maps import ONE, TILED, planted, streamed, u_shape
from scipy import stats

from biaslab.cli import main
from biaslab.core.frames import frames_layout
from biaslab.core.layout import TokenLayout
from biaslab.diagnostics import DIAGNOSTICS, control_table, diagnose, location_gaps, location_table, removal_report
from biaslab.diagnostics.log_maps import log_stacks
from biaslab.diagnostics.measures.dependence import dependence
from biaslab.diagnostics.measures.mass import attention_mass, region_mask
from biaslab.diagnostics.measures.reliability import components, reliability
from biaslab.diagnostics.measures.tile_order import tile_order
from biaslab.diagnostics.probe import ProbeDesign, compare, design_for, measure
from biaslab.diagnostics.ranking import best_heads, ranking_values, score_ranking
from biaslab.diagnostics.ranking_table import ranking_table
from biaslab.errors import InputError
from biaslab.maps.base import ImageRecord
from biaslab.maps.stored import StoredMaps
from biaslab.stats.jackknife import jackknife_interval

PADDED = TokenLayout.raster(6, 6, size=(60, 20), family="llava", region=(0.0, -1.0, 1.0, 2.0))


# -- reliability ---------------------------------------------------------------------------------------------------
def test_variance_components_equal_pairwise_products_and_leave_one_out():
    x = np.random.default_rng(0).standard_normal((7, 20)) + np.linspace(-1, 1, 20)
    x -= x.mean(1, keepdims=True)
    signal, noise = components(x)

    def brute(y):
        n = len(y)
        pairs = [(y[i] * y[j]).mean() for i in range(n) for j in range(n) if i != j]
        return np.mean(pairs), (y**2).mean() - np.mean(pairs)

    for k, y in enumerate([x, *(np.delete(x, i, 0) for i in range(7))]):
        assert (signal[k], noise[k]) == pytest.approx(brute(y))


def test_reliability_is_the_correlation_with_another_sample_of_the_same_size(tmp_path):
    bias = lambda layout: 0.05 * (layout.row - 3.5)  # noqa: E731
    table = reliability(planted(tmp_path, [(ONE, 200)], bias), sizes=[10, 40, 200], n_resamples=200)
    true = np.var(bias(ONE))
    for row in table.itertuples():
        truth = true / (true + 1 / row.n)  # content has variance 1
        assert (
            row.reliability == pytest.approx(truth, abs=0.12)
            and row.predicted_lo - 0.03 < truth < row.predicted_hi + 0.03
        )
        assert row.draw_lo <= row.reliability <= row.draw_hi
    assert table["predicted"].is_monotonic_increasing and list(table["n"]) == [10, 40, 200]
    assert table["n_for_target"].iloc[0] == pytest.approx(9 / true, rel=0.4)


def test_without_bias_reliability_is_low_and_no_number_of_images_is_enough(tmp_path):
    found = [reliability(planted(tmp_path, [(ONE, 60)], seed=s, name=str(s)), sizes=[60]).iloc[0] for s in range(6)]
    assert np.mean([f["predicted"] for f in found]) < 0.35
    assert sum(f["predicted_lo"] <= 0 for f in found) >= 5 and any(np.isinf(f["n_for_target"]) for f in found)


def test_jackknife_of_a_mean_is_students_interval():
    x = np.random.default_rng(1).standard_normal(30)
    lo, hi = jackknife_interval(x.mean(), (x.sum() - x) / 29)
    want = stats.t.interval(0.95, 29, x.mean(), stats.sem(x))
    assert (lo, hi) == pytest.approx(want)
    assert np.isnan(jackknife_interval(np.array(0.0), np.zeros(2))[0])


# -- mass ----------------------------------------------------------------------------------------------------------
def test_parts_are_the_cells_they_say():
    assert region_mask(ONE, "border").sum() == 28 and region_mask(ONE, "corners").sum() == 4
    assert set(ONE.row[region_mask(ONE, "bottom")]) == {7} and set(ONE.col[region_mask(ONE, "left")]) == {0}
    assert region_mask(ONE, "tile_border") is None and region_mask(ONE, "thumbnail") is None
    # 3 tiles of 4x4 side by side: the image is 4 x 12
    assert region_mask(TILED, "border").sum() == 28 and region_mask(TILED, "tile_border").sum() == 36
    assert region_mask(TILED, "thumbnail").sum() == 16 and not (region_mask(TILED, "top") & TILED.thumbnail).any()
    # padding above and below does not count as border
    assert set(PADDED.row[region_mask(PADDED, "top")]) == {2} and set(PADDED.row[region_mask(PADDED, "bottom")]) == {3}


def test_planted_mass_is_found_and_evenness_is_one(tmp_path):
    factor = np.log(3) * region_mask(ONE, "border")
    found = attention_mass(planted(tmp_path, [(ONE, 150)], lambda layout: factor)).set_index("region")
    drawn = 3 * 28 / (3 * 28 + 36)
    assert found.loc["border", "ratio_lo"] < drawn / (28 / 64) < found.loc["border", "ratio_hi"]
    assert found.loc["border", "area"] == pytest.approx(28 / 64) and found.loc["border", "n"] == 150
    even = attention_mass(planted(tmp_path, [(ONE, 150), (TILED, 100)], name="even")).set_index("region")
    assert set(even.index) == {"border", "top", "bottom", "left", "right", "corners", "tile_border", "thumbnail"}
    assert (even["ratio_lo"].lt(1) & even["ratio_hi"].gt(1)).sum() >= 7
    assert even.loc["thumbnail", "n"] == 100


def test_mass_and_tile_order_need_moments_only(tmp_path):
    maps = planted(tmp_path, [(TILED, 30)], heads=2)
    for run in (attention_mass, tile_order):
        a, b = run(maps), run(streamed(maps))
        np.testing.assert_allclose(a.select_dtypes("number"), b.select_dtypes("number"), rtol=1e-5)
        assert set(a["head"]) == {"0", "1"}


# -- tile order ----------------------------------------------------------------------------------------------------
def test_planted_slope_over_tiles_is_found_and_the_thumbnail_is_left_out(tmp_path):
    wide = TokenLayout.tiled(1, 6, (4, 4), size=(192, 32), family="internvl", thumbnail=True)
    bias = lambda layout: np.where(layout.thumbnail, 5.0, -0.2 * layout.tile)  # noqa: E731
    row = tile_order(planted(tmp_path, [(TILED, 60), (wide, 60), (ONE, 10)], bias)).iloc[0]
    assert row["slope_lo"] < -0.2 and row["slope_hi"] > -0.2 and abs(row["slope"] + 0.2) < 0.03 and row["n"] == 120
    assert row["per_tile"] == pytest.approx(np.exp(row["slope"])) and row["share"] > 0.9
    none = tile_order(planted(tmp_path, [(TILED, 100)], name="none")).iloc[0]
    assert none["slope_lo"] < 0 < none["slope_hi"]
    with pytest.raises(InputError, match="several tiles"):
        tile_order(planted(tmp_path, [(ONE, 10)], name="one"))


# -- dependence ----------------------------------------------------------------------------------------------------
def test_a_u_shape_is_seen_where_a_rank_correlation_is_blind(tmp_path):
    table = dependence(planted(tmp_path, [(ONE, 80)], u_shape, smooth=1.0), n_resamples=199).set_index("axis")
    truth = np.var(u_shape(ONE)) / (np.var(u_shape(ONE)) + 1)
    assert table.loc["row", "eta2_lo"] < truth < table.loc["row", "eta2_hi"]
    assert table.loc["row", "p"] == 1 / 200 and abs(table.loc["row", "rho"]) < 0.2
    assert table.loc["col", "p"] > 0.01 and abs(table.loc["col", "eta2"]) < 0.02
    slope = dependence(planted(tmp_path, [(ONE, 40)], lambda x: 0.3 * x.col, name="slope"), n_resamples=99)
    assert slope.set_index("axis").loc["col", "rho"] > 0.9


def test_eta_squared_equals_products_of_different_images_and_intervals_leave_one_out(tmp_path):
    maps = planted(tmp_path, [(ONE, 9)], u_shape)
    x = next(log_stacks(maps, 2))[1][ONE.key][1]

    def brute(y):
        rows = np.stack([y[:, ONE.row == r].mean(1) for r in range(8)], 1)
        n = len(y)
        between = np.mean([(rows[i] * rows[j]).mean() for i in range(n) for j in range(n) if i != j])
        return between / (y**2).mean()

    got = dependence(maps, n_resamples=9).iloc[0]
    assert got["eta2"] == pytest.approx(brute(x))
    lo, hi = jackknife_interval(np.array(brute(x)), np.array([brute(np.delete(x, i, 0)) for i in range(9)]))
    assert (got["eta2_lo"], got["eta2_hi"]) == pytest.approx((float(lo), float(hi)))


def test_the_null_rolls_every_map_draw_by_draw(tmp_path):
    maps = planted(tmp_path, [(ONE, 70)], u_shape)
    x = next(log_stacks(maps, 2))[1][ONE.key][1]
    assert 250 * 70 * 8 > 2**17, "more draws than are made at once"
    rng, drawn = np.random.default_rng(5), []
    for _ in range(250):
        moved = np.stack([np.roll(m.reshape(8, 8), -s, 0) for m, s in zip(x, rng.integers(0, 8, 70), strict=True)])
        rows = moved.mean(2)
        products = rows @ rows.T / 8
        drawn.append((products.sum() - np.trace(products)) / (70 * 69) / (x**2).mean())
    got = dependence(maps, n_resamples=250, seed=5).iloc[0]
    assert got["null_hi"] == pytest.approx(np.quantile(drawn, 0.95))
    assert got["p"] == (1 + sum(d >= got["eta2"] for d in drawn)) / 251


@pytest.mark.slow
def test_false_alarms_shifts_keep_the_level_and_plain_permutation_does_not_under_smooth_content(tmp_path):
    reps, alarms = 60, {"shift": 0, "permutation": 0}
    for rep in range(reps):
        maps = planted(tmp_path, [(ONE, 12)], smooth=1.5, seed=rep, name=f"m{rep}")
        for null in alarms:
            alarms[null] += int((dependence(maps, null=null, n_resamples=79, seed=rep)["p"] <= 0.05).sum())
    tests = 2 * reps  # rows and columns
    assert alarms["shift"] <= stats.binom.ppf(0.999, tests, 0.05)
    assert alarms["permutation"] > 2 * alarms["shift"] + 10


def test_q_is_benjamini_hochberg_over_layers_heads_and_axes(tmp_path):
    table = dependence(planted(tmp_path, [(ONE, 10)], heads=3, layers=(2, 5)), n_resamples=39)
    assert len(table) == 2 * 3 * 2 and set(table["null"]) == {"shift"}
    np.testing.assert_allclose(table["q"], stats.false_discovery_control(table["p"]))
    assert (table["q"] >= table["p"]).all()


def test_a_head_that_does_not_see_the_image_is_not_tested_and_changes_no_other(tmp_path):
    maps = planted(tmp_path, [(ONE, 10)], u_shape, heads=3)
    blind = StoredMaps.create(tmp_path / "blind", maps.settings)
    with blind.writing():
        for i in range(maps.n):
            values = maps.image(i, 2)
            values[0] = 0
            blind.add(maps.record(i), values[None])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tables, _ = diagnose(blind)
    table = tables["dependence"].set_index("head")
    assert table.loc["0", ["eta2", "p", "q", "rho"]].isna().all(axis=None)
    rest = table.loc[["1", "2"]]
    np.testing.assert_allclose(rest["q"], stats.false_discovery_control(rest["p"]))
    assert np.isinf(tables["reliability"].set_index("head").loc["0", "n_for_target"]).all()
    assert tables["mass"].set_index("head").loc["0", "ratio"].isna().all()


def test_attention_that_is_not_finite_is_refused_in_words(tmp_path):
    maps = planted(tmp_path, [(ONE, 5)])
    values = np.array(maps.image(2, 2))
    values[:, 3] = np.nan
    with maps.writing():
        maps.add(ImageRecord("bad", ONE, "bad"), values[None])
    _, skipped = diagnose(maps)
    assert {n for n, why in skipped.items() if "layer 2 is not finite" in why} == {"reliability", "dependence"}


def test_several_layouts_pool_and_thumbnails_are_left_out(tmp_path):
    bias = lambda layout: np.where(layout.thumbnail, 0.0, u_shape(layout))  # noqa: E731
    table = dependence(planted(tmp_path, [(ONE, 30), (TILED, 30)], bias), n_resamples=99).set_index("axis")
    assert table.loc["row", "p"] == 0.01 and table.loc["row", "n"] == 60 and table.loc["col", "p"] > 0.01


# -- all of them ---------------------------------------------------------------------------------------------------
def test_every_diagnostic_has_a_row_per_layer_and_head_and_says_why_it_cannot_run(tmp_path):
    of_frames = {name for name, diagnostic in DIAGNOSTICS.items() if diagnostic.frames}
    for layout, missing in ((frames_layout([TILED] * 2), set()), (TILED, of_frames)):
        maps = planted(tmp_path, [(layout, 12)], heads=2, layers=(1, 2), name=f"of {len(missing)}")
        tables, skipped = diagnose(maps)
        assert set(tables) == set(DIAGNOSTICS) - missing and not skipped
        for table in tables.values():
            seen = table.groupby(["layer", "head"]).size()
            assert len(seen) == 4 and seen.nunique() == 1
    tables, skipped = diagnose(streamed(maps), layers=[1])
    assert set(skipped) == {n for n, d in DIAGNOSTICS.items() if d.stored and not d.frames}
    assert "out='FOLDER'" in skipped["dependence"]
    assert set(tables["mass"]["layer"]) == {1}
    with pytest.raises(InputError, match="unknown diagnostic 'moran'"):
        diagnose(maps, names=["moran"])
    with pytest.raises(InputError, match="layers=.7"):
        diagnose(maps, layers=7)
    for bad in ({"null": "spin"}, {"n_resamples": 0}):
        with pytest.raises(InputError, match="null must be"):
            dependence(maps, **bad)
    with pytest.raises(InputError, match="n_resamples >= 1"):
        reliability(maps, sizes=[2])
    with pytest.raises(InputError, match="four images"):
        reliability(planted(tmp_path, [(ONE, 3)], name="few"))
    with pytest.raises(InputError, match="confidence"):
        attention_mass(maps, confidence=95)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one image has a slope, no interval, and nothing to warn of
        alone = tile_order(planted(tmp_path, [(TILED, 1)], name="alone")).iloc[0]
    assert np.isfinite(alone["slope"]) and np.isnan(alone["slope_lo"])


def test_heads_read_in_blocks_are_the_same(tmp_path, monkeypatch):
    maps = planted(tmp_path, [(ONE, 5)], heads=3)
    whole = {h: s[ONE.key][1] for h, s in log_stacks(maps, 2)}
    monkeypatch.setattr("biaslab.diagnostics.log_maps._BLOCK_VALUES", 5 * 64 * 2)
    parts = {h: s[ONE.key][1] for h, s in log_stacks(maps, 2)}
    assert list(parts) == ["0", "1", "2"] and all(np.array_equal(whole[h], parts[h]) for h in whole)


@pytest.mark.slow
def test_inspect_runs_all_on_a_folder_of_maps(tmp_path, capsys):
    planted(tmp_path, [(frames_layout([TILED] * 2), 12)])
    out = tmp_path / "deep" / "atlas"
    for extra in ([], ["--json"]):
        with pytest.raises(SystemExit) as end:
            main(["inspect", str(tmp_path / "maps"), "--out", str(out), *extra])
        assert not end.value.code
        text = capsys.readouterr().out
    record = json.loads(text)
    assert set(record["tables"]) == {*DIAGNOSTICS, "variance", "strength"} and record["n"] == 12
    assert "Layer 2: " in record["card"] and str(out / "card.md") in record["files"]
    for name in (*DIAGNOSTICS, "summary"):
        assert (out / "tables" / f"{name}.csv").stat().st_size
    assert isinstance(StoredMaps(tmp_path / "maps"), StoredMaps)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--estimator", "median"], "unknown profile estimator 'median'"),
        (["--images", "scenes", "--out", "x"], "none of the 6 images in the maps"),
        (["--images", "/nowhere", "--out", "x"], "no such folder"),
        (["--layers", "9"], "not [9]"),
        (["--profile", "none.safetensors"], "no profile at"),
    ],
)
def test_inspect_refuses_in_one_line(tmp_path, capsys, arguments, words):
    planted(tmp_path, [(ONE, 6)])
    with pytest.raises(SystemExit) as end:
        main(["inspect", str(tmp_path / "maps"), *arguments])
    err = capsys.readouterr().err
    assert end.value.code == 2 and words in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("function", "positional"),
    [
        *((diagnostic.run, ["maps"]) for diagnostic in DIAGNOSTICS.values()),
        (diagnose, ["maps"]),
        (score_ranking, ["vlm", "dataset"]),
        (ranking_values, ["vlm", "dataset"]),
        (best_heads, ["ranking"]),
        (ranking_table, ["values"]),
        (location_table, ["values"]),
        (location_gaps, ["values"]),
        (removal_report, ["vlm", "dataset", "profile"]),
        (control_table, ["vlm", "images", "profile"]),
        (measure, ["vlm", "design"]),
        (compare, ["probe", "other"]),
        (design_for, ["vlm"]),
        (ProbeDesign, ["grid"]),
    ],
)
def test_options_are_passed_by_name(function, positional):
    parameters = inspect.signature(function).parameters.values()
    assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == positional


def test_interval_ends_carry_the_name_of_their_value(tmp_path):
    maps = planted(tmp_path, [(TILED, 20)])
    for name, table in diagnose(maps)[0].items():
        ends = {c[:-3] for c in table if c.endswith(("_lo", "_hi"))} - {"draw", "null"}
        assert ends and ends <= set(table), name
        assert not {"lo", "hi"} & set(table), name
