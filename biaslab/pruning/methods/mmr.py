"""Maximal marginal relevance: important tokens that say something new (IDPruner, arXiv 2602.13315)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from biaslab.pruning.algorithms.mmr import mmr_orders
from biaslab.pruning.base import number
from biaslab.pruning.citation import Citation
from biaslab.pruning.methods.importance_method import ImportanceMethod
from biaslab.pruning.registry import register
from biaslab.pruning.works import IDPRUNER

__all__ = ["MMR"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class MMR(ImportanceMethod):
    """Keep tokens by maximal marginal relevance, with an importance of any kind.

    First the most important token, then always the one of the largest

        lam * Imp(i) - (1 - lam) * max_j cos(x_i, x_j)

    over the kept j, where x are the features that enter layer K and Imp is the importance brought to [0, 1) over the
    image, ``(w - min) / (max - min + 1e-6)``; ties go to the lower index. ``lam = 1`` is the top n by importance,
    ``lam = 0`` the farthest first from the most important token. What n tokens keep is a prefix of the order for any
    larger n.

    This is the selection of IDPruner. IDPruner itself drops before layer 0 and takes its importance from a trained
    scorer: ``by="external:PATH"`` at K = 0 (:class:`~biaslab.pruning.external.ExternalScore`).

    Parameters
    ----------
    lam : float
        Lambda in [0, 1], the weight of importance against redundancy; 0.5 as published for every model.
    by, **options
        The importance, as :class:`~biaslab.pruning.methods.importance_method.ImportanceMethod` says; by default
        attention.

    Notes
    -----
    Differs from the published code: images of one prompt are chosen from apart unless ``prune(budget="joint")`` pools
    them, as the code does; similarities are float32; the budget is rounded down, where the code rounds to the nearest.
    The paper feeds a soft top-k of the scorer's output to the min-max, its code the output itself, as here.

    References
    ----------
    IDPruner: arXiv 2602.13315. Carbonell and Goldstein, The use of MMR, SIGIR 1998.

    Examples
    --------
    >>> import torch
    >>> from biaslab.core.layout import TokenLayout
    >>> from biaslab.pruning import TokenContext
    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.5, 0.5]])
    >>> attention = torch.tensor([[[0.4, 0.3, 0.2, 0.1]]])  # (1 head, 1 query row, 4 tokens)
    >>> layout = TokenLayout.raster(2, 2, size=(200, 200), family="toy")
    >>> ctx = TokenContext(layout, budget=2, attention=attention, features=features)
    >>> MMR().select(ctx).indices, MMR(lam=1.0).select(ctx).indices
    (tensor([0, 2]), tensor([0, 1]))
    """

    lam: float = 0.5

    name: ClassVar[str] = "mmr"
    source: ClassVar[Citation | None] = IDPRUNER
    cost: ClassVar[str] = "all cosines once, n steps of N"
    verified: ClassVar[str] = "paper; its trained scorer is an external score"

    def __post_init__(self) -> None:
        super().__post_init__()
        number("lam", self.lam, 0, 1)

    def orders(self, images: Sequence[Tensor], scores: Sequence[Tensor], most: Sequence[int]) -> list[Tensor]:
        """List the tokens in the order of the greedy choice."""
        return mmr_orders(images, most, scores, lam=self.lam)
