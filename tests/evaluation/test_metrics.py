"""Grounding metrics against slow, obvious references."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from biaslab.core.boxes import Box
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.evaluation import metrics


def pair_auroc(scores, positive):
    """Every pair of a positive and a negative token: won, lost or tied."""
    wins = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, is_a in zip(scores, positive, strict=True)
        if is_a
        for b, is_b in zip(scores, positive, strict=True)
        if not is_b
    ]
    return sum(wins) / len(wins) if wins else float("nan")


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=30))
def test_auroc_is_the_share_of_won_pairs_with_ties_as_half(tokens):
    scores = np.array([s for s, _ in tokens], float)
    positive = np.array([p for _, p in tokens])
    np.testing.assert_allclose(metrics.auroc(scores, positive), pair_auroc(scores, positive), atol=1e-12)


def test_auroc_of_many_score_vectors_at_once_equals_sklearn():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 9, (3, 4, 50)).astype(np.float32)
    positive = rng.random(50) < 0.2
    got = metrics.auroc(scores, positive)
    assert got.shape == (3, 4)
    for i in np.ndindex(3, 4):
        assert got[i] == pytest.approx(roc_auc_score(positive, scores[i]))


def searched_auroc(scores, positive):
    """Where each positive would stand among the sorted negatives, vector by vector."""
    below = np.empty(scores.shape[:-1])
    for at in np.ndindex(below.shape):
        negatives = np.sort(scores[at][~positive])
        first, last = (np.searchsorted(negatives, scores[at][positive], side) for side in ("left", "right"))
        below[at] = (first + last).sum() / 2
    return np.where(np.isnan(scores).any(-1), np.nan, below / (positive.sum() * (~positive).sum()))


def test_auroc_by_ranks_equals_a_search_among_the_negatives():
    rng = np.random.default_rng(1)
    scores = np.round(rng.normal(size=(4, 5, 256)), 1)  # with ties
    scores[0, 0, 3], scores[1, 2, :4], scores[3] = np.nan, [np.inf, -np.inf, np.inf, -np.inf], 0.0
    positive = rng.random(256) < 0.1
    got = metrics.auroc(scores, positive)
    np.testing.assert_array_equal(got, searched_auroc(scores, positive))
    assert np.isnan(got[0, 0]) and np.isnan(got).sum() == 1
    assert metrics.auroc(scores[:0], positive).shape == (0, 5)


def test_auroc_knows_what_cannot_be_ranked():
    assert metrics.auroc([0.0, 1.0, 2.0], [False, True, True]) == 1.0
    assert metrics.auroc([-np.inf, 0.0, np.inf], [True, False, False]) == 0.0
    assert metrics.auroc(np.ones(5), [True, False, False, True, False]) == 0.5
    assert np.isnan(metrics.auroc([1.0, 2.0], [True, True]))
    assert np.isnan(metrics.auroc([1.0, 2.0], [False, False]))
    assert np.isnan(metrics.auroc([1.0, np.nan], [True, False]))
    with pytest.raises(InputError, match="do not match"):
        metrics.auroc(np.ones((2, 3)), np.ones(4, bool))


def test_iou_has_no_extra_pixel_and_half_is_a_hit():
    target = Box(0, 0, 10, 10)
    assert metrics.grounding_iou(Box(0, 0, 10, 5), target) == pytest.approx(0.5)
    assert metrics.is_hit(metrics.grounding_iou(Box(0, 0, 10, 5), target))
    assert not metrics.is_hit(metrics.grounding_iou(Box(0, 0, 10, 4.99), target))
    assert metrics.grounding_iou(None, target) == 0.0
    assert metrics.grounding_iou(Box(10, 10, 0, 0), target) == 0.0  # reversed corners are a miss


def test_accuracy():
    ious = [0.5, 0.499, 1.0, 0.0]
    assert metrics.accuracy(ious) == 0.5
    assert np.isnan(metrics.accuracy([]))


def test_target_tokens_are_the_cells_the_box_reaches_into():
    layout = TokenLayout.raster(4, 4, size=(80, 40), family="test")  # cells of 20 x 10 pixels
    found = metrics.target_tokens(layout, Box(20, 10, 60, 21)).reshape(4, 4)
    expected = np.zeros((4, 4), bool)
    expected[1:3, 1:3] = True  # edges shared at x = 20, 60 and y = 10; row 2 is touched by a pixel
    np.testing.assert_array_equal(found, expected)
    strict = metrics.target_tokens(layout, Box(20, 10, 60, 21), min_share=0.5).reshape(4, 4)
    assert strict.sum() == 2 and strict[1, 1:3].all()


def test_target_tokens_of_tiles_and_thumbnail_share_a_place():
    layout = TokenLayout.tiled(1, 2, (2, 2), size=(100, 50), family="test", thumbnail=True)
    found = metrics.target_tokens(layout, Box(1, 1, 20, 20))  # inside the top left cell of tile 0
    assert np.flatnonzero(found).tolist() == [0, 8]  # and the thumbnail's top left cell


def test_a_cell_shared_by_rounding_is_no_overlap():
    layout = TokenLayout.raster(7, 7, size=(49, 49), family="test")
    found = metrics.target_tokens(layout, Box(7, 7, 21, 21)).reshape(7, 7)
    assert found.sum() == 4 and found[1:3, 1:3].all()


def test_kept_share():
    positive = np.array([False, True, True, False, True, True])
    assert metrics.kept_share([0, 1, 2, 3], positive) == 0.5
    assert metrics.kept_share([], positive) == 0.0
    assert np.isnan(metrics.kept_share([0], np.zeros(6, bool)))
