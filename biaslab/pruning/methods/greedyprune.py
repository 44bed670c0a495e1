"""GreedyPrune: the best token, then the best that is not too like it (arXiv 2506.13166)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from biaslab.pruning.algorithms.gains import Excluded, ranks
from biaslab.pruning.algorithms.greedy import greedy_orders
from biaslab.pruning.base import number
from biaslab.pruning.citation import Citation
from biaslab.pruning.methods.importance_method import ImportanceMethod
from biaslab.pruning.registry import register

__all__ = ["GreedyPrune"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class GreedyPrune(ImportanceMethod):
    """Keep the best tokens by score of which none is too like a better one.

    In descending score, ties by index: a token is kept unless ``cos(x_i, x_j) > tau`` for a kept j, x being the
    features that enter layer K. Those left out follow in descending score, where fewer than n tokens remain. It is the
    greedy maximal independent set of :class:`D2Pruner` on a graph of features alone, without pivots. ``tau = 1`` is the
    top n by score. What n tokens keep is a prefix of the order for any larger n.

    Parameters
    ----------
    tau : float
        Cosine above which a token is left out, in [-1, 1]; 0.9 in a reimplementation, the paper's own is unverified.
    by, **options
        The score, as :class:`~biaslab.pruning.methods.importance_method.ImportanceMethod` says; by default "last_text",
        the cosine of a token with the last token behind the image.

    Notes
    -----
    Written after a description of a reimplementation: which states the cosines are of, what follows when no token is
    left, and the published layer are **unverified**; ours are the features that enter layer K, and the best by score.

    References
    ----------
    arXiv 2506.13166.

    Examples
    --------
    >>> import torch
    >>> from biaslab.core.layout import TokenLayout
    >>> from biaslab.pruning import TokenContext
    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.2, 1.0], [0.0, -1.0]])
    >>> layout = TokenLayout.raster(2, 2, size=(200, 200), family="toy")
    >>> ctx = TokenContext(layout, budget=2, features=features, text=torch.tensor([[1.0, 0.0]]))
    >>> GreedyPrune().select(ctx).indices, GreedyPrune(tau=1.0).select(ctx).indices
    (tensor([0, 2]), tensor([0, 1]))
    """

    by: Any = "last_text"
    tau: float = 0.9

    name: ClassVar[str] = "greedyprune"
    needs: ClassVar[frozenset[str]] = frozenset({"features", "text"})
    source: ClassVar[Citation | None] = Citation(
        key="greedyprune2025",
        title="GreedyPrune: Retenting Critical Visual Token Set for Large Vision Language Models",
        year=2025,
        arxiv="2506.13166",
        authors=("Ruiguang Pei", "Weiqing Sun", "Zhihui Fu", "Jun Wang"),
    )
    cost: ClassVar[str] = "all cosines once, n steps of N"
    verified: ClassVar[str] = "partly: layer, threshold, filling; read by others"

    def __post_init__(self) -> None:
        super().__post_init__()
        number("tau", self.tau, -1, 1)

    def orders(self, images: Sequence[Tensor], scores: Sequence[Tensor], most: Sequence[int]) -> list[Tensor]:
        """List the tokens in the order of the greedy choice."""
        # a copy has a cosine of 1 but for rounding, and a tau of 1 leaves it in
        tau = self.tau if self.tau < 1 else float("inf")
        return greedy_orders(images, most, [ranks(own) for own in scores], partial(Excluded, tau=tau))
