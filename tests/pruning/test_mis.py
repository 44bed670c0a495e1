"""The greedy independent set against the obvious loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biaslab.pruning.algorithms.mis import greedy_mis
from biaslab.pruning.base import descending


def obvious(order, adjacent, limit=None, blockers=()):
    """Visit, take unless a taken node is adjacent, stop at the limit."""
    taken, before = list(blockers), len(blockers)
    for node in order:
        if limit is not None and len(taken) - before >= limit:
            break
        if not any(adjacent[t, node] for t in taken):
            taken.append(node)
    return taken[before:]


class Dense:
    """A graph given as a matrix, that counts what it is asked."""

    def __init__(self, adjacent):
        self.adjacent = torch.as_tensor(adjacent)
        self.calls = self.cells = self.largest = 0

    def __call__(self, rows, cols):
        self.calls += 1
        self.cells += rows.numel() * cols.numel()
        self.largest = max(self.largest, rows.numel() * cols.numel())
        return self.adjacent[rows][:, cols]


@st.composite
def graphs(draw):
    n = draw(st.integers(1, 90))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    density = draw(st.sampled_from([0.0, 0.02, 0.2, 0.7, 1.0]))
    adjacent = rng.random((n, n)) < density
    if draw(st.booleans()):
        adjacent |= adjacent.T
    order = rng.permutation(n)[: draw(st.integers(0, n))]
    others = np.setdiff1d(np.arange(n), order)
    blockers = others[: draw(st.integers(0, len(others)))]
    limit = draw(st.one_of(st.none(), st.integers(0, n + 1)))
    return order, adjacent, limit, blockers, draw(st.sampled_from([1, 2, 7, 64, 512]))


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_equals_the_obvious_loop(case):
    order, adjacent, limit, blockers, block = case
    got = greedy_mis(
        torch.from_numpy(order),
        Dense(adjacent),
        limit=limit,
        blockers=torch.from_numpy(blockers) if len(blockers) else None,
        block=block,
    )
    assert got.tolist() == obvious(order, adjacent, limit, blockers)


@pytest.mark.parametrize("n", [255, 256, 1000, 4096])
@pytest.mark.parametrize("density", [0.0005, 0.01, 0.3])
def test_large_graphs(n, density):
    rng = np.random.default_rng(n)
    adjacent = np.triu(rng.random((n, n), dtype=np.float32) < density, 1)
    adjacent |= adjacent.T
    order = rng.permutation(n)
    for limit in (max(1, n // 10), n):
        blocked, want = np.zeros(n, dtype=bool), []
        for node in order:  # the same loop, with a set of suppressed nodes to be quick enough
            if len(want) == limit:
                break
            if not blocked[node]:
                want.append(node)
                blocked |= adjacent[node]
        assert greedy_mis(torch.from_numpy(order), Dense(adjacent), limit=limit).tolist() == want


@pytest.mark.parametrize("reach", [1, 9, 700])
def test_long_chains_of_suppression(reach):
    """Interval graphs in index order: whether a node is taken depends on the whole chain before it."""
    n = 1500
    i = np.arange(n)
    adjacent = np.abs(i[:, None] - i[None]) <= reach
    got = greedy_mis(torch.arange(n), Dense(adjacent))
    assert got.tolist() == list(range(0, n, reach + 1))


def test_degenerate_graphs():
    n = 700
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    empty, complete = np.zeros((n, n), dtype=bool), np.ones((n, n), dtype=bool)
    assert greedy_mis(order, Dense(empty), limit=300).tolist() == order[:300].tolist()
    assert greedy_mis(order, Dense(complete), limit=300).tolist() == order[:1].tolist()
    assert greedy_mis(order[:0], Dense(empty), limit=3).tolist() == []
    assert greedy_mis(order, Dense(complete), limit=5, blockers=order[:1]).tolist() == []


def test_ties_go_to_the_lower_index():
    scores = torch.tensor([0.5, 0.9, 0.5, 0.9, 0.1])
    assert descending(scores).tolist() == [1, 3, 0, 2, 4]
    adjacent = np.zeros((5, 5), dtype=bool)
    adjacent[1, 3] = adjacent[3, 1] = True
    assert greedy_mis(descending(scores), Dense(adjacent), limit=3).tolist() == [1, 0, 2]


def test_small_budgets_look_at_little_of_the_graph():
    n = 4096
    rng = np.random.default_rng(1)
    adjacent = rng.random((n, n), dtype=np.float32) < 0.01
    graph = Dense(adjacent | adjacent.T)
    greedy_mis(torch.arange(n), graph, limit=40)
    assert graph.cells < n * n / 100
    assert graph.calls <= 8


@pytest.mark.parametrize("density", [0.0, 0.002, 0.05, 0.5, 1.0])
def test_never_all_pairs_at_once_and_few_transfers(density):
    n = 4096
    rng = np.random.default_rng(2)
    adjacent = rng.random((n, n), dtype=np.float32) < density
    graph = Dense(adjacent | adjacent.T)
    greedy_mis(torch.arange(n), graph, limit=n // 10)
    assert graph.largest <= 2**22
    assert graph.calls <= 20


def test_the_last_nodes_of_a_filling_plane_cost_few_rounds():
    """Discs in a square: the first nodes come easily, the last only after a long search."""
    n = 4096
    points = torch.rand(n, 2, generator=torch.Generator().manual_seed(0))
    adjacent = (torch.cdist(points, points) < 0.1).numpy()
    everything = greedy_mis(torch.arange(n), Dense(adjacent))
    for missing in (0, 1):
        graph = Dense(adjacent)
        got = greedy_mis(torch.arange(n), graph, limit=everything.numel() - missing)
        assert torch.equal(got, everything[: everything.numel() - missing])
        assert graph.calls <= 20
