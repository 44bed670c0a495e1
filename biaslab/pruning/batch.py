"""The images of a batch, before a choice is made for all of them at once."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from biaslab._util.one_line import OneLine
from biaslab.pruning.context import TokenContext, descending, required

__all__ = ["TokenBatch", "alike", "ascending", "padded", "prefixes", "ranked"]


@dataclass(frozen=True, eq=False, repr=False)
class TokenBatch(OneLine, Sequence[TokenContext]):
    """Several images, and where the features of all of them lie in one tensor.

    Images may differ in tokens and budgets. What is computed for all at once must not make one depend on another:
    sorting, looking up and arithmetic element by element do not; sums and matrix products do, in the last bit, and
    are made image by image, but for those of a student on a GPU (:meth:`Method.importance_batch`).

    Attributes
    ----------
    images : sequence of TokenContext
        All on one device.
    stack : (T, D) Tensor, optional
        One tensor that holds the features of all images, of which those of the contexts are views: then one look-up
        serves all. Without it each image is looked up in its own.
    starts : sequence of int
        Row of ``stack`` at which each image begins; its tokens follow.

    Examples
    --------
    >>> from biaslab.core.layout import TokenLayout
    >>> layouts = [TokenLayout.raster(1, n, size=(n, 1), family="toy") for n in (2, 3)]
    >>> batch = TokenBatch([TokenContext(x, 1, features=torch.ones(x.n, 4)) for x in layouts])
    >>> len(batch), batch[1].n, batch.device
    (2, 3, device(type='cpu'))
    """

    images: Sequence[TokenContext]
    stack: Tensor | None = None
    starts: Sequence[int] = ()

    @classmethod
    def of(cls, images: Sequence[TokenContext]) -> TokenBatch:
        """Take contexts as a batch; one that is a batch already as it is."""
        return images if isinstance(images, cls) else cls(list(images))

    def only(self, which: Sequence[int]) -> TokenBatch:
        """Take some of the images."""
        starts = [self.starts[i] for i in which] if self.starts else ()
        return TokenBatch([self.images[i] for i in which], self.stack, starts)

    def features_of(self, which: Sequence[int]) -> Tensor:
        """Put the features of images of one size in one tensor, (B, N, D): a view where they lie at equal distances.

        Examples
        --------
        >>> from biaslab.core.layout import TokenLayout
        >>> layout, stack = TokenLayout.raster(1, 2, size=(2, 1), family="toy"), torch.arange(6.0)[:, None]
        >>> images = [TokenContext(layout, 1, features=stack[i : i + 2]) for i in (0, 3)]
        >>> TokenBatch(images, stack, [0, 3]).features_of([0, 1])[..., 0]
        tensor([[0., 1.],
                [3., 4.]])
        """
        stack = self.stack
        if stack is not None and stack.is_contiguous() and len(which) > 1:
            starts = [self.starts[i] for i in which]
            step, (n, width) = starts[1] - starts[0], (self.images[which[0]].n, stack.shape[1])
            if step > 0 and all(b - a == step for a, b in pairwise(starts)):
                offset = stack.storage_offset() + starts[0] * width
                return stack.as_strided((len(which), n, width), (step * width, width, 1), offset)
        each = [required(self.images[i].features, "features") for i in which]
        return each[0][None] if len(each) == 1 else torch.stack(each)

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.images[0].device

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self.images[index]

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[TokenContext]:
        return iter(self.images)


def padded(rows: Sequence[Tensor], fill: float) -> Tensor:
    """Put 1-D tensors of different lengths in one: (B, longest), ``fill`` behind each.

    Examples
    --------
    >>> padded([torch.tensor([1, 2]), torch.tensor([3])], 9)
    tensor([[1, 2],
            [3, 9]])
    """
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    if min(lengths) == longest:
        return rows[0][None] if len(rows) == 1 else torch.stack(list(rows))
    filler = rows[0].new_full((longest - min(lengths),), fill)
    parts = [part for row, n in zip(rows, lengths, strict=True) for part in (row, filler[: longest - n])]
    return torch.cat(parts).view(len(rows), longest)


def ranked(scores: Sequence[Tensor]) -> list[Tensor]:
    """Sort the positions of several images from the highest to the lowest score, equal scores by position.

    Parameters
    ----------
    scores : sequence of (N,) Tensor
        On one device; the lengths may differ.

    Returns
    -------
    list of (N,) int64 Tensor
        What :func:`biaslab.pruning.context.descending` gives for each.

    Examples
    --------
    >>> ranked([torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0, 5.0])])
    [tensor([1, 0]), tensor([2, 0, 1])]
    """
    if len(scores) == 1 or len({s.dtype for s in scores}) > 1 or not scores[0].is_floating_point():
        return [descending(own) for own in scores]
    # the filler stands behind everything of its value, and the sort is stable
    order = torch.sort(padded(scores, -torch.inf), dim=1, descending=True, stable=True).indices
    return [row[: len(own)] for row, own in zip(order, scores, strict=True)]


def prefixes(orders: Sequence[Tensor], budgets: Sequence[Sequence[int]]) -> list[list[tuple[Tensor, dict[str, Any]]]]:
    """Take the first n of each image's order for each of its budgets n, with nothing to report.

    Examples
    --------
    >>> prefixes([torch.tensor([2, 0, 1])], [[1, 2]])
    [[(tensor([2]), {}), (tensor([2, 0]), {})]]
    """
    return [[(order[:n], {}) for n in wanted] for order, wanted in zip(orders, budgets, strict=True)]


def alike(kinds: Sequence[Hashable]) -> list[list[int]]:
    """Put the indices of equal values together, in the order of the first of each.

    Examples
    --------
    >>> alike([3, 1, 3])
    [[0, 2], [1]]
    """
    found: dict[Hashable, list[int]] = {}
    for i, kind in enumerate(kinds):
        found.setdefault(kind, []).append(i)
    return list(found.values())


def ascending(positions: Sequence[Tensor]) -> list[Tensor]:
    """Sort the chosen positions of several images.

    Examples
    --------
    >>> ascending([torch.tensor([4, 2, 7]), torch.tensor([1, 0])])
    [tensor([2, 4, 7]), tensor([0, 1])]
    """
    if not positions:
        return []
    together = padded(positions, torch.iinfo(torch.long).max).sort(dim=1).values
    return [row[: len(own)] for row, own in zip(together, positions, strict=True)]
