"""Held-out variance explained by position, against a brute-force computation on single images."""

import numpy as np
import pytest
from scipy import stats

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.maps.base import ImageRecord, fold_of
from biaslab.maps.moments import centred_log
from biaslab.maps.streamed import StreamedMaps
from biaslab.profiles import TileProfile, variance_explained, variance_table

ONE = TokenLayout.raster(3, 3, size=(64, 64), family="internvl")
TILED = TokenLayout.tiled(1, 2, (3, 3), size=(128, 64), family="internvl", thumbnail=True)


def make_maps(images, amount, noise=1.0, heads=1, layers=(0,), seed=0, folds=5):
    """Log attention = amount * position + noise per token; also every image as (key, fold, (L, H, N)
    attention).
    """
    rng = np.random.default_rng(seed)
    maps = StreamedMaps({"layers": list(layers), "folds": folds, "heads": "mean" if heads == 1 else "all"})
    rows = []
    for layout, n in images:
        position = rng.standard_normal((len(layers), heads, layout.n))
        for i in range(n):
            name = f"{layout.key}-{i}"
            logs = amount * position + noise * rng.standard_normal(position.shape) + rng.standard_normal()
            attention = (np.exp(logs) / 1000).astype(np.float32)
            maps.add(ImageRecord(name, layout, name), attention)
            rows.append((layout.key, fold_of(name, folds), attention))
    return maps, rows


def brute(rows, layer, head, folds, left_out=None):
    """R2 by loops over images: prediction = mean of the same layout's images in the other folds."""
    total = residual = 0.0
    rows = [(k, f, centred_log(x[layer, head])) for k, f, x in rows if f != left_out]
    for key, fold, x in rows:
        others = [y for k, f, y in rows if k == key and f != fold]
        if others:
            total += (x**2).sum()
            residual += ((x - np.mean(others, axis=0)) ** 2).sum()
    return total, residual


def test_share_and_interval_equal_brute_force_over_images():
    maps, rows = make_maps([(ONE, 23), (TILED, 11)], 1.0, heads=2, layers=(0, 4))
    got = variance_explained(maps, estimator="mean", layer=4)
    sums = np.array([brute(rows, 1, h, 5) for h in range(2)])
    assert got.r2 == pytest.approx(1 - sums[:, 1].sum() / sums[:, 0].sum(), rel=1e-6)
    np.testing.assert_allclose(got.per_head_r2, 1 - sums[:, 1] / sums[:, 0], rtol=1e-6)
    out = np.array([[brute(rows, 1, h, 5, left_out=g) for h in range(2)] for g in range(5)]).sum(1)
    shares = 1 - out[:, 1] / out[:, 0]
    half = stats.t.ppf(0.975, 4) * np.sqrt(4 / 5 * ((shares - shares.mean()) ** 2).sum())
    assert got.r2_hi - got.r2 == pytest.approx(half, rel=1e-5) and got.r2 - got.r2_lo == pytest.approx(half, rel=1e-5)
    assert got.n == 34 and got.folds == 5 and got.layer == 4


def test_asymptotic_share_equals_products_of_different_images():
    maps, rows = make_maps([(ONE, 9), (TILED, 7)], 1.0, heads=2, layers=(0, 4))

    def share(chosen, heads):
        signal = total = 0.0
        for key in (ONE.key, TILED.key):
            stack = np.array([centred_log(x[1, heads]) for k, _, x in chosen if k == key])
            products = [(a * b).sum() for i, a in enumerate(stack) for j, b in enumerate(stack) if i != j]
            signal, total = signal + len(stack) * np.mean(products), total + (stack**2).sum()
        return signal / total

    got = variance_explained(maps, estimator="tile", layer=4)
    assert got.r2_asymptotic == pytest.approx(share(rows, [0, 1]), rel=1e-6)
    np.testing.assert_allclose(got.per_head_r2_asymptotic, [share(rows, [h]) for h in (0, 1)], rtol=1e-6)
    held = sorted({f for _, f, _ in rows})
    out = np.array([share([r for r in rows if r[1] != f], [0, 1]) for f in held])
    half = stats.t.ppf(0.975, len(held) - 1) * np.sqrt((len(held) - 1) * out.var())
    assert got.r2_asymptotic - got.r2_asymptotic_lo == pytest.approx(half, rel=1e-5)
    assert got.r2_asymptotic > got.r2


def test_asymptotic_share_covers_the_planted_one_where_held_out_share_falls_short():
    # 10 images of 9 positions: a profile is mostly noise
    shares, covered = [], 0
    for seed in range(60):
        maps, _ = make_maps([(ONE, 10)], 0.0, layers=range(4), seed=seed)
        found = [variance_explained(maps, layer=x) for x in range(4)]
        shares += [f.r2_asymptotic for f in found]
        covered += sum(f.r2_asymptotic_lo <= 0 <= f.r2_asymptotic_hi for f in found)
    assert np.mean(shares) == pytest.approx(0, abs=4 * np.std(shares) / np.sqrt(len(shares)))
    assert covered / len(shares) > 0.85


