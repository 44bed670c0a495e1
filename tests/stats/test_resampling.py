"""Bootstrap and sign-flip test: against loops, known coverage, and the dependence of expressions."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import binom

from biaslab.errors import InputError
from biaslab.stats.multiple_testing import q_values
from biaslab.stats.resampling import ImageBootstrap, max_t, paired_p_value, sum_by_image


def clustered(rng, n_images, per_image, p=0.6):
    """Hits that are equal within an image: the hardest dependence."""
    images = np.repeat(np.arange(n_images), per_image)
    return images, np.repeat(rng.random(n_images) < p, per_image).astype(float)


def test_q_values_are_of_the_tests_that_could_be_made():
    p = np.array([0.01, np.nan, 0.04, 0.2])
    np.testing.assert_allclose(q_values(p), [0.03, np.nan, 0.06, 0.2])
    assert np.isnan(q_values([np.nan])).all() and q_values([]).shape == (0,)


def test_mean_interval_equals_a_loop_over_the_same_resamples():
    rng = np.random.default_rng(1)
    images = rng.integers(0, 12, 40).astype(str)  # unequal numbers of expressions per image
    values = rng.random(40)
    bootstrap = ImageBootstrap(images, n_resamples=200, seed=5)
    names = np.unique(images)
    draws = np.random.default_rng(5).integers(0, len(names), (200, len(names)))
    means = [np.concatenate([values[images == names[i]] for i in row]).mean() for row in draws]
    got = bootstrap.mean(values)
    assert got.value == pytest.approx(values.mean())
    np.testing.assert_allclose([got.lo, got.hi], np.percentile(means, [2.5, 97.5]))


def test_ratio_and_difference_are_paired():
    rng = np.random.default_rng(2)
    images, reference = clustered(rng, 60, 3)
    values = reference * (rng.random(len(images)) < 0.8)
    bootstrap = ImageBootstrap(images, n_resamples=500, seed=0)
    difference = bootstrap.difference(values, reference)
    ratio = bootstrap.ratio(values, reference)
    assert difference.value == pytest.approx(values.mean() - reference.mean())
    assert ratio.value == pytest.approx(values.mean() / reference.mean())
    assert difference.hi < 0 and ratio.hi < 1
    alone = bootstrap.mean(values)
    assert difference.hi - difference.lo < alone.hi - alone.lo  # pairing takes the shared noise out
    same = bootstrap.ratio(reference, reference)
    assert same == (1.0, 1.0, 1.0)


def test_columns_share_resamples_and_missing_values_are_left_out():
    rng = np.random.default_rng(3)
    images = np.repeat(np.arange(20), 2)
    values = rng.random((40, 3))
    values[:5, 1] = np.nan
    bootstrap = ImageBootstrap(images, n_resamples=100, seed=0)
    got = bootstrap.mean(values)
    for column in range(3):
        alone = bootstrap.mean(values[:, column])
        assert got.value[column] == pytest.approx(alone.value)
        assert (got.lo[column], got.hi[column]) == pytest.approx((alone.lo, alone.hi))
    assert got.value[1] == pytest.approx(np.nanmean(values[:, 1]))
    paired = bootstrap.ratio(values[:, 1], values[:, 0])
    assert paired.value == pytest.approx(values[5:, 1].mean() / values[5:, 0].mean())


def test_intervals_of_clustered_hits_are_wider_than_pretending_independence():
    rng = np.random.default_rng(4)
    images, hits = clustered(rng, 50, 8)
    by_image = ImageBootstrap(images, seed=0).mean(hits)
    by_expression = ImageBootstrap(np.arange(len(images)), seed=0).mean(hits)
    ratio = (by_image.hi - by_image.lo) / (by_expression.hi - by_expression.lo)
    assert ratio == pytest.approx(np.sqrt(8), rel=0.15)


def test_coverage_is_nominal():
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(200):
        images, hits = clustered(rng, 60, 2)
        interval = ImageBootstrap(images, n_resamples=400, confidence=0.9, seed=trial).mean(hits)
        covered += interval.lo <= 0.6 <= interval.hi
    assert 0.83 <= covered / 200 <= 0.96


def test_order_of_samples_and_seed():
    rng = np.random.default_rng(6)
    images, hits = clustered(rng, 30, 2)
    order = rng.permutation(len(images))
    a = ImageBootstrap(images, n_resamples=100, seed=1).mean(hits)
    assert a == ImageBootstrap(images[order], n_resamples=100, seed=1).mean(hits[order])
    assert a != ImageBootstrap(images, n_resamples=100, seed=2).mean(hits)


def test_blocks_do_not_change_the_result(monkeypatch):
    rng = np.random.default_rng(7)
    images, hits = clustered(rng, 30, 2)
    whole = ImageBootstrap(images, n_resamples=100, seed=1).mean(hits)
    p = paired_p_value(hits, 1 - hits, images, n_resamples=300)
    monkeypatch.setattr("biaslab.stats.resampling._BLOCK_ENTRIES", 90)
    assert ImageBootstrap(images, n_resamples=100, seed=1).mean(hits) == whole
    assert paired_p_value(hits, 1 - hits, images, n_resamples=300) == p


def test_wide_values_in_blocks_of_columns_are_the_same(monkeypatch):
    rng = np.random.default_rng(17)
    images, values = rng.integers(0, 30, 50), rng.random((50, 23))
    values[rng.random(values.shape) < 0.2] = np.nan
    bootstrap = ImageBootstrap(images, n_resamples=100)
    whole = bootstrap.mean(values)
    monkeypatch.setattr("biaslab.stats.resampling._BLOCK_ENTRIES", 700)  # 7 columns, 23 resamples
    np.testing.assert_allclose(bootstrap.mean(values), whole)


def test_contrast_equals_a_loop_and_each_side_has_its_own_samples():
    rng = np.random.default_rng(18)
    images, values = rng.integers(0, 9, 40).astype(str), rng.random(40)
    left = rng.random(40) < 0.4
    bootstrap = ImageBootstrap(images, n_resamples=300, seed=4)
    got = bootstrap.contrast(np.where(left, np.nan, values), np.where(left, values, np.nan))
    names = np.unique(images)
    gaps = []
    for row in np.random.default_rng(4).integers(0, len(names), (300, len(names))):
        drawn = np.concatenate([np.flatnonzero(images == names[i]) for i in row])
        gaps.append(values[drawn[~left[drawn]]].mean() - values[drawn[left[drawn]]].mean())
    assert got.value == pytest.approx(values[~left].mean() - values[left].mean())
    np.testing.assert_allclose([got.lo, got.hi], np.percentile(gaps, [2.5, 97.5]))


def test_values_of_one_image_have_no_interval_whatever_the_others_have():
    images = np.repeat(np.arange(6), 2)
    values = np.random.default_rng(19).random((12, 2))
    values[2:, 1] = np.nan
    bootstrap = ImageBootstrap(images, n_resamples=50)
    got = bootstrap.mean(values)
    assert np.isfinite(got.lo[0]) and np.isnan([got.lo[1], got.hi[1]]).all()
    assert got.value[1] == pytest.approx(values[:2, 1].mean())
    assert np.isnan(bootstrap.contrast(values[:, 0], values[:, 1]).lo)


def test_no_interval_without_two_images_and_no_ratio_to_zero():
    one = ImageBootstrap(["a", "a"], n_resamples=50).mean([1.0, 0.0])
    assert one.value == 0.5 and np.isnan(one.lo) and np.isnan(one.hi)
    none = ImageBootstrap([], n_resamples=50).mean([])
    assert np.isnan(none.value)
    zero = ImageBootstrap(["a", "b"], n_resamples=50).ratio([1.0, 0.0], [0.0, 0.0])
    assert np.isnan(zero).all()
    with pytest.raises(InputError, match="confidence between 0 and 1"):
        ImageBootstrap(["a"], confidence=95)


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
    p = paired_p_value(worse, reference, images, n_resamples=999, seed=0)
    assert p == 1 / 1000 == paired_p_value(reference, worse, images, n_resamples=999, seed=0)
    assert paired_p_value(reference, reference, images) == 1.0
    assert np.isnan(paired_p_value([], [], []))
    assert np.isnan(paired_p_value([np.nan], [1.0], ["a"]))


def test_p_value_is_uniform_under_the_null():
    rng = np.random.default_rng(9)
    ps = []
    for trial in range(200):
        images = np.repeat(np.arange(40), 3)
        a, b = (np.repeat(rng.random(40) < 0.5, 3).astype(float) for _ in range(2))
        ps.append(paired_p_value(a, b, images, n_resamples=400, seed=trial))
    assert 0.01 <= np.mean(np.array(ps) <= 0.05) <= 0.09


def slow_max_t(sums):
    """Step-down max-T over every sign pattern, as Westfall and Young write it down."""
    n, m = sums.shape
    patterns = list(product([1, -1], repeat=n))

    def statistic(signs, j):
        norm = np.sqrt(sum(d * d for d in sums[:, j]))
        return abs(sum(s * d for s, d in zip(signs, sums[:, j], strict=True))) / norm if norm else 0.0

    observed = [statistic([1] * n, j) for j in range(m)]
    order = sorted(range(m), key=lambda j: -observed[j])
    raw, adjusted, before = np.ones(m), np.ones(m), 0.0
    for rank, j in enumerate(order):
        raw[j] = np.mean([statistic(s, j) >= observed[j] - 1e-9 for s in patterns])
        rest = [max(statistic(s, k) for k in order[rank:]) for s in patterns]
        before = adjusted[j] = max(before, np.mean([r >= observed[j] - 1e-9 for r in rest]))
    return raw, adjusted


def test_max_t_equals_step_down_over_all_patterns():
    rng = np.random.default_rng(20)
    images = np.repeat(np.arange(7), 2)
    differences = rng.standard_normal((14, 6)) + np.linspace(0, 1.5, 6)
    differences[:, 1] = differences[:, 4]  # tied for its place
    differences[:, 2] = 0.0
    differences[:, 3] = np.nan
    differences[4:, 5] = np.nan  # in two images only
    sums = np.array([[np.nansum(differences[images == i, j]) for j in range(6)] for i in range(7)])
    raw, adjusted = slow_max_t(sums)
    raw[3] = adjusted[3] = np.nan
    got = max_t(differences, images)
    np.testing.assert_allclose(got.p, raw)
    np.testing.assert_allclose(got.p_adjusted, adjusted)
    assert got.p[2] == got.p_adjusted[2] == 1.0 and got.p_adjusted[1] == got.p_adjusted[4]
    np.testing.assert_allclose(max_t(*sum_by_image(differences, images)), got)  # rows may be images


def test_random_flips_are_those_of_a_loop_and_of_the_single_test():
    rng = np.random.default_rng(21)
    images = rng.integers(0, 25, 60).astype(str)
    values, reference = rng.random(60), rng.random(60) - 0.1
    values[:3] = np.nan
    got = max_t((values - reference)[:, None], images, n_resamples=500, seed=3)
    single = paired_p_value(values, reference, images, n_resamples=500, seed=3)
    assert got.p[0] == got.p_adjusted[0] == single
    known = ~np.isnan(values)
    sums = np.array([(values - reference)[known & (images == i)].sum() for i in np.unique(images[known])])
    draws = np.where(np.random.default_rng(3).random((500, len(sums))) < 0.5, -1, 1)
    assert single == (1 + sum(abs((row * sums).sum()) >= abs(sums.sum()) for row in draws)) / 501


def test_adjusted_is_at_least_raw_and_follows_the_statistic():
    rng = np.random.default_rng(22)
    images = np.repeat(np.arange(30), 2)
    differences = rng.standard_normal((60, 40)) + np.linspace(-0.6, 0.6, 40)
    differences[rng.random(differences.shape) < 0.3] = np.nan
    got = max_t(differences, images, n_resamples=400)
    assert (got.p_adjusted >= got.p).all() and (got.p_adjusted > got.p).sum() > 20
    sums = np.nan_to_num(sum_by_image(differences, images)[0])
    strength = np.abs(sums.sum(0)) / np.sqrt((sums**2).sum(0))
    assert (np.diff(got.p_adjusted[np.argsort(strength)]) <= 0).all()
    assert got.p.min() > 0 and got.p_adjusted.max() <= 1


def test_blocks_of_flips_do_not_change_the_result(monkeypatch):
    rng = np.random.default_rng(23)
    many, few = rng.standard_normal((40, 9)), rng.standard_normal((8, 9))
    whole = max_t(many, np.arange(40), n_resamples=300), max_t(few, np.arange(8))
    monkeypatch.setattr("biaslab.stats.resampling._BLOCK_ENTRIES", 90)
    np.testing.assert_array_equal(whole[0], max_t(many, np.arange(40), n_resamples=300))
    np.testing.assert_array_equal(whole[1], max_t(few, np.arange(8)))


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_false_alarms_of_the_family_are_nominal_and_of_raw_p_values_are_not(shared):
    """20 correlated nulls in clusters of unequal size; one more hypothesis is false and must not help the others."""
    rng = np.random.default_rng(24)
    trials, alarms, plain, bonferroni = 600, 0, 0, 0
    for trial in range(trials):
        images = np.repeat(np.arange(30), rng.integers(1, 4, 30))
        common = rng.standard_normal((30, 1))
        nulls = (np.sqrt(shared) * common + np.sqrt(1 - shared) * rng.standard_normal((30, 20)))[images]
        differences = np.column_stack([nulls, nulls[:, 0] + 3])
        differences[images >= 20, 1] = np.nan
        got = max_t(differences, images, n_resamples=999, seed=trial)
        assert got.p_adjusted[-1] <= 0.05
        alarms += (got.p_adjusted[:-1] <= 0.05).any()
        plain += (got.p[:-1] <= 0.05).any()
        bonferroni += (20 * got.p[:-1] <= 0.05).any()
    low, high = binom.ppf([0.001, 0.999], trials, 0.05)
    assert low <= alarms <= high and plain > 1.5 * high
    if shared:
        assert alarms > bonferroni  # what the hypotheses share is not paid for twice


def test_max_t_without_samples_and_refusals():
    got = max_t(np.empty((0, 2)), [])
    assert np.isnan(got.p).all() and np.isnan(got.p_adjusted).all()
    assert max_t(np.empty((3, 0)), ["a", "b", "c"]).p.shape == (0,)
    with pytest.raises(InputError, match="an image id per sample"):
        max_t(np.ones((3, 2)), ["a"])
    with pytest.raises(InputError, match="samples, hypotheses"):
        max_t(np.ones(3), ["a", "b", "c"])
