"""Planted bias, small: recovery, no bias invented, unseen tilings, coverage. `benchmarks/planted.py` has the table."""

import numpy as np
import pytest
from scipy import stats

from benchmarks import planted
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.maps.moments import centred_log
from biaslab.maps.simulate import BIASES, Content, planted_bias, simulate
from biaslab.profiles import make, select_estimator

SMALL = planted.tiled(1, 1, 8)
FOUR = planted.tiled(2, 2, 8)


def rows_of(rows, **wanted):
    return [r for r in rows if all(r[k] == v for k, v in wanted.items())]


# -- the simulator ---------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_content_has_the_stated_statistics_and_no_bias_of_its_own():
    layout = TokenLayout.raster(16, 16, size=(64, 64), family="x")
    bare = Content(target=0, noise=0, level=0, correlation=0.25)
    logs = bare.logs(layout, 1500, np.random.default_rng(0)).reshape(-1, 16, 16)
    assert logs.std() == pytest.approx(0.8, rel=0.03)
    four = np.mean(logs[:, :, 4:] * logs[:, :, :-4]) / logs.var()  # 4 cells are a quarter of the side
    assert four == pytest.approx(np.exp(-1), abs=0.05)
    full = centred_log(np.exp(Content().logs(layout, 3000, np.random.default_rng(1))))
    # the mean over images of each position is 0 within its error
    z = full.mean(0) / (full.std(0) / np.sqrt(3000))
    assert np.abs(z).max() < stats.norm.ppf(1 - 0.001 / 512)
    with_level = Content(amplitude=0, target=0, noise=0, level=0.7).logs(layout, 2000, np.random.default_rng(2))
    assert np.ptp(with_level, axis=1).max() < 1e-9 and with_level.std() == pytest.approx(0.7, rel=0.06)


