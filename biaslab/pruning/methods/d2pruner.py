"""D2Pruner: debiased importance, then structural diversity (arXiv 2512.19443)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from biaslab.errors import InputError
from biaslab.pruning.algorithms.graph import HybridGraph, SpatialPlane
from biaslab.pruning.algorithms.mis import greedy_mis
from biaslab.pruning.base import TokenContext, choice, descending, number, required, share
from biaslab.pruning.methods.relative import Relative
from biaslab.pruning.methods.uniform import apportion
from biaslab.pruning.registry import register

__all__ = ["D2Pruner"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class D2Pruner(Relative):
    """Keep the best tokens by relative attention, then a diverse set of the others.

    Of n tokens to keep, the first ``floor(pivot_ratio * n)`` by relative attention are pivots. Over the
    others a greedy maximal independent set of the hybrid graph is walked in descending relative attention
    until n tokens are kept. What the paper leaves open is an option each.

    Parameters
    ----------
    alpha : float
        Weight of semantic against spatial similarity: 1 for general understanding (paper), 0.5 for localization.
    theta : float
        Similarity above which two tokens are neighbours, in [-1, 1).
    pivot_ratio : float
        Share of the budget that goes to pivots.
    semantic : {"cosine", "normalized"}
        "normalized" for (cosine + 1) / 2.
    spatial : {"linear", "gaussian", "neighbour"}
        "linear": 1 - d / d_max; "gaussian": exp(-d^2 / (2 sigma^2)); "neighbour": 1 within ``radius`` cells, else 0.
    sigma : float
        Of the Gaussian (``spatial="gaussian"`` alone), as a share of d_max, the largest distance between tokens of the
        image.
    radius : float
        Of the neighbourhood (``spatial="neighbour"`` alone), in cells.
    distance : {"image", "index", "grid"}
        "image": between cell centres in the original image; "index": along the sequence; "grid": on a sqrt(N) grid.
    pivots_suppress : bool
        Whether neighbours of pivots are dropped from the candidates as well (reproductions: no).
    fill : {"score", "relax"}
        When the independent set ends before n tokens, "score": the best of the rest; "relax": raise theta by
        ``relax_step`` and continue the greedy, until n are kept.
    relax_step : float
        For ``fill="relax"``.
    quota : {"joint", "tile"}
        "joint": one budget for all tiles; "tile": every tile (and the thumbnail) gets its share of the budget in
        proportion to its tokens and is treated apart, with its own pivots.
    diagnose : bool
        Whether to report the edge density and whether the graph is degenerate. It compares all pairs of candidates
        (in blocks), which the selection itself does not.
    **options
        Those of :class:`Relative`.

    Notes
    -----
    ``Selection.info``: ``pivots``; ``mis_size`` tokens the independent set gave; ``filled`` tokens added when
    it had ended; ``overlap_topk`` share of the kept tokens that plain top-n by the same score keeps; with
    ``diagnose`` also ``pivot_indices`` (visual token numbers), ``edge_density`` (edges over pairs of candidates;
    with ``pivots_suppress`` the pairs of a pivot and a candidate count too) and ``degenerate``: "empty" (no
    edge) or "complete" (all edges), where D2Pruner (filling by score) is nothing but top-n; else None.

    References
    ----------
    arXiv 2512.19443.

    Examples
    --------
    >>> from biaslab.core.layout import TokenLayout
    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.9, 0.1], [0.0, 1.0]])
    >>> attention = torch.tensor([[[0.4, 0.3, 0.2, 0.1]]])  # (1 head, 1 query row, 4 tokens)
    >>> layout = TokenLayout.raster(2, 2, size=(200, 200), family="toy")
    >>> ctx = TokenContext(layout, budget=2, attention=attention, features=features)
    >>> method = D2Pruner(debias="none", alpha=1.0, pivot_ratio=0.0)
    >>> selection = method.select(ctx)
    >>> selection.indices  # the best token, then the best that is no neighbour of it
    tensor([0, 3])
    >>> selection.info["mis_size"], selection.info["overlap_topk"]
    (2, 0.5)
    """

    alpha: float = 0.5
    theta: float = 0.8
    pivot_ratio: float = 0.7
    semantic: str = "cosine"
    spatial: str = "linear"
    sigma: float = 0.1
    radius: float = 1.0
    distance: str = "image"
    pivots_suppress: bool = False
    fill: str = "score"
    relax_step: float = 0.05
    quota: str = "joint"
    diagnose: bool = True

    name: ClassVar[str] = "d2pruner"
    needs: ClassVar[frozenset[str]] = frozenset({"attention", "features", "profile"})

    def __post_init__(self) -> None:
        super().__post_init__()
        number("alpha", self.alpha, 0, 1)
        number("theta", self.theta, -1, 1, open_high=True, why="no similarity exceeds 1, and none is below -1")
        number("pivot_ratio", self.pivot_ratio, 0, 1)
        number("sigma", self.sigma, 0, open_low=True)
        number("radius", self.radius, 0)
        number("relax_step", self.relax_step, 0, open_low=True)
        choice("semantic", self.semantic, ("cosine", "normalized"))
        choice("spatial", self.spatial, ("linear", "gaussian", "neighbour"))
        choice("distance", self.distance, ("image", "index", "grid"))
        choice("fill", self.fill, ("score", "relax"))
        choice("quota", self.quota, ("joint", "tile"))
        choice("pivots_suppress", self.pivots_suppress, (True, False))
        choice("diagnose", self.diagnose, (True, False))
        for name, needed, has in (
            ("sigma", "spatial=gaussian", self.spatial == "gaussian"),
            ("radius", "spatial=neighbour", self.spatial == "neighbour"),
            ("relax_step", "fill=relax", self.fill == "relax"),
        ):
            if not has and getattr(self, name) != getattr(type(self), name):
                raise InputError(f"{name} does nothing without {needed}: add it, or leave {name} out")

    @property
    def needs_layout(self) -> bool:
        """Unless neither profile nor graph nor quota looks at the image."""
        in_image = self.distance == "image" and self.alpha < 1
        return super().needs_layout or in_image or self.quota == "tile"

    def graph(self, ctx: TokenContext) -> HybridGraph:
        """Make the hybrid graph over all visual tokens of an image."""
        features = required(ctx.features, "features")
        plane = SpatialPlane.of(ctx.layout, distance=self.distance, device=features.device)
        return HybridGraph(
            features, plane, alpha=self.alpha, theta=self.theta, semantic=self.semantic, spatial=self.spatial,
            sigma=self.sigma, radius=self.radius,
        )  # fmt: skip

    def pick(self, ctx: TokenContext, scores: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        """Choose pivots, independent set and filling, for all tiles at once or tile by tile."""
        graph, order = self.graph(ctx), descending(required(scores, "scores"))
        parts = [self._pick_from(graph, nodes, n) for nodes, n in self._split(ctx, order) if n]
        kept = torch.cat([part.kept for part in parts])
        in_top = torch.zeros(ctx.n, dtype=torch.bool, device=kept.device)
        in_top[order[: ctx.budget]] = True
        info: dict[str, Any] = {
            "pivots": sum(part.pivots.numel() for part in parts),
            "mis_size": sum(part.mis_size for part in parts),
            "filled": sum(part.filled for part in parts),
            "overlap_topk": float(in_top[kept].sum()) / ctx.budget,
        }
        if self.diagnose:
            info["pivot_indices"] = torch.cat([part.pivots for part in parts]).tolist()
            edges, pairs = sum(part.edges for part in parts), sum(part.pairs for part in parts)
            info["edge_density"] = edges / pairs if pairs else 0.0
            info["degenerate"] = {0: "empty", pairs: "complete"}.get(edges) if pairs else None
        return kept, info

    def _split(self, ctx: TokenContext, order: Tensor) -> list[tuple[Tensor, int]]:
        """List (nodes in score order, tokens to keep of them) per group that is treated apart."""
        if self.quota == "joint":
            return [(order, ctx.budget)]
        tile = torch.from_numpy(np.array(ctx.layout.tile)).to(order.device)[order]
        sizes = np.bincount(ctx.layout.tile).tolist()
        return [(order[tile == t], n) for t, n in enumerate(apportion(sizes, ctx.budget))]

    def _pick_from(self, graph: HybridGraph, order: Tensor, n: int) -> _Part:
        first = share(self.pivot_ratio, n)
        pivots, rest = order[:first], order[first:]
        blockers = pivots if self.pivots_suppress else None
        diverse = greedy_mis(rest, graph.edges, limit=n - first, blockers=blockers)
        missing = n - first - diverse.numel()
        kept = torch.cat([pivots, diverse])
        if missing:
            kept = torch.cat([kept, self._fill(graph, rest, diverse, blockers, missing)])
        part = _Part(kept, pivots=pivots, mis_size=diverse.numel(), filled=missing)
        if self.diagnose:
            m = rest.numel()
            part.edges, part.pairs = graph.count_edges(rest), m * (m - 1) // 2
            if self.pivots_suppress and first and m:
                part.edges += graph.count_edges(pivots, rest)
                part.pairs += first * m
        return part

    def _fill(self, graph: HybridGraph, rest: Tensor, diverse: Tensor, blockers: Tensor | None, missing: int) -> Tensor:
        """Choose ``missing`` more of ``rest``, which is in score order."""
        taken = diverse if blockers is None else torch.cat([blockers, diverse])
        candidates, added = _without(rest, diverse), rest.new_empty(0)
        theta = graph.theta
        # no similarity exceeds 1: at a higher threshold there are no edges left and the score alone decides
        while self.fill == "relax" and added.numel() < missing and (theta := theta + self.relax_step) < 1:
            more = greedy_mis(candidates, graph.relaxed(theta).edges, limit=missing - added.numel(), blockers=taken)
            candidates, taken, added = _without(candidates, more), torch.cat([taken, more]), torch.cat([added, more])
        return torch.cat([added, candidates[: missing - added.numel()]])


@dataclass
class _Part:
    """What was kept of one group of tokens."""

    kept: Tensor
    pivots: Tensor
    mis_size: int
    filled: int
    edges: int = 0
    pairs: int = 0


def _without(nodes: Tensor, gone: Tensor) -> Tensor:
    """Leave out of ``nodes`` those in ``gone``, order unchanged."""
    return nodes[~torch.isin(nodes, gone)]
