"""Which kept token each dropped one is merged into, as weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["merge_weights"]


def merge_weights(indices: Tensor, targets: Tensor, others: Tensor, vectors: Tensor, *, added: bool = False) -> Tensor:
    """Let every dropped token join the target that it is most like.

    Parameters
    ----------
    indices : (n,) int64 Tensor
        Kept tokens, ascending.
    targets : (c,) int64 Tensor
        Those of them that take up others.
    others : (m,) int64 Tensor
        Tokens that join, none of them kept.
    vectors : (N, D) Tensor
        Of all tokens; compared by cosine, equal ones go to the first target.
    added : bool
        Whether the mean of those that join is added to the target; else it is one of those that are averaged.

    Returns
    -------
    (n, N) float32 Tensor
        As ``Selection.merge``. Rows sum to 1, with ``added`` to 2 where somebody joins.

    Examples
    --------
    >>> vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [0.2, 1.0]])
    >>> kept, targets, others = torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([2, 3])
    >>> merge_weights(kept, targets, others, vectors)[1]
    tensor([0.0000, 0.3333, 0.3333, 0.3333])
    >>> merge_weights(kept, targets, others, vectors, added=True)[1]
    tensor([0.0000, 1.0000, 0.5000, 0.5000])
    """
    rows = torch.arange(len(indices), device=indices.device)
    weights = torch.zeros(len(indices), len(vectors), device=indices.device)
    weights[rows, indices] = 1.0
    if len(targets) == 0 or len(others) == 0:
        return weights
    unit = normalize(vectors.float(), dim=1)
    nearest = (unit[others] @ unit[targets].T).argmax(1)
    weights[torch.searchsorted(indices, targets.contiguous())[nearest], others] = 1.0
    if not added:
        return weights / weights.sum(1, keepdim=True)
    weights = weights / (weights.sum(1, keepdim=True) - 1).clamp_min(1)
    weights[rows, indices] = 1.0
    return weights
