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
    limit: int | None = None,
    blockers: Tensor | None = None,
    block: int | None = None,
) -> Tensor:
    """The sequential greedy independent set.

    Parameters
    ----------
    order : (n,) int64 distinct nodes in the order they are visited.
    edges : adjacency of any two sets of nodes; asked for ``(taken, later)`` pairs only, so it need not be
        symmetric. What it says of a node and itself does not matter.
    limit : stop at this many nodes; default none.
    blockers : nodes taken beforehand: their neighbours are never taken, they themselves are not returned.
    block : number of nodes whose mutual edges are asked for at once, up to half as many more; by default few on
        a CPU, where edges cost more than rounds, and many elsewhere, where rounds cost more.

    Returns
    -------
    Tensor
        (at most ``limit``,) nodes in the order taken. Fewer only when every other node is adjacent to one
        taken.
    """
    n = order.numel()
    limit = n if limit is None else min(limit, n)
    block = block or (_BLOCK_ON_CPU if order.device.type == "cpu" else _BLOCK)
    taken = order.new_empty(0) if blockers is None else blockers
    before, found, start, window = taken.numel(), 0, 0, max(2 * limit, _WINDOW)
    if before and n <= 3 * window:  # blockers thin a window out: better one large product than two
        window = n
    while found < limit and start < n:
        left = order[start : start + min(window, _CELLS // block)]
        start += left.numel()
        left = _free(edges, taken, left, block)
        while left.numel() and found < limit:
            size = min(block, max(2 * (limit - found), _HEAD))
            size = size if left.numel() > size * 3 // 2 else left.numel()  # no round for a small remainder
            head, left = left[:size], left[size:]
            chosen = head[_resolve(edges(head, head), limit - found)]
            taken, found = torch.cat([taken, chosen]), found + chosen.numel()
            if found < limit:
                left = _free(edges, chosen, left, block)
        # as many as the yield so far promises to be enough, and at least twice the last window: the yield falls
        # as the picture fills, and the rounds stay few
        window = max(2 * window, (limit - found) * start * 5 // (max(found, 1) * 4))
    return taken[before:]


def _free(edges: EdgeBlock, taken: Tensor, nodes: Tensor, first: int) -> Tensor:
    """``nodes`` without the neighbours of ``taken``, of whom the first few clear the way for twice as many."""
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
    """The greedy on a small matrix, in index order: one big integer per row, one bit per node."""
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