def test_tiles_and_thumbnail_see_the_same_picture():
    still = Content(noise=0)
    logs = still.logs(FOUR, 40, np.random.default_rng(0))
    thumb = logs[:, FOUR.thumbnail].reshape(-1, 8, 8)
    raster = np.zeros((40, 16, 16))
    at = ~FOUR.thumbnail
    raster[:, FOUR.tile[at] // 2 * 8 + FOUR.row[at], FOUR.tile[at] % 2 * 8 + FOUR.col[at]] = logs[:, at]
    coarse = raster.reshape(40, 8, 2, 8, 2).mean(axis=(2, 4))
    assert np.corrcoef(coarse.ravel(), thumb.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("kind", BIASES)
def test_planted_biases_are_what_they_are_called(kind):
    bias = planted_bias(kind, FOUR, strength=0.5)
    assert abs(bias.mean()) < 1e-12
    tiles = [bias[FOUR.tile == t].reshape(8, 8) for t in range(5)]
    if kind == "none":
        assert not bias.any()
    elif kind == "u-shaped":
        assert tiles[0][0, 4] > tiles[0][4, 4] + 0.5 and np.array_equal(tiles[0], tiles[4])
        assert planted_bias(kind, planted.tiled(1, 1)).std() == pytest.approx(0.5, rel=0.05)
    elif kind == "bottom-heavy":
        assert np.corrcoef(bias, FOUR.centers[:, 1])[0, 1] == pytest.approx(1)
        assert bias[~FOUR.thumbnail].std() == pytest.approx(0.5, rel=0.02)
    else:
        assert np.all(np.diff([t.mean() for t in tiles]) > 0)
        assert np.diff([t.mean() for t in tiles]).argmax() == 3  # to the thumbnail
        first = planted_bias(kind, FOUR, trend="start")
        assert first[FOUR.tile == 0].mean() > first[FOUR.tile == 3].mean()


def test_simulated_maps_are_the_planted_bias_in_the_mean():
    made = simulate("u-shaped", [(SMALL, 150), (FOUR, 30)], layers=2, heads=3, strength=1.0)
    assert made.maps.n == 180 and made.maps.heads == 3 and made.maps.layers == [0, 1]
    m = made.maps.moments(1, SMALL.key)
    assert m.mean.sum(1) == pytest.approx(0.3, rel=0.25)
    for head in range(3):
        assert np.corrcoef(m.log_mean[head], made.truth[SMALL.key])[0, 1] > 0.97
    assert not np.allclose(m.log_mean[0], m.log_mean[1])
    again = simulate("u-shaped", [(SMALL, 150), (FOUR, 30)], layers=2, heads=3, strength=1.0)
    assert np.array_equal(again.maps.moments(1, SMALL.key).mean, m.mean)
    for arguments in ({"kind": "v"}, {"kind": "none", "trend": "up"}):
        with pytest.raises(InputError, match="choose one|must be"):
            simulate(arguments.pop("kind"), [(SMALL, 1)], **arguments)


# -- recovery --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def recovered():
    return planted.recovery(SMALL, 80, 6)


def test_every_estimator_recovers_what_it_can_express(recovered):
    for kind in ("u-shaped", "bottom-heavy"):
        for name in ("mean", "geometric", "smooth", "tile", "factorised"):
            (row,) = rows_of(recovered, kind=kind, estimator=name)
            assert row["r"] > 0.93 and row["slope"] == pytest.approx(1, abs=0.1), (kind, name)
            assert row["rmse"] < 0.4 * row["planted"], (kind, name)
    # a curve along the sequence: nearly all of a heavy bottom on one tile, nothing of a U
    (bottom,), (u,) = (rows_of(recovered, kind=k, estimator="exponential") for k in ("bottom-heavy", "u-shaped"))
    assert bottom["r"] > 0.97 and abs(u["slope"]) < 0.1 and u["rmse"] > 0.9 * u["planted"]


def test_logs_are_less_noisy_than_means_and_smoothing_helps(recovered):
    for kind in BIASES:
        mean, geometric, smooth = (
            rows_of(recovered, kind=kind, estimator=e)[0]["rmse"] for e in ("mean", "geometric", "smooth")
        )
        assert smooth <= geometric < mean


@pytest.mark.slow
def test_no_bias_is_not_invented(recovered):
    # the error is the noise of a mean of 80 images and falls with their number
    for row in rows_of(recovered, kind="none"):
        assert row["rmse"] < 0.25
    more = planted.recovery(SMALL, 720, 2, ("geometric",))
    (few,), (many,) = (rows_of(r, kind="none", estimator="geometric") for r in (recovered, more))
    assert few["rmse"] / many["rmse"] == pytest.approx(3, rel=0.25)
    found = select_estimator(simulate("none", [(SMALL, 200)], layers=3, seed=3).maps)
    assert (found.table["value_lo"] < 0.01).all()


@pytest.mark.slow
def test_false_alarms_stay_within_their_tolerance():
    for found in planted.false_alarms(SMALL, 40, 12, layers=4, heads=2):
        assert found["tests"] == 8 and found["family"] <= found["upper"] and found["single"] < 0.06


@pytest.mark.slow
def test_intervals_cover_within_the_binomial_tolerance():
    (row,) = planted.coverage(SMALL, 80, 120, cases=(("u-shaped", 0.5),))
    low, _ = planted.tolerance(0.95, 120, 0.999)
    assert row["covers_value"] >= low and row["covers_share"] >= low
    assert row["value"] == pytest.approx(row["share"], abs=0.03) and row["value"] < row["share"]


# -- other tilings ---------------------------------------------------------------------------------------------
def test_factorised_serves_tilings_that_were_not_fitted():
    rows = planted.unseen(12, 2, cells=6, kinds=(("tile-ordered", "end"), ("u-shaped", "end")))
    error = {(r["kind"], r["way"]): r["rmse"] for r in rows}
    for other in ("no correction", "tile", "1-D interpolation", "exponential"):
        assert error["tile-ordered", "factorised"] < 0.5 * error["tile-ordered", other]
    # where the order of tiles does not matter it costs nothing against `tile`
    assert error["u-shaped", "factorised"] < 1.1 * error["u-shaped", "tile"] < 0.5 * error["u-shaped", "no correction"]


def test_pictures_of_free_resolution_are_no_worse_than_averaging_their_tiles():
    # a map finer than some images must not be had by inverting the interpolation, which would grow noise
    rng = np.random.default_rng(0)
    grids = {(int(a), int(b)) for a, b in rng.integers(8, 18, (30, 2))}
    made = simulate("bottom-heavy", [(TokenLayout.raster(*g, size=(64, 64), family="qwen"), 3) for g in sorted(grids)])
    other = TokenLayout.raster(20, 9, size=(64, 64), family="qwen")
    truth = planted_bias("bottom-heavy", other)
    for name in ("factorised", "tile"):
        found = planted.log_of(make(name).fit(made.maps), other)
        assert np.corrcoef(found, truth)[0, 1] > 0.97, name


def test_bottom_heaviness_of_the_picture_is_beyond_what_transports():
    rows = planted.unseen(12, 2, cells=6, kinds=(("bottom-heavy", "end"),))
    error = {r["way"]: r["rmse"] for r in rows}
    assert error["factorised"] > 0.15  # documented: it is no function of the tile's order and the cell in it


def test_interpolation_along_the_sequence_gives_back_the_only_layout():
    made = simulate("tile-ordered", [(FOUR, 20)])
    geometric = make("geometric").fit(made.maps)
    np.testing.assert_allclose(planted.interpolated(made.maps, 0, FOUR), planted.log_of(geometric, FOUR), atol=0.05)


@pytest.mark.slow
def test_the_benchmark_reports(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(planted, "tiled", lambda r, c, cells=4, make=planted.tiled: make(r, c, 4))
    coverage, alarms, pointwise = planted.coverage, planted.false_alarms, planted.pointwise
    monkeypatch.setattr(planted, "content_variance", lambda layout: 0.8)
    monkeypatch.setattr(planted, "PLANTED", planted.PLANTED[-3:])
    monkeypatch.setattr(planted, "coverage", lambda layout, n, *rest: coverage(layout, 20, 4, block=4))
    monkeypatch.setattr(planted, "false_alarms", lambda layout, n, *rest: alarms(layout, 20, 2, 2, 2))
    monkeypatch.setattr(planted, "pointwise", lambda layout, n, *rest: pointwise(layout, 30, 2, ("mean", "tile")))
    planted.main(["--repeats", "2", "--out", str(tmp_path)])
    text = capsys.readouterr().out
    assert "factorised" in text and "Chosen by select_estimator" in text and (tmp_path / "planted.json").exists()
