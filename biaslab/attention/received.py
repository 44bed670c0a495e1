"""Attention that each token receives, without the matrix of all pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from biaslab.attention.precision import full_precision

__all__ = ["received_attention"]

_MAX_SCORES = 2**25  # float32 scores held at once: 128 MiB


@full_precision()
def received_attention(
    query: Tensor,
    key: Tensor,
    *,
    scaling: float,
    attention_mask: Tensor | None = None,
    max_scores: int = _MAX_SCORES,
) -> Tensor:
    """Average the softmax attention to every key over heads and queries, where each query sees all keys.

    Query rows are taken in blocks, each with all its keys: a block's rows are normalised and summed before the next
    one, so that no more than ``max_scores`` scores exist at a time.

    Parameters
    ----------
    query, key : Tensor (B, H, T, D)
        After rotary embedding.
    scaling : float
        Factor on the dot product.
    attention_mask : Tensor (B or 1, 1, T, T), optional
        Bool, True = look, or additive.
    max_scores : int

    Returns
    -------
    Tensor (B, T) float32
        Sums to 1 over each sequence.

    Examples
    --------
    >>> query = key = torch.tensor([[1.0, 0.0], [0.0, 2.0]])[None, None]
    >>> received_attention(query, key, scaling=1.0), (query @ key.transpose(2, 3)).softmax(-1).mean((1, 2))
    (tensor([[0.3745, 0.6255]]), tensor([[0.3745, 0.6255]]))
    """
    batch, heads, n, _ = query.shape
    keys = key.float().transpose(2, 3)
    if heads != key.shape[1]:
        keys = keys.repeat_interleave(heads // key.shape[1], dim=1)
    total = keys.new_zeros(batch, key.shape[2])
    block = max(1, max_scores // (batch * heads * key.shape[2]))
    for first in range(0, n, block):
        rows = slice(first, first + block)
        scores = (query[:, :, rows].float() @ keys) * scaling
        if attention_mask is not None:
            mask = attention_mask[:, :, rows] if attention_mask.shape[2] > 1 else attention_mask
            bool_mask = mask.dtype == torch.bool
            scores = scores.masked_fill(~mask, float("-inf")) if bool_mask else scores + mask.float()
        total += scores.softmax(-1).sum((1, 2))
    return total / (heads * n)
