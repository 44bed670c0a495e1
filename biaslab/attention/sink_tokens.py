"""Attention sinks: tokens whose hidden state is huge in a few dimensions, which draw attention whatever is asked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["LEVEL", "relative_size", "sink_tokens"]

LEVEL = 20.0  # published: size of a dimension, against the root mean square of all, from which a token is a sink


def relative_size(hidden: Tensor) -> Tensor:
    """Divide hidden states by their root mean square over dimensions, without sign: (..., D) float32."""
    hidden = hidden.float()
    return hidden.abs() / hidden.square().mean(-1, keepdim=True).sqrt().clamp(min=torch.finfo(torch.float32).tiny)


def sink_tokens(hidden: Tensor, dims: Sequence[int], *, level: float = LEVEL) -> Tensor:
    """Tell which tokens are sinks: any of ``dims`` of the hidden state, over its root mean square, exceeds ``level``.

    Parameters
    ----------
    hidden : (..., D) Tensor
        Hidden states, before a norm.
    dims : sequence of int
        Massive dimensions of the model (:func:`biaslab.diagnostics.sinks.find_sinks`).
    level : float

    Returns
    -------
    (...) bool Tensor

    References
    ----------
    Kang et al. (2025), See What You Are Told: Visual Attention Sink in Large Multimodal Models, ICLR, arXiv 2503.03321.

    Examples
    --------
    >>> hidden = torch.ones(3, 900)
    >>> hidden[1, 7] = 60.0
    >>> sink_tokens(hidden, [7]), sink_tokens(hidden, [3])
    (tensor([False,  True, False]), tensor([False, False, False]))
    """
    hidden = hidden.float()
    size = hidden.square().mean(-1).sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    return hidden[..., list(dims)].abs().amax(-1) > level * size
