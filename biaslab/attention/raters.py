"""Raters: of the words behind the image those that it speaks to (SparseVLM, arXiv 2410.04417)."""

from __future__ import annotations

from torch import Tensor

__all__ = ["raters"]


def raters(visual: Tensor, text: Tensor) -> Tensor:
    """Find the words that the image speaks to.

    Parameters
    ----------
    visual : (N, D) Tensor
    text : (T, D) Tensor

    Returns
    -------
    (T,) bool Tensor
        Where the mean over visual tokens of the softmax over words of the dot products exceeds its mean over words;
        all True where none does.

    Examples
    --------
    >>> import torch
    >>> raters(torch.ones(5, 2), torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 2.0]]))
    tensor([ True, False,  True])
    """
    share = (visual.float() @ text.float().T).softmax(1).mean(0)
    above = share > share.mean()
    return above | ~above.any()
