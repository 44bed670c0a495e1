"""SCOPE: salient tokens that cover what is not covered yet (arXiv 2510.24214)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from biaslab.pruning.algorithms.gains import Coverage
from biaslab.pruning.algorithms.greedy import greedy_orders
from biaslab.pruning.algorithms.mmr import min_max
from biaslab.pruning.base import number
from biaslab.pruning.citation import Citation
from biaslab.pruning.methods.importance_method import ImportanceMethod
from biaslab.pruning.registry import register

__all__ = ["Scope"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class Scope(ImportanceMethod):
    """Keep tokens of a large saliency times the coverage that they add.

    Always the token of the largest

        A_i ** power * sum_u max(0, cos(x_u, x_i) - C(u))

    where u runs over all tokens of the image, x are the features that enter layer K, A is the saliency, and ``C(u)`` is
    0 at first, then the largest cosine of u with a kept token; ties go to the lower index. ``power = 0`` is pure
    coverage, the greedy of facility location; a large power is the top n by saliency. What n tokens keep is a prefix of
    the order for any larger n.

    Parameters
    ----------
    power : float
        Exponent of the saliency, at least 0; 1 as published.
    by, **options
        The saliency, as :class:`~biaslab.pruning.methods.importance_method.ImportanceMethod` says; by default attention
        of the decoder. One that may be negative (text, lookahead, external, a difference) is first brought to [0, 1)
        over the image, ``(w - min) / (max - min + 1e-6)``.

    Notes
    -----
    Published before the decoder, with the attention of CLIP's class token in the last layer but one as saliency:
    ``by="vision"``, which drops tokens there unless a layer is given. That saliency knows nothing of the question;
    attention of the decoder, the default, does. Unverified: that the published cosines are those of projected features.
    A step compares all pairs of tokens: n N^2 operations in all.

    References
    ----------
    arXiv 2510.24214.

    Examples
    --------
    Tokens 0, 1 and 3 agree; one of them covers all three:

    >>> import torch
    >>> from biaslab.core.layout import TokenLayout
    >>> from biaslab.pruning import TokenContext
    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    >>> attention = torch.tensor([[[0.3, 0.4, 0.1, 0.2]]])  # (1 head, 1 query row, 4 tokens)
    >>> layout = TokenLayout.raster(2, 2, size=(200, 200), family="toy")
    >>> Scope().select(TokenContext(layout, budget=2, attention=attention, features=features)).indices
    tensor([1, 2])
    """

    power: float = 1.0

    name: ClassVar[str] = "scope"
    display_name: ClassVar[str] = "SCOPE"
    source: ClassVar[Citation | None] = Citation(
        key="scope2025",
        title="SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodel LLMs",
        year=2025,
        arxiv="2510.24214",
        authors=("Jinhong Deng", "Wen Li", "Joey Tianyi Zhou", "Yang He"),
    )
    cost: ClassVar[str] = "all cosines once, n steps of N x N"
    verified: ClassVar[str] = "paper; with by=vision its saliency, by default attention of the decoder"

    def __post_init__(self) -> None:
        super().__post_init__()
        number("power", self.power, 0)

    def orders(self, images: Sequence[Tensor], scores: Sequence[Tensor], most: Sequence[int]) -> list[Tensor]:
        """List the tokens in the order of the greedy choice."""
        saliency = list(scores) if self.nonnegative else [min_max(own) for own in scores]
        return greedy_orders(images, most, saliency, partial(Coverage, power=self.power), together=False)
