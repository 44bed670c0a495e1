"""What every profile estimator must do, and what each new one claims."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

from biaslab import profiles
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, ProfileMismatchError
from biaslab.maps.base import ImageRecord
from biaslab.maps.moments import centred_log
from biaslab.maps.streamed import StreamedMaps
from biaslab.profiles import (
    ESTIMATORS,
    ExponentialProfile,
    FactorisedProfile,
    GeometricProfile,
    SmoothProfile,
    variance_explained,
)
from biaslab.profiles.estimators.trend import Trend, choose_trend
from biaslab.profiles.parts import logs, merged, parts_of
from biaslab.profiles.registry import positional_names

ONE = TokenLayout.raster(4, 4, size=(64, 64), family="internvl")
ROTARY = {"inv_freq": [1.0, 0.1, 0.01, 0.001], "axes": None, "head_dim": 8, "scaling": 0.35, "attention_scaling": 1.0}
SETTINGS = {
    "model": "tiny", "family": "internvl", "queries": "last", "heads": "all", "layers": [1, 3], "folds": 4,
    "rotary": ROTARY,
}  # fmt: skip
EVERY = pytest.mark.parametrize("name", positional_names())
TRANSPORTING = [n for n in positional_names() if "layout" in ESTIMATORS[n].transports]


def tiled(rows, cols, grid=(4, 4)):
    return TokenLayout.tiled(
        rows, cols, grid, size=(64 * cols, 64 * rows), family="internvl", thumbnail=rows * cols > 1
    )


TWO = tiled(1, 2)


def make_maps(images=((ONE, 12), (TWO, 9)), log_bias=None, noise=0.5, heads=2, seed=0, order=None):
    """Maps of two layers whose log attention is the bias plus noise, and (n, L, H, N) attention of every layout."""
    rng = np.random.default_rng(seed)
    maps, raw, records = StreamedMaps(SETTINGS), {}, []
    for layout, n in images:
        bias = layout.centers[:, 1] if log_bias is None else log_bias(layout)
        level = 0.3 * rng.standard_normal((n, 1, 1, 1))
        shape = (n, 2, heads, layout.n)
        x = np.exp(level + bias + noise * rng.standard_normal(shape)) / 400
        raw[layout.key] = x.astype(np.float32)
        names = [ImageRecord(f"{layout.key}-{i}", layout, str(i), 10 + i % 3) for i in range(n)]
        records += zip(names, raw[layout.key], strict=True)
    for i in range(len(records)) if order is None else np.random.default_rng(order).permutation(len(records)):
        maps.add(*records[i])
    return maps, raw


def log_of(profile, layout, layer=1):
    values = profile.expected(layout, layer).double().log().numpy()
    return values - values.mean(axis=1, keepdims=True)


@EVERY
def test_contract(name, tmp_path):
    maps, _ = make_maps()
    made = profiles.make(name)
    copy = clone(made.fit(maps))
    assert not hasattr(copy, "arrays_") and copy.get_params() == made.get_params()
    assert made.fit(maps) is made
    for layout in maps.layouts.values():
        values = made.expected(layout, 3)
        assert values.shape == (2, layout.n) and (values > 0).all() and values.isfinite().all()
        assert made.std(layout, 3).isfinite().all() and (made.std(layout, 3) > 0).all()
    loaded = profiles.load(made.save(tmp_path / "p"))
    assert loaded.hash == made.hash
    for layout in maps.layouts.values():
        assert torch.equal(loaded.expected(layout, 3), made.expected(layout, 3))
        assert torch.equal(loaded.std(layout, 3), made.std(layout, 3))


@EVERY
def test_predict_and_score(name):
    maps, _ = make_maps()
    other, raw = make_maps(seed=1)
    profile = profiles.make(name).fit(maps)
    for layout in maps.layouts.values():
        assert np.array_equal(profile.predict(layout, 3), profile.expected(layout, 3).numpy())
    total = residual = 0.0  # slow reference, over images
    for key, x in raw.items():
        predicted = centred_log(profile.predict(other.layouts[key], 3))
        for image in x[:, 1]:
            total += (centred_log(image) ** 2).sum()
            residual += ((centred_log(image) - predicted) ** 2).sum()
    assert profile.score(other, layers=[3]) == pytest.approx(1 - residual / total, rel=1e-4)
    assert profile.score(other) < profile.score(maps) < 1 or name in ("exponential", "rope")
    with pytest.raises(InputError, match="which layer"):
        profile.predict(ONE)
    assert profile.fit(maps, layers=[3]).predict(ONE).shape == (2, 16)
    with pytest.raises(InputError, match="none is in both"):
        profile.score(StreamedMaps({**SETTINGS, "layers": [7]}))


@EVERY
def test_order_of_images_does_not_matter(name):
    one, other = (profiles.make(name).fit(make_maps(order=seed)[0]) for seed in (1, 2))
    for layout in (ONE, tiled(1, 2)):
        np.testing.assert_allclose(one.expected(layout, 1), other.expected(layout, 1), rtol=1e-4)


@EVERY
def test_layouts_that_were_not_fitted(name):
    profile = profiles.make(name).fit(make_maps()[0])
    other = tiled(2, 2)
    if name not in TRANSPORTING:
        with pytest.raises(ProfileMismatchError, match="not 'internvl/4x4/tiles2x2"):
            profile.expected(other, 1)
        return
    for layout in (other, tiled(3, 4), tiled(1, 3, (6, 5)), TokenLayout.raster(40, 40, size=(9, 9), family="internvl")):
        values = profile.expected(layout, 1)
        assert values.shape == (2, layout.n) and (values > 0).all() and values.isfinite().all()
    with pytest.raises(ProfileMismatchError, match="family"):
        profile.expected(TokenLayout.raster(4, 4, size=(9, 9), family="llava"), 1)


@EVERY
def test_log_map_is_centred_and_agrees_with_what_is_fitted(name):
    maps, _ = make_maps(noise=0.05)  # hardly any spread: the mean and the mean of logs tell the same
    parts = logs(parts_of(maps, 1, pieces=True))
    profile = profiles.make(name).fit(maps)
    for layout in maps.layouts.values():
        found = profiles.make(name).log_map(parts, layout)
        np.testing.assert_allclose(found.mean(axis=1), 0, atol=1e-9)
        np.testing.assert_allclose(found, log_of(profile, layout), atol=0.05)


@pytest.mark.parametrize("name", ["geometric", "factorised", "smooth", "exponential", "rope"])
def test_expected_sums_to_the_mass_of_each_layout(name):
    maps, raw = make_maps()
    profile = profiles.make(name).fit(maps)
    for key, x in raw.items():
        total = profile.expected(maps.layouts[key], 3).double().sum(1)
        np.testing.assert_allclose(total, x[:, 1].astype(float).sum(-1).mean(0), rtol=1e-5)
    if name in TRANSPORTING:  # an unseen layout gets the mean mass of the images
        masses = np.concatenate([x[:, 1].astype(float).sum(-1) for x in raw.values()])
        np.testing.assert_allclose(profile.expected(tiled(2, 2), 3).double().sum(1), masses.mean(0), rtol=1e-5)


def test_geometric_is_the_mean_of_logs_and_measures_each_position():
    maps, raw = make_maps()
    profile = GeometricProfile().fit(maps)
    for key, x in raw.items():
        np.testing.assert_allclose(log_of(profile, maps.layouts[key]), centred_log(x[:, 0]).mean(0), atol=1e-5)
        np.testing.assert_allclose(profile.std(maps.layouts[key], 1), x[:, 0].astype(float).std(0), rtol=1e-4)


def test_exponential_finds_its_constant_over_layouts_and_counts_newlines():
    newlines = TokenLayout.unpadded(
        (1, 1), (4, 4), size=(9, 9), family="internvl", window=(0, 4, 0, 4), thumbnail_grid=(2, 2)
    )

    def recency(layout):
        return 0.03 * layout.placeholder_index

    maps, _ = make_maps([(ONE, 9), (tiled(1, 3), 9), (newlines, 9)], recency, noise=0)
    profile = ExponentialProfile().fit(maps)
    np.testing.assert_allclose(profile.arrays_[1]["curve"]["c"], 0.03, rtol=1e-4)
    far = tiled(3, 3)
    np.testing.assert_allclose(log_of(profile, far)[0], recency(far) - recency(far).mean(), atol=1e-3)
    ring = make_maps([(ONE, 9)], lambda x: 2.0 * np.isin(x.row, (0, 3)), noise=0)[0]
    assert np.abs(log_of(ExponentialProfile().fit(ring), ONE)).max() < 1e-4  # blind to what is symmetric


def test_smooth_takes_noise_off_and_keeps_the_map():
    layout = TokenLayout.raster(12, 12, size=(64, 64), family="internvl")

    def ramp(x):
        return np.cos(3 * x.centers[:, 1]) + x.centers[:, 0]

    truth = ramp(layout) - ramp(layout).mean()
    maps, _ = make_maps([(layout, 24)], ramp, noise=1.0)
    errors = {}
    for estimator in (SmoothProfile(strength=0), SmoothProfile(), SmoothProfile(strength=1e9), GeometricProfile()):
        errors[str(estimator)] = np.sqrt(np.mean((log_of(estimator.fit(maps), layout) - truth) ** 2))
    none, chosen, flat, geometric = errors.values()
    assert none == pytest.approx(geometric, rel=1e-5)
    assert chosen < 0.6 * none and flat == pytest.approx(truth.std(), rel=0.01)
    # the noise seen so far and smoothness by folds and by generalised cross-validation agree where noise is white
    parts = logs(parts_of(maps, 1, pieces=True))
    known, unknown = (SmoothProfile()._strength(p) for p in (parts, [x._replace(pieces=()) for x in parts]))
    assert known > 0 and unknown > 0 and 0.01 < known / unknown < 100


def test_smooth_keeps_tiles_apart_and_takes_cells_that_are_missing():
    two = tiled(1, 2)
    maps, _ = make_maps([(two, 12)], lambda x: 3.0 * (x.tile == 1), noise=0.1)
    got = log_of(SmoothProfile(strength=1e6).fit(maps), two)[0]
    np.testing.assert_allclose(got[two.tile == 1].mean() - got[two.tile == 0].mean(), 3.0, atol=0.1)
    cut = TokenLayout.unpadded(
        (2, 1), (6, 6), size=(60, 90), family="internvl", window=(2, 10, 0, 6), thumbnail_grid=(3, 3)
    )
    maps, _ = make_maps([(cut, 12)], lambda x: 0.3 * x.row, noise=0.0)
    np.testing.assert_allclose(
        log_of(SmoothProfile(strength=1e-2).fit(maps), cut)[0], 0.3 * (cut.row - cut.row.mean()), atol=0.05
    )


def additive(order, offset=1.0):
    """A bias that the factorised profile expresses exactly."""

    def bias(layout):
        tiles = layout.tile.max() + 1 - layout.thumbnail.any()
        place = {"start": layout.tile, "end": tiles - 1 - layout.tile, "relative": 4 * (layout.tile + 0.5) / tiles}
        inside = 0.2 * (layout.row - 1.5) - 0.1 * layout.col
        own = np.where(layout.row == layout.col, 0.5, 0.0)
        return np.where(layout.thumbnail, offset + own, inside + 0.3 * place[order])

    return bias


@pytest.mark.parametrize("order", ["start", "end", "relative"])
def test_factorised_recovers_an_additive_bias_and_carries_it_to_other_tilings(order):
    seen = [(tiled(*t), 6) for t in ((1, 1), (1, 2), (2, 2), (1, 3), (2, 3), (5, 1))]
    maps, _ = make_maps(seen, additive(order), noise=0.02)
    profile = FactorisedProfile().fit(maps, layers=[1])
    kept = profile.arrays_[1]
    assert ("start", "end", "relative")[int(kept["trend"]["kind"][0])] == order
    for layout in (tiled(3, 1), tiled(2, 1), tiled(4, 1), tiled(3, 2), *(x for x, _ in seen)):
        truth = additive(order)(layout)
        np.testing.assert_allclose(log_of(profile, layout)[0], truth - truth.mean(), atol=0.06)
    # the stated constraints
    np.testing.assert_allclose(kept["tile"]["log"].sum(axis=(1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(kept["thumbnail"]["log"].sum(axis=(1, 2)), 0, atol=1e-4)
    kind = ("start", "end", "relative")[int(kept["trend"]["kind"][0])]
    trend = Trend(kind, kept["trend"]["knots"].astype(float), 0.0)
    levels = [trend.at(np.arange(t), t) @ kept["trend"]["values"][0] for t in (1, 2, 4, 3, 6, 5)]
    assert abs(np.concatenate(levels).mean()) < 1e-4  # over the tiles of the images, equally many of each layout


def test_factorised_on_single_tiles_is_geometric_and_interpolates_grids():
    maps, _ = make_maps([(ONE, 12)])
    np.testing.assert_allclose(
        FactorisedProfile().fit(maps).expected(ONE, 1), GeometricProfile().fit(maps).expected(ONE, 1), rtol=1e-4
    )
    fine = TokenLayout.raster(8, 6, size=(64, 64), family="internvl")
    maps, _ = make_maps([(ONE, 20), (fine, 6)], lambda x: 2 * x.centers[:, 1], noise=0)
    profile = FactorisedProfile().fit(maps)
    assert profile.arrays_[1]["tile"]["log"].shape == (2, 4, 4)
    middle = (fine.row > 0) & (fine.row < 7)  # beyond the outer centres the map is continued flat
    truth = 2 * fine.centers[:, 1]
    got = log_of(profile, fine)[0]
    np.testing.assert_allclose((got - got[middle].mean())[middle], (truth - truth[middle].mean())[middle], atol=0.06)


def test_factorised_without_thumbnail_gives_it_the_tiles_map():
    bare = [TokenLayout.tiled(1, c, (4, 4), size=(64 * c, 64), family="internvl", thumbnail=False) for c in (1, 2, 3)]
    maps, _ = make_maps([(x, 6) for x in bare], lambda x: 0.4 * x.row, noise=0)
    asked = tiled(1, 2)
    got = log_of(FactorisedProfile().fit(maps), asked)[0]
    np.testing.assert_allclose(got, 0.4 * (asked.row - 1.5), atol=1e-3)


def test_choice_of_the_trend_and_its_continuation():
    parts = logs(parts_of(make_maps([(tiled(1, c), 6) for c in (2, 3, 4, 6)], additive("end"), noise=0.02)[0], 1))
    within = [p._replace(mean=p.mean - np.where(p.layout.thumbnail, 0, 0.2 * p.layout.row)) for p in parts]
    assert choose_trend(within, "auto", "cv").order == "end"
    assert choose_trend(within, "start", "cv").order == "start" and choose_trend(within, "start", 3).strength == 3
    assert choose_trend(within[:2], "auto", "cv").order == "relative"  # two layouts cannot tell
    trend = choose_trend(within, "end", "cv")
    line = 1 + 2 * trend.knots
    np.testing.assert_allclose(trend.at(np.arange(10), 10) @ line, 1 + 2 * np.arange(9, -1, -1))
    assert trend.weights.sum() == pytest.approx(1) and np.abs(trend.penalty(1.0) @ line).max() < 1e-6


def test_parts_of_folds_add_up():
    maps, _ = make_maps()
    whole, split = parts_of(maps, 1), parts_of(maps, 1, pieces=True)
    for a, b in zip(whole, split, strict=True):
        assert a.n == b.n == sum(p.n for p in b.pieces) and not a.pieces
        for field in ("mean", "var", "log_mean", "log_var"):
            np.testing.assert_allclose(getattr(a, field), getattr(b, field), rtol=1e-9)
    some = parts_of(maps, 1, only=[0, 2])
    again = merged([p for f in (0, 2) for p in parts_of(maps, 1, only=[f])])
    assert sum(p.n for p in some) == sum(p.n for p in again) < sum(p.n for p in whole)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("smooth", {"strength": -1}, "strength"),
        ("smooth", {"strength": "much"}, "strength"),
        ("factorised", {"strength": -1}, "strength"),
        ("factorised", {"order": "middle"}, "start, end, relative"),
        ("factorised", {"grid": (0, 3)}, "grid"),
    ],
)
def test_bad_options_are_one_clear_line(name, options, reason):
    with pytest.raises(InputError, match=reason) as caught:
        profiles.make(name, **options).fit(make_maps()[0])
    assert "\n" not in str(caught.value)


def test_a_head_that_ignores_the_image_is_refused():
    maps = StreamedMaps(SETTINGS)
    maps.add(ImageRecord("a", ONE, "a"), np.zeros((2, 2, 16), np.float32))
    with pytest.raises(InputError, match="no attention"):
        GeometricProfile().fit(maps)


@pytest.mark.parametrize("name", ["geometric", "smooth", "factorised", "exponential"])
def test_variance_explained_takes_every_estimator(name):
    found = variance_explained(make_maps([(ONE, 40), (tiled(1, 2), 40)])[0], estimator=name, layer=1)
    assert 0.02 < found.r2 < 0.5 and found.n == 80
