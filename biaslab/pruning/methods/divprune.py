"""DivPrune: the subset whose closest pair is as far apart as can be (arXiv 2503.02175)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from biaslab.pruning.algorithms.max_min import max_min_orders
from biaslab.pruning.base import Method, Picked, added_option, choice, required
from biaslab.pruning.batch import TokenBatch, prefixes
from biaslab.pruning.citation import Citation
from biaslab.pruning.registry import register

__all__ = ["DivPrune"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class DivPrune(Method):
    """Keep a max-min diverse subset in cosine distance (arXiv 2503.02175, Algorithm 1).

    Greedy: start from one token, then always add the token whose nearest kept token is farthest. Ties go to the lower
    index; no step waits for the device. What n tokens keep is a prefix of the order for any larger n.

    The similarities of all pairs of tokens (N x N float32, 47 MB at 3,434 tokens) are computed once, image by image,
    and all images of a batch walk together. Above 16,384 tokens they would take more than 1 GiB: then each step costs a
    product with the N features, and memory is N running minima.

    Parameters
    ----------
    start : {"isolated", "central"}
        "isolated" (the paper): the token farthest from its nearest neighbour; costs one pass over all pairs, in
        blocks. "central" (ours): the token closest to the mean direction; no pass over pairs.
    rounding : {"down", "published"}
        Of a share of the N tokens: "down" (ours) as every method rounds, ``max(1, floor(keep * N))``; "published" as
        the released code does, to the nearest whole number and from the middle to the even one, ``round(keep * N)``,
        but at least 1. Counts stay as they are. Keeps that are matched by cost (``--match``) are chosen as if it
        rounded down.

    Notes
    -----
    Published before the decoder with a share of 0.098, on projected embeddings: K = 0 here. Differs from the released
    code: similarities are float32, where it takes the model's precision, so that ties and the start may differ; a
    chosen token is never chosen again, where exact copies could repeat an index; kept tokens stay at their positions,
    where it renumbers them: ``positions="renumber"`` for parity.

    References
    ----------
    arXiv 2503.02175, Algorithm 1.

    Examples
    --------
    >>> import torch
    >>> from biaslab.core.layout import TokenLayout
    >>> from biaslab.pruning import TokenContext
    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    >>> ctx = TokenContext(TokenLayout.raster(2, 2, size=(200, 200), family="toy"), budget=3, features=features)
    >>> DivPrune().select(ctx).indices  # of the two tokens that nearly agree, one
    tensor([0, 2, 3])
    """

    start: str = "isolated"
    rounding: str = added_option("down")

    name: ClassVar[str] = "divprune"
    source: ClassVar[Citation | None] = Citation(
        key="divprune2025",
        title="DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models",
        year=2025,
        arxiv="2503.02175",
        authors=("Saeed Ranjbar Alvar", "Gursimran Singh", "Mohammad Akbari", "Yong Zhang"),
        venue="CVPR 2025",
    )
    cost: ClassVar[str] = "all cosines once, n steps of N"
    verified: ClassVar[str] = "paper and published code"
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    nested: ClassVar[bool] = True
    image_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("start", self.start, ("isolated", "central"))
        choice("rounding", self.rounding, ("down", "published"))

    def budget_of(self, n: int) -> int:
        """Count how many of n tokens it keeps.

        Examples
        --------
        >>> [DivPrune(keep=0.1, rounding=r).budget_of(75) for r in ("down", "published")]  # 7.5, to the even one
        [7, 8]
        """
        if self.rounding == "down" or isinstance(self.keep, int):
            return super().budget_of(n)
        return max(1, round(self.keep * n))

    def pick_batch(
        self, batch: TokenBatch, scores: Sequence[Tensor | None], budgets: Sequence[Sequence[int]]
    ) -> list[list[Picked]]:
        """List tokens in the order of the greedy choice, image after image up to the largest budget."""
        images = [required(ctx.features, "features") for ctx in batch]
        most = [max(wanted, default=0) for wanted in budgets]
        orders = max_min_orders(images, most, self.start)
        return prefixes(orders, budgets)
