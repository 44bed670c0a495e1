"""Bootstrap and sign-flip test: against loops, known coverage, and the dependence of expressions."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from biaslab.errors import InputError
from biaslab.grounding.statistics import ImageBootstrap, paired_p_value


def clustered(rng, n_images, per_image, p=0.6):
    """Hits that are equal within an image: the hardest dependence."""
    images = np.repeat(np.arange(n_images), per_image)
    return images, np.repeat(rng.random(n_images) < p, per_image).astype(float)


def test_mean_interval_equals_a_loop_over_the_same_resamples():
    rng = np.random.default_rng(1)
    images = rng.integers(0, 12, 40).astype(str)  # unequal numbers of expressions per image
    values = rng.random(40)
    bootstrap = ImageBootstrap(images, n_boot=200, seed=5)
    names = np.unique(images)
    draws = np.random.default_rng(5).integers(0, len(names), (200, len(names)))
    means = [np.concatenate([values[images == names[i]] for i in row]).mean() for row in draws]
    got = bootstrap.mean(values)
    assert got.estimate == pytest.approx(values.mean())
    np.testing.assert_allclose([got.low, got.high], np.percentile(means, [2.5, 97.5]))


def test_ratio_and_difference_are_paired():
    rng = np.random.default_rng(2)
    images, reference = clustered(rng, 60, 3)
    values = reference * (rng.random(len(images)) < 0.8)
    bootstrap = ImageBootstrap(images, n_boot=500, seed=0)
    difference = bootstrap.difference(values, reference)
    ratio = bootstrap.ratio(values, reference)
    assert difference.estimate == pytest.approx(values.mean() - reference.mean())
    assert ratio.estimate == pytest.approx(values.mean() / reference.mean())
    assert difference.high < 0 and ratio.high < 1
    alone = bootstrap.mean(values)
    assert difference.high - difference.low < alone.high - alone.low  # pairing takes the shared noise out
    same = bootstrap.ratio(reference, reference)
    assert same == (1.0, 1.0, 1.0)


def test_columns_share_resamples_and_missing_values_are_left_out():
    rng = np.random.default_rng(3)
    images = np.repeat(np.arange(20), 2)
    values = rng.random((40, 3))
    values[:5, 1] = np.nan
    bootstrap = ImageBootstrap(images, n_boot=100, seed=0)
    got = bootstrap.mean(values)
    for column in range(3):
        alone = bootstrap.mean(values[:, column])
        assert got.estimate[column] == pytest.approx(alone.estimate)
        assert (got.low[column], got.high[column]) == pytest.approx((alone.low, alone.high))
    assert got.estimate[1] == pytest.approx(np.nanmean(values[:, 1]))
    paired = bootstrap.ratio(values[:, 1], values[:, 0])
    assert paired.estimate == pytest.approx(values[5:, 1].mean() / values[5:, 0].mean())


def test_intervals_of_clustered_hits_are_wider_than_pretending_independence():
    rng = np.random.default_rng(4)
    images, hits = clustered(rng, 50, 8)
    by_image = ImageBootstrap(images, seed=0).mean(hits)
    by_expression = ImageBootstrap(np.arange(len(images)), seed=0).mean(hits)
    ratio = (by_image.high - by_image.low) / (by_expression.high - by_expression.low)
    assert ratio == pytest.approx(np.sqrt(8), rel=0.15)


def test_coverage_is_nominal():
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(200):
        images, hits = clustered(rng, 60, 2)
        interval = ImageBootstrap(images, n_boot=400, level=0.9, seed=trial).mean(hits)
        covered += interval.low <= 0.6 <= interval.high
    assert 0.83 <= covered / 200 <= 0.96


def test_order_of_samples_and_seed():
    rng = np.random.default_rng(6)
    images, hits = clustered(rng, 30, 2)
    order = rng.permutation(len(images))
    a = ImageBootstrap(images, n_boot=100, seed=1).mean(hits)
    assert a == ImageBootstrap(images[order], n_boot=100, seed=1).mean(hits[order])
    assert a != ImageBootstrap(images, n_boot=100, seed=2).mean(hits)


def test_blocks_do_not_change_the_result(monkeypatch):
    rng = np.random.default_rng(7)
    images, hits = clustered(rng, 30, 2)
    whole = ImageBootstrap(images, n_boot=100, seed=1).mean(hits)
    p = paired_p_value(hits, 1 - hits, images, n_perm=300)
    monkeypatch.setattr("biaslab.grounding.statistics._BLOCK_ENTRIES", 90)
    assert ImageBootstrap(images, n_boot=100, seed=1).mean(hits) == whole
    assert paired_p_value(hits, 1 - hits, images, n_perm=300) == p


def test_no_interval_without_two_images_and_no_ratio_to_zero():
    one = ImageBootstrap(["a", "a"], n_boot=50).mean([1.0, 0.0])
    assert one.estimate == 0.5 and np.isnan(one.low) and np.isnan(one.high)
    none = ImageBootstrap([], n_boot=50).mean([])
    assert np.isnan(none.estimate)
    zero = ImageBootstrap(["a", "b"], n_boot=50).ratio([1.0, 0.0], [0.0, 0.0])
    assert np.isnan(zero).all()
    with pytest.raises(InputError, match="level between 0 and 1"):
        ImageBootstrap(["a"], level=95)


def test_exact_p_value_equals_enumeration():
    values = np.array([1, 1, 0, 1, 1, 1, 0, 1.0])
    reference = np.array([0, 0, 0, 1, 0, 0, 1, 0.0])
    images = np.array([0, 0, 1, 1, 2, 3, 4, 5])
    sums = [2, 0, 1, 1, -1, 1]  # per image; image 1 does not differ
    flipped = [abs(sum(s * d for s, d in zip(row, sums, strict=True))) for row in product([1, -1], repeat=6)]
    expected = np.mean([total >= abs(sum(sums)) for total in flipped])
    assert paired_p_value(values, reference, images) == pytest.approx(expected)


def test_p_value_is_two_sided_seeded_and_never_zero():
    rng = np.random.default_rng(8)
    images, reference = clustered(rng, 200, 2)
    worse = reference * (rng.random(400) < 0.5)
    p = paired_p_value(worse, reference, images, n_perm=999, seed=0)
    assert p == 1 / 1000 == paired_p_value(reference, worse, images, n_perm=999, seed=0)
    assert paired_p_value(reference, reference, images) == 1.0
    assert np.isnan(paired_p_value([], [], []))
    assert np.isnan(paired_p_value([np.nan], [1.0], ["a"]))


def test_p_value_is_uniform_under_the_null():
    rng = np.random.default_rng(9)
    ps = []
    for trial in range(200):
        images = np.repeat(np.arange(40), 3)
        a, b = (np.repeat(rng.random(40) < 0.5, 3).astype(float) for _ in range(2))
        ps.append(paired_p_value(a, b, images, n_perm=400, seed=trial))
    assert 0.01 <= np.mean(np.array(ps) <= 0.05) <= 0.09
