"""Greedy maximal independent set over a graph that is never written down.

The sequential greedy visits nodes in a given order, takes a node unless a taken one is adjacent, and stops at
a limit. The result here is exactly that, but edges are asked for in blocks. A window of the order is compared
with all nodes taken so far. Of the survivors, the first few are compared with each other, that small matrix is
resolved on the host, and those it takes are compared with the survivors behind them, until none is left. Two
transfers per block, a few blocks in all, and no more of the graph than the answer depends on.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

__all__ = ["EdgeBlock", "greedy_mis"]

#: edges(rows, cols) -> (len(rows), len(cols)) bool: may ``cols`` not be taken once ``rows`` are
EdgeBlock = Callable[[Tensor, Tensor], Tensor]

_WINDOW, _HEAD = 128, 32  # smallest sizes: below these, overhead outweighs the products
_BLOCK, _BLOCK_ON_CPU = 512, 64  # nodes compared with each other at once
_CELLS, _FEW_CELLS = 2**22, 2**15  # edges asked for at once at most, and not worth asking for in two parts


def greedy_mis(
    order: Tensor,
    edges: EdgeBlock,
    *,
    limit: int | None = None,
    blockers: Tensor | None = None,
    block: int | None = None,
) -> Tensor:
    """Take nodes in order, unless a taken one is adjacent: the sequential greedy independent set.

    Parameters
    ----------
    order : (n,) int64 Tensor
        Distinct nodes in the order they are visited.
    edges : callable
        Adjacency of any two sets of nodes; asked for ``(taken, later)`` pairs only, so it need not be symmetric.
        What it says of a node and itself does not matter.
    limit : int, optional
        Stop at this many nodes; default none.
    blockers : int64 Tensor, optional
        Nodes taken beforehand: their neighbours are never taken, they themselves are not returned.
    block : int, optional
        Number of nodes whose mutual edges are asked for at once, up to half as many more; by default few on a CPU,
        where edges cost more than rounds, and many elsewhere, where rounds cost more.

    Returns
    -------
    Tensor
        (at most ``limit``,) nodes in the order taken. Fewer only when every other node is adjacent to one
        taken.

    Examples
    --------
    >>> def chain(rows, cols):  # neighbours of i are i - 1 and i + 1
    ...     return (rows[:, None] - cols[None]).abs() == 1
    >>> greedy_mis(torch.tensor([2, 0, 1, 4, 3, 5]), chain)
    tensor([2, 0, 4])
    >>> greedy_mis(torch.tensor([2, 0, 1, 4, 5]), chain, limit=2, blockers=torch.tensor([3]))
    tensor([0, 5])
    """
    n = order.numel()
    limit = n if limit is None else min(limit, n)
    block = block or (_BLOCK_ON_CPU if order.device.type == "cpu" else _BLOCK)
    taken = order.new_empty(0) if blockers is None else blockers
    before, n_chosen, start, window = taken.numel(), 0, 0, max(2 * limit, _WINDOW)
    if before and n <= 3 * window:  # blockers thin a window out: better one large product than two
        window = n
    while n_chosen < limit and start < n:
        candidates = order[start : start + min(window, _CELLS // block)]
        start += candidates.numel()
        candidates = _free(edges, taken, candidates, block)
        while candidates.numel() and n_chosen < limit:
            size = min(block, max(2 * (limit - n_chosen), _HEAD))
            size = size if candidates.numel() > size * 3 // 2 else candidates.numel()  # no round for a small remainder
            head, candidates = candidates[:size], candidates[size:]
            chosen = head[_resolve(edges(head, head), limit - n_chosen)]
            taken, n_chosen = torch.cat([taken, chosen]), n_chosen + chosen.numel()
            if n_chosen < limit:
                candidates = _free(edges, chosen, candidates, block)
        # as many as the yield so far promises to be enough, and at least twice the last window: the yield falls
        # as the image fills, and the rounds stay few
        window = max(2 * window, (limit - n_chosen) * start * 5 // (max(n_chosen, 1) * 4))
    return taken[before:]


def _free(edges: EdgeBlock, taken: Tensor, nodes: Tensor, first: int) -> Tensor:
    """Leave out of ``nodes`` the neighbours of ``taken``, of whom the first few clear the way for twice as many."""
    done = 0
    while done < taken.numel() and nodes.numel():
        size = max(first, done, _FEW_CELLS // nodes.numel())
        if taken.numel() - done <= size * 3 // 2:  # no round for a small remainder
            size = taken.numel() - done
        some = taken[done : done + max(1, min(size, _CELLS // nodes.numel()))]
        # the largest byte of a column: on a CPU ten times quicker than any()
        nodes = nodes[edges(some, nodes).view(torch.uint8).amax(0) == 0]
        done += some.numel()
    return nodes


def _resolve(adjacent: Tensor, limit: int) -> Tensor:
    """Run the greedy on a small matrix, in index order: one big integer per row, one bit per node."""
    n = adjacent.shape[0]
    packed = np.packbits(adjacent.cpu().numpy(), axis=1, bitorder="little")
    size, rows = packed.shape[1], packed.tobytes()
    chosen: list[int] = []
    free = (1 << n) - 1
    while free and len(chosen) < limit:
        lowest = free & -free
        i = lowest.bit_length() - 1
        chosen.append(i)
        free &= ~(int.from_bytes(rows[i * size : (i + 1) * size], "little") | lowest)
    return torch.tensor(chosen, device=adjacent.device)
