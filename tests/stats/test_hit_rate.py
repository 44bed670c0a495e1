"""Accuracies of few images have intervals that hold the truth as often as they say; others stay as they were."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import biaslab as bl
from benchmarks.coverage import ACCURACIES, accuracy_coverage
from biaslab.errors import InputError
from biaslab.stats.hit_rate import FEW_IMAGES, cluster_wilson, hit_rate
from biaslab.stats.resampling import ImageBootstrap


def wilson_roots(share, n, t):
    """Where the score statistic is t: the roots of (p - share)^2 = t^2 p (1 - p) / n, solved as a quadratic."""
    return np.sort(np.roots([1 + t**2 / n, -2 * share - t**2 / n, share**2]).real)


def test_it_is_wilsons_with_the_effective_number_of_samples():
    rng = np.random.default_rng(0)
    for _ in range(20):
        counts = rng.integers(1, 4, 30).astype(float)
        sums = rng.binomial(counts.astype(int), rng.beta(2, 1, 30)).astype(float)
        n, share, t = counts.sum(), sums.sum() / counts.sum(), stats.t.ppf(0.975, 29)
        residual = sums - share * counts
        effective = share * (1 - share) / (30 / 29 * sum(residual**2) / n**2)
        effective = min(max(effective, n**2 / sum(counts**2)), n)
        assert cluster_wilson(sums, counts, 0.95) == pytest.approx(wilson_roots(share, effective, t), abs=1e-9)


@pytest.mark.parametrize("n", [2, 10, 300])
def test_all_or_none_leave_room_for_the_other(n):
    width = 1 / (1 + n / stats.t.ppf(0.975, n - 1) ** 2)
    hits, misses = hit_rate(np.ones(n), np.arange(n)), hit_rate(np.zeros(n), np.arange(n))
    assert hits.lo == pytest.approx(1 - width) and hits.value == hits.hi == 1
    assert misses.hi == pytest.approx(width) and misses.value == misses.lo == 0
    # three expressions of an image say no more than one, where nothing shows that they are independent
    tripled = hit_rate(np.ones(3 * n), np.repeat(np.arange(n), 3))
    assert tuple(tripled) == pytest.approx(tuple(hits))


def test_with_many_images_it_is_the_bootstrap_to_every_digit():
    rng = np.random.default_rng(1)
    for n_images in (FEW_IMAGES - 1, FEW_IMAGES, 120):
        images = np.repeat(np.arange(n_images), 3)
        hits = (rng.random((len(images), 3)) < [0.5, 0.9, 0.97]).astype(float)
        hits[rng.random(len(images)) < 0.1, 1] = np.nan
        bootstrap = ImageBootstrap(images, n_resamples=300)
        found, want = hit_rate(hits, images, bootstrap=bootstrap), bootstrap.mean(hits)
        same = [np.array_equal(a, b) for a, b in zip(found, want, strict=True)]
        assert same == [True, n_images >= FEW_IMAGES, n_images >= FEW_IMAGES]
        one = hit_rate(hits[:, 1], images, bootstrap=bootstrap)
        assert isinstance(one.lo, float) and tuple(one) == tuple(part[1] for part in found)


def test_what_has_no_interval():
    nothing = hit_rate(np.array([[np.nan, 1.0], [np.nan, np.nan]]), ["a", "b"])
    assert np.isnan(nothing.value[0]) and nothing.value[1] == 1.0
    assert np.isnan([nothing.lo, nothing.hi]).all()  # of no image, and of one
    assert np.isnan(hit_rate(np.ones(3), ["a"] * 3)[1:]).all()
    with pytest.raises(InputError, match="1 and 0"):
        hit_rate(np.array([0.5, 1.0]), ["a", "b"])


def test_it_holds_the_truth_where_the_percentiles_do_not():
    n_sets = 400
    noise = 4 * np.sqrt(0.05 * 0.95 / n_sets)
    found = np.array([accuracy_coverage(12, accuracy, n_sets=n_sets, n_resamples=200) for accuracy in ACCURACIES])
    assert (found[:, 1] > 0.95 - noise).all() and found[-1, 0] < 0.6, found


@pytest.mark.slow
def test_a_run_of_few_pictures_says_so(grounder):
    scenes = bl.load_dataset("scenes", n=10)
    results = bl.evaluate(grounder, scenes, methods="none", keep=1.0, progress=False)
    (row,) = results.summary().to_dict("records")
    images = pd.Series([s.image_id for s in scenes]).nunique()
    assert row["acc50"] == 1.0 == row["acc50_hi"] and 1 < images < FEW_IMAGES
    assert 0.2 < row["acc50_lo"] < 0.8, (images, row)
