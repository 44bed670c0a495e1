"""D2Pruner: debiased importance, then structural diversity (arXiv 2512.19443)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from biaslab.errors import InputError
from biaslab.pruning.algorithms.graph import GraphForm, HybridGraph, SpatialPlane
from biaslab.pruning.algorithms.graphs import HybridGraphs
from biaslab.pruning.algorithms.mis import Walk, block_for, greedy_walk, walk_together
from biaslab.pruning.algorithms.transfer import upload
from biaslab.pruning.base import Picked, TokenContext, choice, number, report_option, required
from biaslab.pruning.batch import TokenBatch, ranked
from biaslab.pruning.budgets import share
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
        Whether to report the edge density and whether the graph is degenerate; default no. It compares all pairs of
        candidates (in blocks), which the selection itself does not, and keeps the same tokens: no part of the label
        and of ``options_hash``, so runs recorded with it go on without.
    **options
        Those of :class:`Relative`.

    Notes
    -----
    ``Selection.info``: ``pivots``; ``mis_size`` tokens the independent set gave; ``filled`` tokens added when
    it had ended; ``overlap_topk`` share of the kept tokens that plain top-n by the same score keeps; ``pivot_indices``
    (visual token numbers); with ``diagnose`` also ``edge_density`` (edges over pairs of candidates;
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
    diagnose: bool = report_option(False, hashed=True)

    name: ClassVar[str] = "d2pruner"
    cost: ClassVar[str] = "one sort, a few rounds over an implicit graph"
    verified: ClassVar[str] = "partly: the form of the spatial similarity is open"
    nested: ClassVar[bool] = False  # pivots are a share of the budget
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

    def pick_batch(
        self, batch: TokenBatch, scores: Sequence[Tensor | None], budgets: Sequence[Sequence[int]]
    ) -> list[list[Picked]]:
        """Choose for all images and budgets: their greedy walks go on in step, and wait for the device together."""
        orders = _to_host(ranked([required(own, "scores") for own in scores]))
        graphs = HybridGraphs(
            [required(ctx.features, "features") for ctx in batch],
            [ctx.layout for ctx in batch],
            form=self._form,
            distance=self.distance,
            stack=batch.stack,
            first=batch.starts,
        )
        cases = [_Case(i, n, orders[i]) for i, wanted in enumerate(budgets) for n in wanted]
        groups = [(case, *group) for case in cases for group in self._split(batch[case.image], case)]
        walks = [self._walk(nodes, n, block_for(batch.device)) for _, nodes, n in groups]
        parts = walk_together(walks, lambda asked: graphs.answer([(groups[i][0].image, q) for i, q in asked]))
        for (case, *_), part in zip(groups, parts, strict=True):
            case.parts.append(part)
        if self.diagnose:
            self._count_edges(batch, cases)
        kept = upload(np.concatenate([case.kept for case in cases]), batch.device).split([case.n for case in cases])
        picked = iter([(own, case.info(self.diagnose)) for own, case in zip(kept, cases, strict=True)])
        return [[next(picked) for _ in wanted] for wanted in budgets]

    @property
    def _form(self) -> GraphForm:
        return GraphForm(
            alpha=self.alpha, semantic=self.semantic, spatial=self.spatial, sigma=self.sigma, radius=self.radius
        )

    def _split(self, ctx: TokenContext, case: _Case) -> list[tuple[np.ndarray, int]]:
        """List (nodes in score order, tokens to keep of them) per group that is treated apart."""
        if self.quota == "joint":
            return [(case.order, case.n)]
        tile = np.asarray(ctx.layout.tile)
        shares = apportion(np.bincount(tile).tolist(), case.n)
        return [(case.order[tile[case.order] == t], n) for t, n in enumerate(shares) if n]

    def _walk(self, order: np.ndarray, n: int, block: int) -> Walk[_Part]:
        """Choose n of one group: pivots, independent set, filling."""
        first = share(self.pivot_ratio, n)
        pivots, rest = order[:first], order[first:]
        blockers = pivots if self.pivots_suppress else None
        diverse = yield from greedy_walk(rest, limit=n - first, blockers=blockers, block=block, theta=self.theta)
        missing = n - first - len(diverse)
        filling = rest[:0]
        if missing:
            filling = yield from self._fill(rest, diverse, blockers, missing, block)
        return _Part(pivots, rest, diverse, filling)

    def _fill(
        self, rest: np.ndarray, diverse: np.ndarray, blockers: np.ndarray | None, missing: int, block: int
    ) -> Walk[np.ndarray]:
        """Choose ``missing`` more of ``rest``, which is in score order."""
        taken = diverse if blockers is None else np.concatenate([blockers, diverse])
        candidates, added = _without(rest, diverse), rest[:0]
        theta = self.theta
        # no similarity exceeds 1: at a higher threshold there are no edges left and the score alone decides
        while self.fill == "relax" and len(added) < missing and (theta := theta + self.relax_step) < 1:
            left = missing - len(added)
            more = yield from greedy_walk(candidates, limit=left, blockers=taken, block=block, theta=theta)
            candidates, taken = _without(candidates, more), np.concatenate([taken, more])
            added = np.concatenate([added, more])
        return np.concatenate([added, candidates[: missing - len(added)]])

    def _count_edges(self, batch: TokenBatch, cases: list[_Case]) -> None:
        """Count the edges of every group, and all that could be; one transfer for all."""
        counts: list[Tensor] = []
        for case in cases:
            graph = self.graph(batch[case.image])
            for part in case.parts:
                rest, pivots = (upload(nodes, batch.device) for nodes in (part.rest, part.pivots))
                m = len(rest)
                counts.append(graph.number_of_edges(rest))
                case.pairs += m * (m - 1) // 2
                if self.pivots_suppress and len(pivots) and m:
                    counts[-1] += graph.number_of_edges(pivots, rest)
                    case.pairs += len(pivots) * m
        edges = iter(torch.stack(counts).tolist())
        for case in cases:
            case.edges = sum(next(edges) for _ in case.parts)


class _Part(NamedTuple):
    """What was kept of one group of tokens, and the candidates it was kept of."""

    pivots: np.ndarray
    rest: np.ndarray
    diverse: np.ndarray
    filling: np.ndarray


@dataclass
class _Case:
    """One image at one budget."""

    image: int
    n: int
    order: np.ndarray
    parts: list[_Part] = field(default_factory=list)
    edges: int = 0
    pairs: int = 0

    @property
    def kept(self) -> np.ndarray:
        """(n,) positions, group by group."""
        return np.concatenate([x for part in self.parts for x in (part.pivots, part.diverse, part.filling)])

    def info(self, diagnosed: bool) -> dict[str, Any]:
        in_top = np.zeros(len(self.order), dtype=bool)
        in_top[self.order[: self.n]] = True
        pivots = [i for part in self.parts for i in part.pivots.tolist()]
        info = {
            "pivots": len(pivots),
            "mis_size": sum(len(part.diverse) for part in self.parts),
            "filled": sum(len(part.filling) for part in self.parts),
            "overlap_topk": int(in_top[self.kept].sum()) / self.n,
            "pivot_indices": pivots,
        }
        if diagnosed:
            info["edge_density"] = self.edges / self.pairs if self.pairs else 0.0
            info["degenerate"] = {0: "empty", self.pairs: "complete"}.get(self.edges) if self.pairs else None
        return info


def _to_host(orders: Sequence[Tensor]) -> list[np.ndarray]:
    """Bring the orders of all images to the host in one transfer."""
    flat = (orders[0] if len(orders) == 1 else torch.cat(list(orders))).cpu().numpy()
    return np.split(flat, np.cumsum([len(order) for order in orders])[:-1])


def _without(nodes: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """Leave out of ``nodes`` those in ``gone``, order unchanged."""
    return nodes[~np.isin(nodes, gone)]
