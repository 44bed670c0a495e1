"""Pointwise intervals of a profile's map: against a loop over folds, and their coverage of a planted map."""

import numpy as np
import pytest
from scipy import stats

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.maps.moments import centred_log
from biaslab.maps.simulate import simulate
from biaslab.profiles import make, map_interval

ONE = TokenLayout.raster(6, 6, size=(64, 64), family="x")
OTHER = TokenLayout.raster(5, 7, size=(64, 64), family="x")


@pytest.mark.parametrize("name", ["mean", "geometric", "smooth", "factorised"])
def test_interval_is_the_jackknife_over_folds_of_the_fitted_profile(name):
    maps = simulate("u-shaped", [(ONE, 40), (OTHER, 20)], layers=2, heads=2, seed=3).maps
    got = map_interval(maps, estimator=name, layer=1, confidence=0.9)
    whole = centred_log(make(name).fit(maps).expected(ONE, 1).double().numpy())
    np.testing.assert_allclose(got.log_map, whole, atol=1e-5)

    class Without:
        layers, layouts, heads, provenance = maps.layers, maps.layouts, maps.heads, maps.provenance
        folds = maps.folds

        def __init__(self, left_out):
            self.left_out = left_out

        def moments(self, layer, key, fold=None, exclude_fold=None):
            if fold == self.left_out:
                empty = maps.moments(layer, key, fold=fold)
                return type(empty).empty(empty.mean.shape)
            return maps.moments(layer, key, fold=fold, exclude_fold=self.left_out if fold is None else None)

    out = np.stack([
        centred_log(make(name).fit(Without(f)).expected(ONE, 1).double().numpy()) for f in range(maps.folds)
    ])  # fmt: skip
    half = stats.t.ppf(0.95, 4) * np.sqrt(4 / 5 * ((out - out.mean(0)) ** 2).sum(0))
    np.testing.assert_allclose(got.hi - got.log_map, half, atol=2e-4)
    np.testing.assert_allclose(got.log_map - got.lo, half, atol=2e-4)


def test_interval_of_a_layout_that_was_not_fitted_needs_an_estimator_that_transports():
    maps = simulate("u-shaped", [(ONE, 40)]).maps
    assert map_interval(maps, estimator="tile", layout=OTHER).lo.shape == (1, 35)
    with pytest.raises(InputError, match="'factorised', which carry over"):
        map_interval(maps, estimator="mean", layout=OTHER)


def test_what_cannot_be_done_says_why():
    with pytest.raises(InputError, match="three folds"):
        map_interval(simulate("none", [(ONE, 2)]).maps)
    maps = simulate("none", [(ONE, 30)], layers=2).maps
    with pytest.raises(InputError, match="say which layer"):
        map_interval(maps)
    with pytest.raises(InputError, match="confidence"):
        map_interval(maps, layer=0, confidence=95)


@pytest.mark.slow
def test_planted_map_lies_inside_as_often_as_said():
    made = simulate("bottom-heavy", [(ONE, 60)], layers=60, seed=8)
    inside = [
        (lo <= made.truth[ONE.key]) & (made.truth[ONE.key] <= hi)
        for _, lo, hi in (map_interval(made.maps, estimator="geometric", layer=x) for x in made.maps.layers)
    ]
    low, high = stats.binom.interval(0.999, 60, 0.95)
    assert low / 60 <= np.mean(inside) <= high / 60
