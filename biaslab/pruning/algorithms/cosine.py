"""Cosines of all pairs of tokens of several images, as greedy rules look them up step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["CELLS", "cosines", "parts"]

CELLS = 2**28  # similarities held at once: 1 GiB


def parts(lengths: Sequence[int], *, cells: int = CELLS) -> Iterator[tuple[slice, bool]]:
    """Divide images into runs of which all pairs are held at once, padded to the longest of the run.

    Parameters
    ----------
    lengths : sequence of int
        Tokens of each image.
    cells : int
        Pairs that may be held at once.

    Yields
    ------
    part : slice
        Images that follow each other.
    fits : bool
        False for an image that alone has more pairs. Its own size decides, so that its result does not depend on
        others.

    Examples
    --------
    >>> list(parts([2, 3, 9, 3], cells=20))
    [(slice(0, 2, None), True), (slice(2, 3, None), False), (slice(3, 4, None), True)]
    """
    at = 0
    while at < len(lengths):
        longest, end = lengths[at], at + 1
        fits = longest * longest <= cells
        while fits and end < len(lengths) and (end + 1 - at) * max(longest, lengths[end]) ** 2 <= cells:
            longest, end = max(longest, lengths[end]), end + 1
        yield slice(at, end), fits
        at = end


def cosines(images: Sequence[Tensor]) -> Tensor:
    """Compute the cosines of all pairs of tokens, image by image.

    Parameters
    ----------
    images : sequence of (N, D) Tensor
        Features, which may differ in N.

    Returns
    -------
    (B, N, N) float32 Tensor
        Of the longest N; 0 where an image has no such token.

    Examples
    --------
    >>> cosines([torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([[-2.0, 0.0]])]).tolist()
    [[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]]]
    """
    b, n = len(images), max(map(len, images))
    even = min(map(len, images)) == n
    # zeros where an image has no such token: never looked at, but NaN would spread
    out = (torch.empty if even else torch.zeros)(b, n, n, dtype=torch.float32, device=images[0].device)
    for own, features in zip(out, images, strict=True):
        m, unit = len(features), normalize(features.float(), dim=1)
        # image by image: what a product rounds to may depend on its shape
        torch.mm(unit, unit.T, out=own[:m, :m])
    return out
