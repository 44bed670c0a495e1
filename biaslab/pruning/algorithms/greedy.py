"""One greedy loop over scores and cosines, for several images at once: a start, a gain, an update.

Rules that only say what a chosen token changes: :mod:`biaslab.pruning.algorithms.gains`. Max-min diversity
(:mod:`~biaslab.pruning.algorithms.max_min`) and maximal marginal relevance (:mod:`~biaslab.pruning.algorithms.mmr`) are
the same loop with their update written into it, which saves launches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from biaslab.pruning.algorithms.cosine import CELLS, cosines, parts
from biaslab.pruning.algorithms.graph import CPU_CELLS
from biaslab.pruning.batch import padded

__all__ = ["Begin", "Cosines", "Gains", "greedy_orders"]

_LAST = -1e30  # added to the gain of what comes last: finite, so that it still comes before what is chosen
_CELLS = 2**26  # pairs looked at at once where they are not in a CPU's cache: 256 MiB


class Cosines:
    """The cosines of all pairs of tokens of B images, held as a matrix or computed as they are asked for.

    Parameters
    ----------
    images : sequence of (N, D) Tensor
        Features, which may differ in N.
    held : bool
        Whether all pairs are held, padded to the longest image; else there is one image, and each look costs a
        product with its features.

    Examples
    --------
    >>> pairs = Cosines([torch.tensor([[1.0, 0.0], [0.0, 3.0], [2.0, 0.0]])])
    >>> pairs.row(torch.tensor([[2]]))
    tensor([[1., 0., 1.]])
    """

    def __init__(self, images: Sequence[Tensor], *, held: bool = True) -> None:
        self._matrix = cosines(images) if held else None
        self._unit = None if held else normalize(images[0].float(), dim=1)

    def row(self, latest: Tensor) -> Tensor:
        """Look up (B, N) cosines of one token of each image with all others; ``latest`` is (B, 1)."""
        if self._matrix is not None:
            b, _, n = self._matrix.shape
            return self._matrix.gather(1, latest[..., None].expand(b, 1, n))[:, 0]
        assert self._unit is not None
        return (self._unit @ self._unit[latest[0]].T).T

    def blocks(self) -> Iterator[Tensor]:
        """Go through all pairs, some tokens after the other: (B, tokens, N) cosines with all tokens of their image."""
        held = self._matrix if self._matrix is not None else self._unit
        assert held is not None
        n = held.shape[-2]
        cells = CPU_CELLS if held.device.type == "cpu" else _CELLS
        size = max(1, cells // (n * (held.shape[0] if held.ndim == 3 else 1)))
        for start in range(0, n, size):
            if self._matrix is not None:
                yield self._matrix[:, start : start + size]
            else:
                yield (held[start : start + size] @ held.T)[None]


class Gains(Protocol):
    """What each token would add to the chosen ones, of B images at a time."""

    #: (B, N) float32, finite; what it says of chosen tokens does not matter
    gain: Tensor

    def take(self, latest: Tensor, row: Tensor) -> None:
        """Update the gains for the tokens just chosen, (B, 1), and their cosines with all others, (B, N)."""
        ...


#: makes the gains before the first choice, of (B, N) weights and the cosines
Begin = Callable[[Tensor, Cosines], Gains]


@torch.no_grad()
def greedy_orders(
    images: Sequence[Tensor], budgets: Sequence[int], weights: Sequence[Tensor], begin: Begin, *, together: bool = True
) -> list[Tensor]:
    """Choose rows one by one, always that of the largest gain; the lowest index among equals.

    No step waits for the device, and none is chosen twice.

    Parameters
    ----------
    images : sequence of (N, D) Tensor
        Features, which may differ in N; compared by their cosines in float32.
    budgets : sequence of int
        Rows to choose of each.
    weights : sequence of (N,) Tensor
        What the rule starts from. Rows of weight -inf come after all others, by index where their gains are too small
        to tell them apart; the rule sees 0 in their place.
    begin : callable
        Makes the gains.
    together : bool
        Whether images share their launches: only where gains are updated element by element, or an image's choice
        would depend on others in its last bit.

    Returns
    -------
    list of (budget,) int64 Tensor
        Rows in the order they were chosen; that of a smaller budget is a prefix.

    Examples
    --------
    >>> from functools import partial
    >>> from biaslab.pruning.algorithms.gains import Suppressed
    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    >>> greedy_orders([features], [3], [torch.tensor([1.0, 0.9, 0.2])], partial(Suppressed, gamma=20.0))
    [tensor([0, 2, 1])]
    """
    orders: list[Tensor] = []
    for part, fits in parts(list(map(len, images)), cells=CELLS):
        if together and fits:
            orders += _together(images[part], budgets[part], weights[part], begin)
        else:
            alone = zip(images[part], budgets[part], weights[part], strict=True)
            orders += [order for x, n, own in alone for order in _together([x], [n], [own], begin, held=fits)]
    return orders


def _together(
    images: Sequence[Tensor], budgets: Sequence[int], weights: Sequence[Tensor], begin: Begin, *, held: bool = True
) -> list[Tensor]:
    pairs = Cosines(images, held=held)
    # -inf stands for fillers and, added later, for what is chosen; what comes last stays above both
    offset = padded([torch.where(own == -torch.inf, _LAST, 0.0) for own in weights], -torch.inf)
    start = padded([own.float().masked_fill(own == -torch.inf, 0) for own in weights], 0)
    gains = begin(start, pairs)
    steps = max(1, *budgets)
    order = torch.empty(steps, len(images), 1, dtype=torch.long, device=start.device)
    for i, latest in enumerate(order.unbind(0)):
        torch.argmax(gains.gain + offset, 1, keepdim=True, out=latest)
        if i + 1 < steps:
            offset.scatter_(1, latest, -torch.inf)
            gains.take(latest, pairs.row(latest))
    return [own[:k] for own, k in zip(order[..., 0].T, budgets, strict=True)]
