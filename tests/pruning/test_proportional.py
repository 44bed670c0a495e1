"""Sampling in proportion: the curve, the inclusion probabilities and the choice against slow references."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biaslab.core.curve import curve_order
from biaslab.core.layout import TokenLayout
from biaslab.pruning.algorithms.proportional import inclusion, proportional, proportional_batch


@pytest.mark.parametrize("side", [2, 4, 16])
def test_on_a_square_the_curve_steps_from_neighbour_to_neighbour(side):
    order = curve_order(TokenLayout.raster(side, side, size=(side, side), family="toy"))
    row, col = order // side, order % side
    assert (np.abs(np.diff(row)) + np.abs(np.diff(col)) == 1).all()
    assert sorted(order.tolist()) == list(range(side * side))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_of_every_layout_each_token_once_the_thumbnail_last(family):
    for layout in tiny.encoded(tiny.vlm(family), 3).layouts:
        order = curve_order(layout)
        assert sorted(order.tolist()) == list(range(layout.n))
        assert (np.diff(layout.thumbnail[order].astype(int)) >= 0).all()
        centers = (layout.centers / (layout.boxes[:, 2:] - layout.boxes[:, :2]).min(0))[order]
        same = layout.thumbnail[order][1:] == layout.thumbnail[order][:-1]
        along = np.abs(np.diff(centers, axis=0)).sum(1)[same].mean()
        mixed = np.abs(np.diff(np.random.default_rng(0).permutation(centers), axis=0)).sum(1).mean()
        assert along < mixed / 1.5 or layout.n < 16


def by_bisection(density, n):
    low, high = 0.0, n / float(density.min())
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((middle * density).clamp(max=1).sum()) < n else (low, middle)
    return (high * density).clamp(max=1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.sampled_from([0.0, 1.0, 4.0, 12.0]))
def test_inclusion_and_choice(seed, size, spread):
    g = torch.Generator().manual_seed(seed)
    density = torch.exp(spread * torch.randn(size, generator=g, dtype=torch.float64))
    order = torch.randperm(size, generator=g)
    for n in {1, size // 3, size - 1, size} - {0}:
        wanted = inclusion(density, n)
        torch.testing.assert_close(wanted, by_bisection(density, n), atol=1e-9, rtol=1e-9)
        assert float(wanted.sum()) == pytest.approx(n)
        kept = proportional(density, order, n)
        assert len(set(kept.tolist())) == n and kept.tolist() == sorted(kept.tolist())
        # of any stretch of the curve as many as its probabilities add up to, give or take one
        taken = torch.zeros(size, dtype=torch.float64)
        taken[kept] = 1
        difference = (taken[order] - wanted[order]).cumsum(0)
        assert float(difference.max() - difference.min()) <= 1 + 1e-6
        certain = (wanted > 1 - 1e-12).nonzero().flatten().tolist()
        assert set(certain) <= set(kept.tolist())


def test_even_density_keeps_every_other_token():
    order = torch.arange(12)
    assert proportional(torch.ones(12), order, 6).tolist() == [0, 2, 4, 6, 8, 10]
    assert proportional(torch.ones(12), order, 0).tolist() == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_half_the_tokens_certain_the_rest_by_density(dtype):
    density = torch.cat([torch.full((20,), 50.0), torch.full((300,), 0.01)]).to(dtype)
    kept = proportional(density, torch.arange(320), 30)
    assert kept[:20].tolist() == list(range(20)) and len(kept) == 30
    assert (kept[20:].diff() == 30).all()


@pytest.mark.parametrize("one_curve", [True, False])
def test_images_and_budgets_are_chosen_from_together(one_curve):
    g = torch.Generator().manual_seed(3)
    density = torch.exp(2 * torch.randn(5, 30, generator=g, dtype=torch.float64))
    curves = torch.stack([torch.randperm(30, generator=g) for _ in density])
    order, budgets = (curves[0] if one_curve else curves), [7, 30, 0, 1, 18]
    found = proportional_batch(density, order, budgets)
    assert [tuple(rows.shape) for rows in found] == [(5, n) for n in budgets]
    for n, rows in zip(budgets, found, strict=True):
        for i, row in enumerate(rows):
            assert torch.equal(row.sort().values, proportional(density[i], curves[0 if one_curve else i], n))
