"""Probe against profile: planted slopes, reliability, intervals, and a null that knows that neighbours are alike."""

from __future__ import annotations

import numpy as np
import pytest
from probes import SETTINGS, probe_of
from scipy import stats
from scipy.ndimage import gaussian_filter

from biaslab.core.layout import TokenLayout
from biaslab.diagnostics.probe import ProbeResult, compare, spectral_test
from biaslab.diagnostics.probe.comparison import profile_effects, reliability
from biaslab.errors import InputError, ProfileMismatchError
from biaslab.figures import ProbeDisplay
from biaslab.maps.base import ImageRecord
from biaslab.maps.streamed import StreamedMaps
from biaslab.profiles import MeanProfile

pytestmark = pytest.mark.slow


def field(rng, smooth, side=16):
    """A piece of a Gaussian field, so that its borders are ordinary places; mean 0, standard deviation 1."""
    values = rng.standard_normal((side + 40, side + 40))
    values = gaussian_filter(values, smooth, mode="wrap") if smooth else values
    values = values[20 : 20 + side, 20 : 20 + side]
    return (values - values.mean()) / values.std()


def maps_of(token_logs, layout, n=20, seed=0):
    """Streamed maps of layer 3 whose log attention is ``token_logs`` plus a little noise per image."""
    maps = StreamedMaps({**SETTINGS, "layers": [3], "folds": 5, "score": "attention", "prompt": "x"})
    rng = np.random.default_rng(seed)
    for i in range(n):
        values = np.exp(token_logs + rng.normal(0, 0.02, layout.n) - 6)
        maps.add(ImageRecord(f"{i}", layout, f"{i}"), values[None, None].astype(np.float32))
    return maps


# ------------------------------------------------------------------------------------------ the null
@pytest.mark.parametrize("smooth", [0, 1, 2, 4])
def test_false_alarms_of_the_null_on_correlated_fields(smooth):
    rng, n = np.random.default_rng(5 + smooth), 400
    pairs = [(field(rng, smooth), field(rng, smooth)) for _ in range(n)]
    alarms = sum(spectral_test(a, b, n_resamples=199, seed=i)[1] <= 0.05 for i, (a, b) in enumerate(pairs))
    # 99.9 % of the binomial at 5 %, and at the 6.5 % that a slope over half the image is known to reach
    assert alarms <= stats.binom.ppf(0.999, n, 0.05 if smooth < 4 else 0.065)
    assert alarms >= stats.binom.ppf(0.001, n, 0.05)  # and it is no test that never rejects
    if smooth >= 2:
        naive = sum(stats.pearsonr(a.ravel(), b.ravel())[1] <= 0.05 for a, b in pairs)
        assert naive > 0.5 * n


def test_the_null_finds_what_is_there_and_knows_its_limits():
    rng = np.random.default_rng(0)
    found = 0
    for i in range(50):
        a = field(rng, 2)
        found += spectral_test(a, 0.7 * a + 0.71 * field(rng, 2), n_resamples=199, seed=i)[1] <= 0.05
    assert found >= 40
    a, b = field(rng, 2), field(rng, 2)
    r, p = spectral_test(a, b)
    assert r == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1]) and 0.0001 <= p <= 1
    assert spectral_test(a, b) == (r, p) and spectral_test(a, a)[1] == 0.0001
    wave = np.cos(np.pi * (np.arange(16) + 0.5) / 16)[:, None] * np.ones(16)
    # one coefficient is one coincidence
    assert spectral_test(wave, 3 * wave + 1, n_resamples=99) == (pytest.approx(1), 1)
    assert np.isnan(spectral_test(a, np.ones((16, 16)))).all()
    with pytest.raises(InputError):
        spectral_test(a, b[:8])
    with pytest.raises(InputError):
        spectral_test(a, np.where(a > 1, np.nan, a))


# ------------------------------------------------------------------------------------------ reliability
def test_reliability_is_the_share_of_signal_in_the_mean():
    rng = np.random.default_rng(1)
    for groups in (6, 9):
        known = [reliability(field(rng, 1) + 1.5 * rng.standard_normal((groups, 16, 16))) for _ in range(20)]
        assert np.mean(known) == pytest.approx(1 / (1 + 1.5**2 / groups), abs=0.03)
    noise = [reliability(rng.standard_normal((8, 16, 16))) for _ in range(20)]
    assert abs(np.mean(noise)) < 0.05
    assert np.isnan(reliability(np.ones((1, 4, 4))))


# ------------------------------------------------------------------------------------------ the comparison
def test_planted_slopes_are_found_and_nothing_else():
    layout = TokenLayout.raster(16, 16, size=(224, 224), family="internvl")
    rng = np.random.default_rng(2)
    true = field(rng, 1.5)
    maps = maps_of(true.ravel(), layout)
    profile = MeanProfile().fit(maps)
    for slope in (0.0, 0.5, 1.0):
        noise = 0.6 * rng.standard_normal((10, 16, 16))
        signal = slope * true + (0.0 if slope else field(rng, 1.5))
        probe = probe_of(signal + noise, layout, 14)
        read = profile_effects(probe, profile.expected(layout, 3).double().numpy())[..., 0, 0].mean(0)
        for other in (profile, maps):
            (row,) = compare(probe, other, n_resamples=499).to_dict("records")
            assert row["groups"] == 10 and row["locations"] == 256 and row["layer"] == 3
            if slope:  # the footprint blurs the profile a little, which a steeper slope makes up for
                expected = slope * (true * read).sum() / (read**2).sum()
                assert row["slope_lo"] < expected < row["slope_hi"] and row["p"] < 0.01 and row["q"] == row["p"]
                known = slope**2 * true.var() / (slope**2 * true.var() + 0.36 / 10)
                assert row["ceiling"] == pytest.approx(np.sqrt(known), abs=0.03)
                assert row["r_disattenuated"] > 0.93 and row["r"] <= row["r_disattenuated"]
            else:
                assert row["p"] > 0.05 and abs(row["r"]) < 0.35