def test_planted_share_is_found_and_no_bias_is_not_invented():
    for amount in (0.5, 1.0, 2.0):
        maps, rows = make_maps([(ONE, 400)], amount)
        logs = np.array([centred_log(x[0, 0]) for _, _, x in rows])
        truth = logs.mean(0).var() / (logs**2).mean()  # in-sample: n = 400 makes the difference small
        got = variance_explained(maps)
        assert got.r2_lo - 0.02 < truth < got.r2_hi + 0.02 and abs(got.r2 - truth) < 0.02
    for seed in range(5):
        none = variance_explained(make_maps([(ONE, 60)], 0.0, seed=seed)[0])
        assert -0.1 < none.r2 < 0.02  # held out: noise fitted in the other folds costs, it does not pay


def test_tile_estimator_predicts_unseen_tilings_and_cannot_see_tile_order():
    one_tile, _ = make_maps([(ONE, 50)], 1.0)
    tile, mean = (variance_explained(one_tile, estimator=name).r2 for name in ("tile", "mean"))
    assert tile == pytest.approx(mean, rel=1e-9)
    maps, _ = make_maps([(TILED, 60)], 1.0)  # every tile has its own random map
    assert variance_explained(maps, estimator=TileProfile()).r2 < variance_explained(maps, estimator="mean").r2 - 0.1
    # one layout in one fold only: the mean estimator cannot predict it, the tile estimator can
    rare = TokenLayout.raster(6, 6, size=(64, 64), family="internvl")
    maps, _ = make_maps([(ONE, 50), (rare, 1)], 1.0)
    assert variance_explained(maps, estimator="mean").n == 50
    assert variance_explained(maps, estimator="tile").n == 51


def test_table_has_a_line_per_layer_and_head():
    maps, _ = make_maps([(ONE, 40)], 1.0, heads=3, layers=(2, 5))
    table = variance_table(maps, per_head=True)
    shares = ["r2", "r2_lo", "r2_hi", "r2_asymptotic", "r2_asymptotic_lo", "r2_asymptotic_hi"]
    assert list(table.columns) == ["layer", "head", *shares, "n", "folds", "estimator"]
    one = variance_explained(maps, layer=5)
    assert table.iloc[6]["r2_asymptotic_hi"] == one.per_head_r2_asymptotic_hi[1]
    assert list(table["layer"]) == [2] * 4 + [5] * 4 and list(table["head"][:4]) == ["all", "0", "1", "2"]
    assert (table["r2_lo"] < table["r2"]).all() and (table["r2"] < table["r2_hi"]).all()
    assert (table["r2_hi"] <= 1).all()
    assert len(variance_table(maps, layers=[5])) == 1


def test_wider_confidence_is_a_wider_interval_and_two_folds_have_none():
    maps, _ = make_maps([(ONE, 60)], 1.0)
    narrow, wide = (variance_explained(maps, confidence=c) for c in (0.8, 0.99))
    assert wide.r2_lo < narrow.r2_lo < narrow.r2 == wide.r2
    two = variance_explained(make_maps([(ONE, 60)], 1.0, folds=2)[0])
    assert np.isfinite(two.r2) and np.isnan(two.r2_lo)


def test_few_images_of_several_heads_have_shares_and_no_interval():
    names = {fold_of(str(i), 5): str(i) for i in range(40)}  # an image per fold
    for n in (2, 3):  # of two, nothing can be scored without one of their folds
        maps = StreamedMaps({"layers": [0], "folds": 5, "heads": "all"})
        for i, x in enumerate(np.random.default_rng(0).lognormal(size=(n, 1, 3, ONE.n))):
            maps.add(ImageRecord(names[i], ONE, names[i]), x)
        table = variance_table(maps, per_head=True)
        assert len(table) == 4 and np.isfinite(table[["r2", "r2_asymptotic"]]).all(axis=None)
        assert (table[["r2_lo", "r2_asymptotic_hi"]].isna() == (n == 2)).all(axis=None)


def test_a_head_that_does_not_see_the_image_has_no_share():
    layout = TokenLayout.raster(10, 10, size=(64, 64), family="internvl")
    assert (centred_log(np.zeros((2, layout.n))) == 0).all()
    maps = StreamedMaps({"layers": [0], "folds": 5, "heads": "all"})
    for i, x in enumerate(np.random.default_rng(0).lognormal(size=(20, 1, 2, layout.n))):
        maps.add(ImageRecord(str(i), layout, str(i)), x * [[0.0], [0.001]])
    table = variance_table(maps, per_head=True).set_index("head")
    assert table.loc["0", ["r2", "r2_asymptotic"]].isna().all() and table.loc["1", "r2"] == table.loc["all", "r2"]


def test_bad_input_is_one_clear_line():
    maps, _ = make_maps([(ONE, 1)], 1.0)
    with pytest.raises(InputError, match="two folds"):
        variance_explained(maps)
    maps, _ = make_maps([(ONE, 30)], 1.0, layers=(0, 1))
    with pytest.raises(InputError, match="which layer"):
        variance_explained(maps)
    with pytest.raises(InputError, match="layers=.7"):
        variance_explained(maps, layer=7)
    with pytest.raises(InputError, match="confidence"):
        variance_explained(maps, layer=0, confidence=95)
