"""ID-Selection: a kept token takes from the scores of those that are like it (arXiv 2604.05601)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from biaslab.pruning.algorithms.gains import Suppressed
from biaslab.pruning.algorithms.greedy import greedy_orders
from biaslab.pruning.algorithms.mmr import min_max
from biaslab.pruning.base import number
from biaslab.pruning.citation import Citation
from biaslab.pruning.methods.importance_method import ImportanceMethod
from biaslab.pruning.registry import register

__all__ = ["IDSelection"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class IDSelection(ImportanceMethod):
    """Keep the token of the largest score, take from each other one what it has in common with it, and so on.

    With i kept, every score becomes

        s_j <- max(0, s_j - exp(-gamma * (1 - cos(x_i, x_j)) ** 2) * s_i)

    x being the features that enter layer K and s at first the importance brought to [0, 1) over the image,
    ``(w - min) / (max - min + 1e-6)``; ties go to the lower index. A large gamma leaves all but copies alone: the top n
    by importance. Once all scores are 0 the index decides, which happens early where tokens are alike. What n tokens
    keep is a prefix of the order for any larger n.

    Parameters
    ----------
    gamma : float
        How fast likeness falls with the cosine, at least 0; 20 as published for every model.
    by, **options
        The importance, as :class:`~biaslab.pruning.methods.importance_method.ImportanceMethod` says; by default
        attention (of the last row; read at layer index 2, that is K = 3).

    Notes
    -----
    Of two readings one has the attention of the last row as importance and the other the cosine with the mean state of
    the text (``by="text"``); which of them is the paper's own default is **unverified**.

    References
    ----------
    arXiv 2604.05601.

    Examples
    --------
    >>> import torch
    >>> from biaslab.core.layout import TokenLayout
    >>> from biaslab.pruning import TokenContext
    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.5, 0.5]])
    >>> attention = torch.tensor([[[0.4, 0.3, 0.2, 0.1]]])  # (1 head, 1 query row, 4 tokens)
    >>> layout = TokenLayout.raster(2, 2, size=(200, 200), family="toy")
    >>> ctx = TokenContext(layout, budget=2, attention=attention, features=features)
    >>> IDSelection().select(ctx).indices, IDSelection(gamma=1e9).select(ctx).indices
    (tensor([0, 2]), tensor([0, 1]))
    """

    gamma: float = 20.0

    name: ClassVar[str] = "idselection"
    source: ClassVar[Citation | None] = Citation(
        key="idselection2026",
        title="ID-Selection: Importance-Diversity Based Visual Token Selection for Efficient LVLM Inference",
        year=2026,
        arxiv="2604.05601",
        authors=("Zhaohong Huang", "Wenjing Liu", "Yuxin Zhang", "Fei Chao", "Rongrong Ji"),
    )
    cost: ClassVar[str] = "all cosines once, n steps of N"
    verified: ClassVar[str] = "partly: which importance; read by others"

    def __post_init__(self) -> None:
        super().__post_init__()
        number("gamma", self.gamma, 0)

    def orders(self, images: Sequence[Tensor], scores: Sequence[Tensor], most: Sequence[int]) -> list[Tensor]:
        """List the tokens in the order of the greedy choice."""
        return greedy_orders(images, most, [min_max(own) for own in scores], partial(Suppressed, gamma=self.gamma))