def test_intervals_of_the_slope_cover():
    layout = TokenLayout.raster(8, 8, size=(112, 112), family="internvl")
    rng, hits, n = np.random.default_rng(3), 0, 60
    true = field(rng, 1, side=8)
    profile = MeanProfile().fit(maps_of(true.ravel(), layout))
    for i in range(n):
        # objects differ in how strongly the place acts on them: that is what the jackknife over objects is for
        strength = rng.normal(0.8, 0.3, (8, 1, 1))
        probe = probe_of(strength * true + 0.3 * rng.standard_normal((8, 8, 8)), layout, 14, seed=i)
        read = profile_effects(probe, profile.expected(layout, 3).double().numpy())[..., 0, 0].mean(0)
        expected = 0.8 * (true * read).sum() / (read**2).sum()
        (row,) = compare(probe, profile, n_resamples=9).to_dict("records")
        hits += row["slope_lo"] <= expected <= row["slope_hi"]
    assert stats.binom.ppf(0.001, n, 0.95) <= hits


def test_the_thumbnail_is_compared_apart():
    layout = TokenLayout.tiled(1, 2, (4, 4), size=(112, 56), family="internvl", thumbnail=True)
    rng = np.random.default_rng(4)
    logs = np.where(layout.thumbnail, 0.0, rng.normal(size=layout.n))
    logs[layout.thumbnail] = np.linspace(-1, 1, 16)
    profile = MeanProfile().fit(maps_of(logs, layout))
    probe = probe_of(rng.normal(size=(4, 4, 8)), layout, 14)
    read = profile_effects(probe, profile.expected(layout, 3).double().numpy())[..., 0].mean(0)
    tiles = logs[~layout.thumbnail].reshape(2, 4, 4).transpose(1, 0, 2).reshape(4, 8)
    assert np.corrcoef(read[..., 0].ravel(), tiles.ravel())[0, 1] > 0.9
    assert (np.diff(read[..., 1].mean(1)) > 0).all()  # the thumbnail's own slope, downwards
    table = compare(probe, profile, n_resamples=99)
    assert table["region"].tolist() == ["tiles", "thumbnail"] and (table["q"] >= table["p"]).all()
    drawn = ProbeDisplay.from_probe(probe, profile=profile, region="thumbnail").plot()
    assert len(drawn.ax_) == 3 and "slope" in drawn.ax_[2].get_title()


def test_what_does_not_belong_together_is_refused():
    layout = TokenLayout.raster(4, 4, size=(56, 56), family="internvl")
    other = TokenLayout.raster(5, 5, size=(56, 56), family="internvl")
    probe = probe_of(np.random.default_rng(0).normal(size=(4, 4, 4)), layout, 14)
    with pytest.raises(ProfileMismatchError):
        compare(probe, MeanProfile().fit(maps_of(np.zeros(25), other)))
    with pytest.raises(InputError, match="not the probe's"):
        compare(probe, maps_of(np.zeros(25), other))
    maps = maps_of(np.zeros(16), layout)
    maps.settings["queries"] = "text"
    with pytest.raises(InputError, match="queries 'text'"):
        compare(probe, maps)
    with pytest.raises(ProfileMismatchError):
        compare(probe, MeanProfile().fit(maps))
    other_score = maps_of(np.zeros(16), layout)
    other_score.settings["score"] = "no_rope"
    with pytest.raises(InputError, match="score 'no_rope', the probe 'attention'"):
        compare(probe, other_score)
    with pytest.raises(ProfileMismatchError, match="score 'no_rope', not 'attention'"):
        compare(probe, MeanProfile().fit(other_score))
    profile = MeanProfile().fit(maps_of(np.zeros(16), layout))
    profile.layers_ = [1]
    with pytest.raises(InputError, match="layers"):
        compare(probe, profile)
    with pytest.raises(InputError, match="confidence"):
        compare(probe, profile, confidence=95)


def test_every_layer_is_compared_with_its_own_map():
    layout = TokenLayout.raster(8, 8, size=(112, 112), family="internvl")
    rng = np.random.default_rng(6)
    true = [field(rng, 1, side=8) for _ in range(2)]
    maps = StreamedMaps({**SETTINGS, "layers": [1, 3], "folds": 5, "score": "attention", "prompt": "x"})
    for i in range(10):
        values = np.exp(np.stack([t.ravel() for t in true]) + rng.normal(0, 0.02, (2, 64)) - 6)
        maps.add(ImageRecord(f"{i}", layout, f"{i}"), values[:, None].astype(np.float32))
    one = probe_of(true[0] + 0.2 * rng.standard_normal((6, 8, 8)), layout, 14)
    log = np.concatenate([one.log, -one.log], axis=4)  # layer 3 the other way round
    probe = ProbeResult(log, None, one.boxes, one.groups, [1, 3], ["mean"], ["tiles"], layout, SETTINGS)
    swapped = float(np.corrcoef(true[0].ravel(), true[1].ravel())[0, 1])
    for other in (maps, MeanProfile().fit(maps)):
        table = compare(probe, other, n_resamples=99).set_index("layer")
        assert table.loc[1, "r"] > 0.9 and table.loc[3, "r"] == pytest.approx(-swapped, abs=0.2)
