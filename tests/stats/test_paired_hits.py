"""Intervals of differences in accuracy, written out anew and by their coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.coverage import METHODS, coverage, draw
from biaslab.errors import InputError
from biaslab.stats.paired_hits import FEW_IMAGES, paired_hits
from biaslab.stats.resampling import ImageBootstrap


def agresti_min(b, c, n):
    """The published interval of n pairs of which b are hits of the first alone and c of the second alone."""
    b, c, n = b + 0.5, c + 0.5, n + 2
    difference = (b - c) / n
    error = np.sqrt(b + c - (b - c) ** 2 / n) / n
    z = stats.t.ppf(0.975, n - 3)  # Student's in the place of the normal quantile
    return difference - z * error, difference + z * error


def test_one_expression_per_image_is_the_published_interval():
    hits = np.array([1] * 7 + [0] * 2 + [1] * 20 + [0] * 5)
    other = np.array([0] * 7 + [1] * 2 + [1] * 20 + [0] * 5)
    value, lo, hi = paired_hits(hits, other, np.arange(34))
    assert value == pytest.approx(5 / 34)
    assert (lo, hi) == pytest.approx(agresti_min(7, 2, 34))


def test_expressions_of_one_image_count_together():
    """Each image three times is no more than each once, but for the pseudo-observations, which then weigh less."""
    rng = np.random.default_rng(0)
    hits, other = (rng.random(60) < p for p in (0.8, 0.6))
    once = paired_hits(hits, other, np.arange(60))
    thrice = paired_hits(np.repeat(hits, 3), np.repeat(other, 3), np.repeat(np.arange(60), 3))
    apart = paired_hits(np.repeat(hits, 3), np.repeat(other, 3), np.arange(180))
    assert thrice.value == pytest.approx(once.value)
    width = [interval.hi - interval.lo for interval in (once, thrice, apart)]
    assert width[1] == pytest.approx(width[0], rel=0.05) and width[2] < 0.65 * width[0]


def test_agreement_of_few_images_is_no_proof():
    hits = np.ones(25)
    value, lo, hi = paired_hits(hits, hits, np.arange(25))
    assert value == 0 and lo == pytest.approx(-hi) and hi > 0.05
    assert ImageBootstrap(np.arange(25)).difference(hits, hits)[1:] == (0, 0)  # what it is instead of


def test_many_images_give_the_bootstrap_over_images_to_the_digit():
    rng = np.random.default_rng(1)
    images = np.repeat(np.arange(FEW_IMAGES), 2)
    hits, other = (rng.random(images.size) < p for p in (0.8, 0.75))
    expected = ImageBootstrap(images).difference(hits.astype(float), other.astype(float))
    assert paired_hits(hits, other, images) == expected
    assert paired_hits(hits, other, images, bootstrap=ImageBootstrap(images)) == expected
    few = images < FEW_IMAGES - 1
    close = paired_hits(hits[few], other[few], images[few])
    assert close[1:] == pytest.approx(expected[1:], abs=0.003)  # no jump where the one takes over from the other


def test_missing_values_and_refusals():
    hits, other = np.array([1, 0, np.nan, 1.0]), np.array([0, 0, 1.0, np.nan])
    assert paired_hits(hits, other, list("abcd")) == paired_hits(hits[:2], other[:2], list("ab"))
    assert paired_hits([1, 0], [0, 0], ["a", "a"]).value == 0.5
    assert np.isnan(paired_hits([1, 0], [0, 0], ["a", "a"])[1:]).all() and np.isnan(paired_hits([], [], []).value)
    assert paired_hits([1, 1, 1], [0, 0, 0], list("abc")).hi == 1.0
    with pytest.raises(InputError, match="hits and misses, 1 and 0"):
        paired_hits([0.5], [1], ["a"])
    with pytest.raises(InputError, match="between 0 and 1"):
        paired_hits([1], [1], ["a"], confidence=95)


def test_the_simulated_difference_is_the_one_that_is_asked_for():
    sums, counts = draw(20_000, (0.9, 0.85), np.random.default_rng(0))
    assert sums.sum() / counts.sum() == pytest.approx(0.05, abs=0.005) and np.corrcoef(sums**2, counts)[0, 1] > 0


@pytest.mark.slow
def test_coverage_of_few_images():
    """400 data sets of 25 images: .918 is three standard errors below .95, the resampling intervals are near .83."""
    held = dict(zip(METHODS, coverage(25, (0.95, 0.93), n_sets=400, n_resamples=400), strict=True))
    assert held["paired_hits"] > 0.918 > 0.9 > max(held[name] for name in ("percentile", "BCa", "bootstrap-t"))
