"""Scores that read the rotary embedding: attention without it, and without what it alone gives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from biaslab.attention.hook import rows_of, softmax_rows
from biaslab.attention.precision import full_precision
from biaslab.errors import UnsupportedError

__all__ = ["no_rope", "rope_corrected"]


def no_rope(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    rows: Tensor,
    cols: Tensor,
    scaling: float,
    attention_mask: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Attention rows with the rotary embedding taken out: a score for `capture`.

    Query and key arrive rotated; a rotation is undone exactly (up to the rounding of the model's number type)
    with the same cosines and sines. A length-dependent scale in them (YaRN) is a temperature, not a position:
    it stays.

    Parameters
    ----------
    query, key : Tensor (B, H, Q, D), (B, Hkv, N, D)
        After rotary embedding, as for `attention_rows`.
    value : Tensor
        Not used.
    cos, sin : Tensor (B or 1, N, D')
        Of the rotary embedding of all keys; components from D' on are not turned. The queries are the last Q of them.
    rows, cols : LongTensor (R,) or (B, R), (B, C)
        Query rows, and key positions to return.
    scaling : float
        Factor on the dot product.
    attention_mask : Tensor, optional
        As for `attention_rows`.
    **options
        The other options of `attention_rows`.

    Returns
    -------
    Tensor (B, H, R, C) float32
        Softmax attention over all keys, never renormalised.

    Raises
    ------
    UnsupportedError
        Keys from a cache: their positions are not at hand.

    Examples
    --------
    Where no position is turned (cosines 1, sines 0) it is plain attention:

    >>> from biaslab.attention.hook import attention_rows
    >>> query = key = torch.arange(32.0).reshape(1, 1, 4, 8) / 16
    >>> cos, sin = torch.ones(1, 4, 8), torch.zeros(1, 4, 8)
    >>> asked = {"rows": torch.tensor([3]), "cols": torch.tensor([[1, 2]]), "scaling": 0.5}
    >>> bool((no_rope(query, key, key, cos, sin, **asked) == attention_rows(query, key, **asked)).all())
    True

    References
    ----------
    FEATHER (arXiv 2412.13180), whose criterion this is; its uniform subset of tokens and its second pruning layer
    are not part of the score.
    """

    def undo(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        c, s = cos[:, None].float(), sin[:, None].float()
        turned, rest = x[..., : c.shape[-1]].float(), x[..., c.shape[-1] :].float()
        a, b = turned.chunk(2, dim=-1)
        back = (turned * c - torch.cat([-b, a], -1) * s) / (c.square() + s.square()).sqrt()
        return torch.cat([back, rest], -1)

    rows, turned = _at_rows("no_rope", query, key, rows, cos, sin)
    picked = undo(rows_of(query, rows), *turned)  # a prompt has many queries, of which few are wanted
    return softmax_rows(picked, undo(key, cos, sin), rows, query.shape[2], scaling, attention_mask, cols, **options)


@full_precision()
def rope_corrected(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    rows: Tensor,
    cols: Tensor,
    scaling: float,
    attention_mask: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Attention from whose logits those of an all-ones query and all-ones keys have been taken.

    The rotary embedding pulls attention to near keys whatever they say: ``(R_q 1) . (R_k 1)``, the sum over the turned
    components of ``cos(theta (p_q - p_k))``. It is subtracted, in units of the logits, before the softmax over all
    keys.

    Parameters
    ----------
    query, key, value, cos, sin : Tensor
        As of `no_rope`.
    rows, cols, scaling, attention_mask, **options
        As of `no_rope`.

    Returns
    -------
    Tensor (B, H, R, C) float32
        Softmax over all keys, never renormalised.

    Raises
    ------
    UnsupportedError
        Keys from a cache: their positions are not at hand.

    Notes
    -----
    SparseVLM's second version divides the *probabilities* by the same product, which can be near zero or negative. In
    logits a difference is what a quotient is in odds, and it is defined everywhere.

    References
    ----------
    SparseVLM, arXiv 2410.04417, second version.

    Examples
    --------
    Two equal keys, of which the nearer draws more only because it is near:

    >>> angle = torch.arange(3.0)[:, None] / 2
    >>> cos, sin = angle.cos().repeat(1, 2)[None], angle.sin().repeat(1, 2)[None]
    >>> turned = torch.cat([cos - sin, cos + sin], -1)[:, None, :, ::2]  # all ones, turned
    >>> asked = {"rows": torch.tensor([2]), "cols": torch.tensor([[0, 1]]), "scaling": 1.0}
    >>> rope_corrected(turned, turned, turned, cos, sin, **asked)[0, 0]
    tensor([[0.3333, 0.3333]])
    """
    both = torch.cat([cos, sin], -1).float().expand(len(query), -1, -1)
    rows, (turned,) = _at_rows("rope_corrected", query, key, rows, both)
    near = turned @ both.transpose(1, 2)  # (B, R, N)
    # what is not turned adds the same to every key
    return softmax_rows(
        rows_of(query, rows), key, rows, query.shape[2], scaling, attention_mask, cols, bias=near * -scaling, **options
    )


def _at_rows(name: str, query: Tensor, key: Tensor, rows: Tensor, *each: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Give the rows of every sample, (B, R), and of what belongs to all keys, (B or 1, N, D'), what belongs to them."""
    if any(key.shape[2] != x.shape[-2] for x in each):
        raise UnsupportedError(f"{name} needs the positions of all keys: capture a first prefill, not a cached turn")
    batch, n_query = len(query), query.shape[2]
    rows = rows.expand(batch, -1) if rows.ndim == 1 else rows
    at = rows[..., None] + (key.shape[2] - n_query)
    return rows, [x.expand(batch, -1, -1).gather(1, at.expand(-1, -1, x.shape[-1])) for x in each]
