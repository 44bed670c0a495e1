"""Looking ahead: work on the next items in threads while the present one is used, in order and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TypeVar

__all__ = ["DEPTH", "ahead"]

T = TypeVar("T")
R = TypeVar("R")

DEPTH = 2  # items ahead of the one that is used


@contextmanager
def ahead(work: Callable[[T], R], items: Iterable[T], *, workers: int, depth: int = DEPTH) -> Iterator[Iterator[R]]:
    """Yield an iterator over ``work(item)`` of each item, in their order, as ``map`` would.

    At most ``depth`` results (or as many as there are workers, if that is more) are made before they are asked for.
    Items are drawn in the thread that asks, one for each result that is used. What drawing or working raises comes when
    its turn comes: the results before it are not lost. Leaving the block gives up what has not begun; what has begun
    ends by itself, unheard.

    Parameters
    ----------
    work : callable
        Called in one of the threads, so that it must not write what others read.
    items : iterable
    workers : int
        Threads; 0 for none: every item is worked on when it is asked for.
    depth : int

    Yields
    ------
    iterator

    Examples
    --------
    >>> with ahead(str.upper, ["a", "b"], workers=1) as results:
    ...     list(results)
    ['A', 'B']
    """
    if not workers:
        yield map(work, items)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="biaslab-ahead")
    try:
        with closing(_in_order(pool, work, iter(items), max(depth, workers))) as results:
            yield results
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # an interruption does not wait for a thread


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterator[T], depth: int
) -> Generator[R, None, None]:
    waiting: deque[Future[R]] = deque()
    more = True
    while True:
        while more and len(waiting) <= depth:
            try:
                waiting.append(pool.submit(work, next(items)))
            except StopIteration:
                more = False
            except Exception as error:  # an interruption passes at once, everything else in its turn
                more = False
                waiting.append(_failed(error))
        if not waiting:
            return
        yield waiting.popleft().result()


def _failed(error: Exception) -> Future:
    future: Future = Future()
    future.set_exception(error)
    return future
