"""CDPruner: the most diverse set given the question, by a determinantal point process (arXiv 2506.10967)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from biaslab.pruning.algorithms.gains import Volume
from biaslab.pruning.algorithms.greedy import greedy_orders
from biaslab.pruning.algorithms.mmr import min_max
from biaslab.pruning.base import choice, number
from biaslab.pruning.citation import Citation
from biaslab.pruning.methods.importance_method import ImportanceMethod
from biaslab.pruning.registry import register

__all__ = ["CDPruner"]

_LEAST = 1e-6  # added to a relevance, which may be 0


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class CDPruner(ImportanceMethod):
    """Keep a set of large determinant: relevant tokens that point in different directions.

    The kernel of a determinantal point process is ``L_ij = r_i * cos(x_i, x_j) * r_j``, where x are the features that
    enter layer K and r is the relevance brought to (0, 1] over the image, ``(w - min) / (max - min + 1e-6) + 1e-6``.
    Kept is its greedy maximum a posteriori: always the token that makes ``det L_S`` largest, by one row of a Cholesky
    factor a step; ties go to the lower index. Relevance factors out, ``det L_S = prod r_i^2 * det cos_S``, so the
    decomposition is of the cosines alone. A constant r is the plain determinantal process; the first token is the
    most relevant one. What n tokens keep is a prefix of the order for any larger n.

    Parameters
    ----------
    theta : float, optional
        Weight of relevance against diversity in [0, 1): ``exp(theta / (2 (1 - theta)) * r)`` takes the place of r. 0 is
        the plain process. Default: r itself.
    negate : bool
        Whether tokens that are less like the text are the relevant ones. The published code negates the cosine of
        CLIP's patch and text embeddings, which is low where the text is right; of the decoder's states it is not known
        what the paper does (unverified), and False is ours.
    by, **options
        The relevance, as :class:`~biaslab.pruning.methods.importance_method.ImportanceMethod` says; by default "text".

    Notes
    -----
    A decoder has no text tower of CLIP: "text" is the form that the paper gives for models without one, with the
    embeddings of the language model, at K = 0; deeper, its states. Published before layer 0, for every model.

    Differs from the published code, whose min-max runs over the whole batch, so that a result depends on its batch
    mates: here it is of one image. A direction of which the kept tokens leave less than 1e-6 counts as 1e-6: there
    rounding would decide, and relevance does.

    References
    ----------
    arXiv 2506.10967. Greedy by Cholesky: Chen, Zhang and Zhou, NeurIPS 2018.

    Examples
    --------
    >>> from biaslab.core.layout import TokenLayout
    >>> from biaslab.pruning import TokenContext
    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.2, 1.0], [-0.5, -1.0]])
    >>> layout = TokenLayout.raster(2, 2, size=(200, 200), family="toy")
    >>> ctx = TokenContext(layout, budget=2, features=features, text=torch.tensor([[1.0, 0.3]]))
    >>> CDPruner().select(ctx).indices  # the most relevant token, then one that says something else
    tensor([1, 2])
    """

    by: Any = "text"
    theta: float | None = None
    negate: bool = False

    name: ClassVar[str] = "cdpruner"
    needs: ClassVar[frozenset[str]] = frozenset({"features", "text"})
    source: ClassVar[Citation | None] = Citation(
        key="cdpruner2025",
        title="Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs",
        year=2025,
        arxiv="2506.10967",
        authors=(
            "Qizhe Zhang", "Mengzhen Liu", "Lichen Li", "Ming Lu", "Yuan Zhang", "Junwen Pan", "Qi She",
            "Shanghang Zhang",
        ),
        venue="NeurIPS 2025",
    )  # fmt: skip
    cost: ClassVar[str] = "all cosines once, n steps of n N"
    verified: ClassVar[str] = "partly: the sign of the relevance without CLIP"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.theta is not None:
            number("theta", self.theta, 0, 1, open_high=True, why="the weight grows without bound towards 1")
        choice("negate", self.negate, (True, False))

    def orders(self, images: Sequence[Tensor], scores: Sequence[Tensor], most: Sequence[int]) -> list[Tensor]:
        """List the tokens in the order of the greedy choice."""
        begin = partial(Volume, steps=max(1, *most))
        return greedy_orders(images, most, [self._relevance(own) for own in scores], begin, together=False)

    def _relevance(self, scores: Tensor) -> Tensor:
        last = scores == -torch.inf
        r = min_max(torch.where(last, scores, -scores) if self.negate else scores)
        r = r + _LEAST if self.theta is None else (self.theta / (2 * (1 - self.theta)) * r).exp()
        return r.masked_fill(last, -torch.inf)
