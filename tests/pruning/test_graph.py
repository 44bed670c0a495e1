"""The hybrid graph against pairwise loops, in the true image plane."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from biaslab.core.layout import TokenLayout
from biaslab.pruning.algorithms.graph import HybridGraph, SpatialPlane

RASTER = TokenLayout.raster(5, 7, size=(640, 300), family="toy")
TILED = TokenLayout.tiled(2, 3, (4, 4), size=(900, 500), family="toy", thumbnail=True)


def features(n, d=12, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + 0.5


def slow(layout, feats, i, j, *, alpha, semantic, spatial, distance, sigma, radius):
    """Fused similarity of two tokens, from the definitions."""
    a, b = feats[i].double().numpy(), feats[j].double().numpy()
    cos = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    side = math.ceil(math.sqrt(layout.n))

    def place(k):
        if distance == "image":
            return layout.centers_px[k]
        return np.array([k, 0.0]) if distance == "index" else np.array([k % side, k // side], float)

    def cell(k):
        x0, y0, x1, y1 = layout.boxes[k]
        return np.array([x1 - x0, y1 - y0]) * layout.size if distance == "image" else np.ones(2)

    everywhere = np.array([place(k) for k in range(layout.n)])
    d_max = np.linalg.norm(everywhere.max(0) - everywhere.min(0))
    gap = np.abs(place(i) - place(j))
    d = np.linalg.norm(gap) / d_max
    near = (gap <= np.maximum(cell(i), cell(j)) * radius + 1e-6).all()
    spat = {"linear": 1 - d, "gaussian": math.exp(-(d**2) / (2 * sigma**2)), "neighbour": float(near)}[spatial]
    sem = cos if semantic == "cosine" else (cos + 1) / 2
    return alpha * sem + (1 - alpha) * spat


@pytest.mark.parametrize("layout", [RASTER, TILED], ids=["raster", "tiles+thumbnail"])
@pytest.mark.parametrize("spatial", ["linear", "gaussian", "neighbour"])
@pytest.mark.parametrize("distance", ["image", "index", "grid"])
def test_similarity_is_the_definition(layout, spatial, distance):
    feats = features(layout.n)
    for semantic, alpha in itertools.product(("cosine", "normalized"), (0.5, 1.0)):
        options = {"alpha": alpha, "semantic": semantic, "spatial": spatial, "sigma": 0.2, "radius": 1.0}
        graph = HybridGraph(feats, SpatialPlane.of(layout, distance=distance), theta=0.6, **options)
        rows, cols = torch.tensor([0, 3, 17, layout.n - 1]), torch.arange(0, layout.n, 3)
        want = [[slow(layout, feats, i, j, distance=distance, **options) for j in cols] for i in rows]
        got = graph.similarity(rows, cols)
        np.testing.assert_allclose(got.numpy(), want, atol=2e-6)
        assert (graph.edges(rows, cols) == (got > 0.6)).all()


def test_a_thumbnail_token_compares_by_the_place_it_shows():
    plane = SpatialPlane.of(TILED)
    last = TILED.n - 16  # first token of the thumbnail: the top left sixteenth of the image
    shown = TILED.centers_px[last] / TILED.size
    assert np.allclose(shown, [1 / 8, 1 / 8])
    gaps = (plane.points[: TILED.n - 16] - plane.points[last]).norm(dim=1)
    nearest = int(gaps.argmin())
    assert np.abs(TILED.centers[nearest] - shown).max() < 1 / 8
    assert gaps.max() > 0.7  # and far from the opposite corner
    along = SpatialPlane.of(TILED, distance="index")
    assert (along.points[last] - along.points[0]).norm() > 0.8  # which the sequence does not know


def test_distances_ignore_the_image_scale_but_not_its_shape():
    def plane(size):
        return SpatialPlane.of(TokenLayout.raster(4, 4, size=size, family="toy")).points

    assert torch.allclose(plane((100, 50)), plane((1000, 500)))
    assert not torch.allclose(plane((100, 50)), plane((100, 100)), atol=0.1)
    gaps = torch.cdist(plane((100, 50)), plane((100, 50)))
    assert gaps.max() == pytest.approx(1.0)  # 1 - d spans exactly [0, 1]


def test_one_token_has_no_distance():
    one = TokenLayout.raster(1, 1, size=(10, 10), family="toy")
    graph = HybridGraph(features(1), SpatialPlane.of(one))
    assert graph.similarity(torch.tensor([0]), torch.tensor([0])).item() == pytest.approx(1.0)
    assert graph.count_edges(torch.tensor([0])) == 0


@pytest.mark.parametrize("block", [3, 8, 512])
def test_edges_are_counted_without_all_pairs(monkeypatch, block):
    monkeypatch.setattr("biaslab.pruning.algorithms.graph._BLOCK", block)
    graph = HybridGraph(features(TILED.n), SpatialPlane.of(TILED), theta=0.5)
    nodes = torch.randperm(TILED.n, generator=torch.Generator().manual_seed(3))[:61]
    dense = graph.edges(nodes, nodes)
    want = int(dense.triu(1).sum())
    assert 0 < want < 61 * 60 // 2
    assert graph.count_edges(nodes) == want
    others = torch.arange(7)
    assert graph.count_edges(nodes, others) == int(graph.edges(nodes, others).sum())


def test_half_precision_features_are_compared_in_float32():
    feats = features(RASTER.n, d=64)
    full = HybridGraph(feats.bfloat16().float(), SpatialPlane.of(RASTER))
    half = HybridGraph(feats.bfloat16(), SpatialPlane.of(RASTER))
    every = torch.arange(RASTER.n)
    assert torch.equal(full.similarity(every, every), half.similarity(every, every))


def test_relaxing_the_threshold_only_removes_edges():
    graph = HybridGraph(features(RASTER.n), SpatialPlane.of(RASTER), theta=0.4)
    every = torch.arange(RASTER.n)
    strict, loose = graph.edges(every, every), graph.relaxed(0.6).edges(every, every)
    assert (loose <= strict).all() and loose.sum() < strict.sum()
