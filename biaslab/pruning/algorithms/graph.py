"""The hybrid graph of D2Pruner: tokens that say the same at nearly the same place are neighbours."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from biaslab.core.layout import TokenLayout

__all__ = ["CPU_CELLS", "GraphForm", "HybridGraph", "SpatialPlane", "scales"]

#: similarities a CPU computes at once, 512 KiB: what is done to them then finds them in the cache
CPU_CELLS = 2**17
_BLOCK = 512
_TINY = 1e-12


@dataclass(frozen=True)
class SpatialPlane:
    """Where tokens lie, in units of ``d_max``.

    Attributes
    ----------
    points : (N, 2) float32 Tensor
        Positions divided by ``d_max``, the diagonal of the smallest box around all tokens' positions. On a grid that
        is the largest distance between two tokens, so that ``1 - d`` spans exactly [0, 1]; it is taken over all
        tokens of the image, pivots included, so that the graph does not change with the pivots.
    cells : (N, 2) float32 Tensor
        Width and height of each token's cell in the same unit.
    """

    points: Tensor
    cells: Tensor

    @classmethod
    def of(cls, layout: TokenLayout, *, distance: str = "image", device: torch.device | str = "cpu") -> SpatialPlane:
        """Make the plane in which distances are measured.

        Parameters
        ----------
        layout : TokenLayout
            Of the image.
        distance : {"image", "index", "grid"}
            "image": cell centres in pixels of the original image, so that a thumbnail token and a tile token
            compare by the place they show. "index": position in the sequence. "grid": the sequence folded into
            rows of ceil(sqrt(N)), as reproductions do, which is wrong for tiled input.
        device : torch.device or str

        Returns
        -------
        SpatialPlane

        Examples
        --------
        >>> plane = SpatialPlane.of(TokenLayout.raster(1, 3, size=(300, 100), family="toy"))
        >>> plane.points - plane.points[0]
        tensor([[0.0000, 0.0000],
                [0.5000, 0.0000],
                [1.0000, 0.0000]])
        """
        points, cells = cls.arrays(layout, distance)
        return cls(torch.from_numpy(points).to(device), torch.from_numpy(cells).to(device))

    @staticmethod
    def arrays(layout: TokenLayout, distance: str) -> tuple[np.ndarray, np.ndarray]:
        """Compute points and cells: two (N, 2) float32 arrays."""
        n = layout.n
        ones = np.ones((n, 2))
        if distance == "image":
            points, cells = layout.centers_px, (layout.boxes[:, 2:] - layout.boxes[:, :2]) * layout.size
        elif distance == "index":
            points, cells = np.stack([np.arange(n), np.zeros(n)], axis=1), ones
        else:
            side = math.isqrt(n - 1) + 1
            points, cells = np.stack(np.divmod(np.arange(n), side)[::-1], axis=1), ones
        longest = float(np.hypot(*np.ptp(points, axis=0))) or 1.0
        return (points / longest).astype(np.float32), (cells / longest).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class GraphForm:
    """What makes a similarity of two tokens: options of :class:`HybridGraph`, which see."""

    alpha: float = 0.5
    semantic: str = "cosine"
    spatial: str = "linear"
    sigma: float = 0.1
    radius: float = 1.0

    def fuse(self, products: Tensor, scales: tuple[Tensor, Tensor], points: tuple[Tensor, Tensor],
             cells: tuple[Tensor, Tensor]) -> Tensor:  # fmt: skip
        """Turn products of features into similarities, in place; element by element, so no entry depends on others.

        Parameters
        ----------
        products : (..., R, C) float32 Tensor
        scales : ((..., R), (..., C)) Tensor
            Factors of rows and columns, of :func:`scales`.
        points, cells : ((2, ..., R), (2, ..., C)) Tensor
            Positions and sizes of the tokens of rows and columns, x and y apart.
        """
        # the norms divide the product, which is smaller than the features
        fused = products.mul_(scales[0][..., None]).mul_(scales[1][..., None, :])
        if self.alpha < 1:
            fused.add_(self._spatial(points, cells), alpha=1 - self.alpha)
        return fused if self.semantic == "cosine" else fused.add_(self.alpha / 2)

    def _spatial(self, points: tuple[Tensor, Tensor], cells: tuple[Tensor, Tensor]) -> Tensor:
        # x and y apart: on two coordinates this is quicker than cdist, and unlike its form through a matrix
        # product it keeps the short distances, which are those that matter
        dx, dy = (points[0][i][..., None] - points[1][i][..., None, :] for i in (0, 1))
        if self.spatial == "neighbour":
            width, height = (torch.maximum(cells[0][i][..., None], cells[1][i][..., None, :]) for i in (0, 1))
            reach = self.radius * (1 + 1e-4)
            return ((dx.abs_() <= width * reach) & (dy.abs_() <= height * reach)).float()
        squared = dx.mul_(dx).addcmul_(dy, dy)
        if self.spatial == "linear":
            return squared.sqrt_().neg_().add_(1)
        return squared.mul_(-0.5 / self.sigma**2).exp_()


def scales(norms: Tensor, form: GraphForm) -> Tensor:
    """Make the factors that turn a product of features into the weighted semantic similarity; ``norms`` is spent."""
    # (cos + 1) / 2 is half the cosine and a constant
    gain = form.alpha if form.semantic == "cosine" else form.alpha / 2
    return math.sqrt(gain) / norms.clamp_min_(_TINY)


@dataclass(frozen=True)
class HybridGraph:
    """Edges where ``alpha * S_sem + (1 - alpha) * S_spat > theta``, computed in blocks on demand.

    Attributes
    ----------
    features : (N, D) Tensor
        Hidden states, any float dtype; compared in float32.
    plane : SpatialPlane
        Positions of the same tokens.
    alpha : float
        Weight of the semantic part.
    theta : float
        Threshold.
    semantic : {"cosine", "normalized"}
        "cosine" in [-1, 1], or "normalized": (cosine + 1) / 2.
    spatial : {"linear", "gaussian", "neighbour"}
        "linear": 1 - d / d_max. "gaussian": exp(-d^2 / (2 sigma^2)), d in units of d_max. "neighbour": 1 where the
        centres are at most ``radius`` cells apart in x and in y (of the larger of the two cells), else 0.
    sigma : float
        Of the Gaussian, in units of d_max.
    radius : float
        Of the neighbourhood, in cells.

    References
    ----------
    Equation and alpha, theta: arXiv 2512.19443 as transcribed; the forms of both similarities are ours to choose
    (the paper leaves them open).

    Examples
    --------
    >>> plane = SpatialPlane.of(TokenLayout.raster(1, 3, size=(300, 100), family="toy"))
    >>> graph = HybridGraph(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), plane, theta=0.6)
    >>> tokens = torch.arange(3)
    >>> graph.similarity(tokens, tokens)
    tensor([[1.0000, 0.7500, 0.0000],
            [0.7500, 1.0000, 0.2500],
            [0.0000, 0.2500, 1.0000]])
    >>> graph.count_edges(tokens)
    1
    """

    features: Tensor
    plane: SpatialPlane
    _: KW_ONLY
    alpha: float = 0.5
    theta: float = 0.8
    semantic: str = "cosine"
    spatial: str = "linear"
    sigma: float = 0.1
    radius: float = 1.0

    @cached_property
    def form(self) -> GraphForm:
        """The options of the similarity."""
        return GraphForm(
            alpha=self.alpha, semantic=self.semantic, spatial=self.spatial, sigma=self.sigma, radius=self.radius
        )

    def similarity(self, rows: Tensor, cols: Tensor) -> Tensor:
        """Fuse the similarities of two sets of tokens: (len(rows), len(cols)) float32."""
        return self._fused(self._rows(rows), rows, cols)

    def edges(self, rows: Tensor, cols: Tensor) -> Tensor:
        """Tell which tokens are neighbours, (len(rows), len(cols)) bool; a token's edge to itself has no meaning."""
        if rows.device.type != "cpu" or rows.numel() * cols.numel() <= CPU_CELLS:
            return self.similarity(rows, cols) > self.theta
        left = self._rows(rows)
        strips = cols.split(max(1, CPU_CELLS // rows.numel()))
        return torch.cat([self._fused(left, rows, strip) > self.theta for strip in strips], 1)

    def count_edges(self, nodes: Tensor, others: Tensor | None = None) -> int:
        """Count the edges among ``nodes``, or between ``nodes`` and ``others``, without ever holding all pairs."""
        return int(self.number_of_edges(nodes, others))

    def number_of_edges(self, nodes: Tensor, others: Tensor | None = None) -> Tensor:
        """Count as `count_edges`, without waiting for the device: an int64 scalar on it."""
        total = torch.zeros((), dtype=torch.long, device=nodes.device)
        for start in range(0, nodes.numel(), _BLOCK):
            rows = nodes[start : start + _BLOCK]
            # columns start at the first row, so that above the diagonal every pair appears once
            edges = self.edges(rows, nodes[start:]).triu_(1) if others is None else self.edges(rows, others)
            total += edges.sum()
        return total

    def relaxed(self, theta: float) -> HybridGraph:
        """Copy the graph, at another threshold."""
        return replace(self, theta=theta)

    @cached_property
    def _scale(self) -> Tensor:
        return scales(torch.linalg.vector_norm(self.features, dim=1, dtype=torch.float32), self.form)

    def _rows(self, tokens: Tensor) -> Tensor:
        return self.features.index_select(0, tokens).float()

    def _fused(self, left: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        """Fuse the similarity of the tokens ``rows``, whose features are ``left``, to the tokens ``cols``."""
        right = left if rows is cols else self._rows(cols)
        scale = self._scale.index_select(0, rows), self._scale.index_select(0, cols)
        points, cells = (
            (x.index_select(0, rows).T, x.index_select(0, cols).T) for x in (self.plane.points, self.plane.cells)
        )
        return self.form.fuse(left @ right.T, scale, points, cells)
