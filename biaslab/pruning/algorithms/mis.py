"""Greedy maximal independent set over a graph that is never written down.

The sequential greedy visits nodes in a given order, takes a node unless a taken one is adjacent, and stops at
a limit. The result here is exactly that, but edges are asked for in blocks. A window of the order is compared
with all nodes taken so far. Of the survivors, the first few are compared with each other, that small matrix is
resolved on the host, and those it takes are compared with the survivors behind them, until none is left. A few
questions in all, and no more of the graph than the answer depends on.

The walk is a generator: it asks, and is resumed with the answer. So the walks of several images go on together, and
their questions of a round are answered at once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from biaslab.pruning.algorithms.transfer import upload

__all__ = ["EdgeBlock", "Question", "Walk", "any_row", "block_for", "greedy_mis", "greedy_walk", "walk_together"]

#: edges(rows, cols) -> (len(rows), len(cols)) bool: may ``cols`` not be taken once ``rows`` are
EdgeBlock = Callable[[Tensor, Tensor], Tensor]

_WINDOW, _HEAD = 128, 32  # smallest sizes: below these, overhead outweighs the products
_BLOCK, _BLOCK_ON_CPU = 512, 64  # nodes compared with each other at once
_CELLS, _FEW_CELLS = 2**22, 2**15  # edges asked for at once at most, and not worth asking for in two parts


class Question(NamedTuple):
    """What a walk asks of the graph.

    Attributes
    ----------
    rows, cols : (R,), (C,) int64 array
        Nodes; R, C >= 1.
    reduced : bool
        False: which ``cols`` are adjacent to which ``rows``, (R, C) bool. True: which are adjacent to any, (C,) bool.
    theta : float
        Similarity above which two nodes are adjacent, for graphs that have one.
    """

    rows: np.ndarray
    cols: np.ndarray
    reduced: bool
    theta: float


Result = TypeVar("Result")
#: asks, is sent the answers, and returns its result
Walk = Generator[Question, np.ndarray, Result]


def block_for(device: torch.device) -> int:
    """Give the default of ``block``: few on a CPU, where edges cost more than rounds; many elsewhere."""
    return _BLOCK_ON_CPU if device.type == "cpu" else _BLOCK


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
    walk = greedy_walk(
        order.cpu().numpy(),
        limit=limit,
        blockers=None if blockers is None else blockers.cpu().numpy(),
        block=block or block_for(order.device),
    )

    def answer(questions: Sequence[tuple[int, Question]]) -> list[np.ndarray]:
        (_, asked), device = questions[0], order.device
        rows = upload(asked.rows, device)
        found = edges(rows, rows if asked.cols is asked.rows else upload(asked.cols, device))
        return [(any_row(found, 0) if asked.reduced else found).cpu().numpy()]

    (taken,) = walk_together([walk], answer)
    return upload(taken, order.device)


def walk_together(
    walks: Sequence[Walk[Result]], answer: Callable[[Sequence[tuple[int, Question]]], Sequence[np.ndarray]]
) -> list[Result]:
    """Let walks go on in step, and answer all questions of a round at once.

    Parameters
    ----------
    walks : sequence of generators
        Each yields a :class:`Question` and is sent the answer.
    answer : callable
        Given (number of the walk, question) of every walk that has not ended, the answers in that order.

    Returns
    -------
    list
        What each walk returns.
    """
    results: dict[int, Result] = {}
    answers: dict[int, np.ndarray | None] = dict.fromkeys(range(len(walks)))
    while answers:
        asked: list[tuple[int, Question]] = []
        for i, given in answers.items():
            try:
                asked.append((i, next(walks[i]) if given is None else walks[i].send(given)))
            except StopIteration as end:
                results[i] = end.value
        found = answer(asked) if asked else []
        answers = {i: given for (i, _), given in zip(asked, found, strict=True)}
    return [results[i] for i in range(len(walks))]


def greedy_walk(
    order: np.ndarray, *, limit: int | None, blockers: np.ndarray | None, block: int, theta: float = 0.0
) -> Walk[np.ndarray]:
    """Walk as :func:`greedy_mis`, asking for edges: a generator that returns the nodes taken, in order."""
    n = len(order)
    limit = n if limit is None else min(limit, n)
    taken = order[:0] if blockers is None else blockers
    before, n_chosen, start, window = len(taken), 0, 0, max(2 * limit, _WINDOW)
    if before and n <= 3 * window:  # blockers thin a window out: better one large product than two
        window = n
    while n_chosen < limit and start < n:
        candidates = order[start : start + min(window, _CELLS // block)]
        start += len(candidates)
        candidates = yield from _free(taken, candidates, block, theta)
        while len(candidates) and n_chosen < limit:
            size = min(block, max(2 * (limit - n_chosen), _HEAD))
            size = size if len(candidates) > size * 3 // 2 else len(candidates)  # no round for a small remainder
            head, candidates = candidates[:size], candidates[size:]
            adjacent = yield Question(head, head, False, theta)
            chosen = head[_resolve(adjacent, limit - n_chosen)]
            taken, n_chosen = np.concatenate([taken, chosen]), n_chosen + len(chosen)
            if n_chosen < limit:
                candidates = yield from _free(chosen, candidates, block, theta)
        # as many as the yield so far promises to be enough, and at least twice the last window: the yield falls
        # as the image fills, and the rounds stay few
        window = max(2 * window, (limit - n_chosen) * start * 5 // (max(n_chosen, 1) * 4))
    return taken[before:]


def _free(taken: np.ndarray, nodes: np.ndarray, first: int, theta: float) -> Walk[np.ndarray]:
    """Leave out of ``nodes`` the neighbours of ``taken``, of whom the first few clear the way for twice as many."""
    done = 0
    while done < len(taken) and len(nodes):
        size = max(first, done, _FEW_CELLS // len(nodes))
        if len(taken) - done <= size * 3 // 2:  # no round for a small remainder
            size = len(taken) - done
        some = taken[done : done + max(1, min(size, _CELLS // len(nodes)))]
        blocked = yield Question(some, nodes, True, theta)
        nodes = nodes[~blocked]
        done += len(some)
    return nodes


def any_row(edges: Tensor, dim: int) -> Tensor:
    """Tell where any of the rows along ``dim`` holds an edge: bool, on a CPU ten times quicker than any()."""
    return edges.view(torch.uint8).amax(dim).view(torch.bool)


def _resolve(adjacent: np.ndarray, limit: int) -> list[int]:
    """Run the greedy on a small matrix, in index order: one big integer per row, one bit per node."""
    n = len(adjacent)
    packed = np.packbits(adjacent, axis=1, bitorder="little")
    size, rows = packed.shape[1], packed.tobytes()
    chosen: list[int] = []
    free = (1 << n) - 1
    while free and len(chosen) < limit:
        lowest = free & -free
        i = lowest.bit_length() - 1
        chosen.append(i)
        free &= ~(int.from_bytes(rows[i * size : (i + 1) * size], "little") | lowest)
    return chosen
