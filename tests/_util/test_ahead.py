"""Looking ahead: the results of ``map``, in order, in bounded memory, and what happens when something fails."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import pytest

from biaslab._util.ahead import DEPTH, ahead

NAME = "biaslab-ahead"


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith(NAME)]


def wait_until(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.005)
    assert true()


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    wait_until(lambda: not threads())


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_results_are_those_of_map_in_their_order(workers):
    def slow(n):
        time.sleep(0.001 * (7 - n))  # the later ones are ready first
        return n * n

    with ahead(slow, range(7), workers=workers) as results:
        assert list(results) == [n * n for n in range(7)]
    with ahead(slow, [], workers=workers) as results:
        assert list(results) == []


def test_without_workers_there_is_no_thread():
    with ahead(lambda _: threading.current_thread(), range(2), workers=0) as results:
        assert set(results) == {threading.main_thread()}
    with ahead(lambda _: threading.current_thread(), range(2), workers=1) as results:
        assert threading.main_thread() not in set(results)


@pytest.mark.parametrize(("workers", "depth", "most"), [(0, 2, 0), (1, 2, 2), (1, 1, 1), (2, 2, 2), (4, 2, 4)])
def test_never_more_than_the_items_ahead(workers, depth, most):
    drawn, used, done = [], 0, []

    def source():
        for n in range(20):
            drawn.append(n)
            assert threading.current_thread() is threading.main_thread()
            yield n

    with ahead(done.append, source(), workers=workers, depth=depth) as results:
        for _ in results:
            used += 1
            expected = min(20, used + most)
            wait_until(lambda expected=expected: len(done) >= expected)
            time.sleep(0.002)
            assert len(drawn) == len(done) == expected
    assert DEPTH == 2


@pytest.mark.slow
def test_results_that_are_used_are_not_held():
    class Result:
        pass

    made = []

    def work(_):
        result = Result()
        made.append(weakref.ref(result))
        return result

    alive = []
    with ahead(work, range(10), workers=1) as results:
        for _ in results:
            gc.collect()
            alive.append(sum(ref() is not None for ref in made))
    assert max(alive) <= 1 + DEPTH


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_failure_comes_in_its_turn(workers):
    def fails(n):
        if n == 3:
            raise ValueError("three")
        return n

    def source():
        yield from range(3)
        raise KeyError("the source")

    for work, items, error in ((fails, range(9), ValueError), (abs, source(), KeyError)):
        got = []
        with pytest.raises(error), ahead(work, items, workers=workers) as results:
            for result in results:
                got.append(result)
        assert got == [0, 1, 2]


@pytest.mark.parametrize("where", ["the user", "the source"])
def test_an_interruption_passes_at_once(where):
    """It waits for no thread, what has not begun never begins, and what has begun is not heard of."""
    go_on, begun, got = threading.Event(), [], []

    def work(n):
        begun.append(n)
        if n:
            go_on.wait(10)
        return n

    def source():
        yield from range(2)
        if where == "the source":
            raise KeyboardInterrupt
        yield from range(2, 9)

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), ahead(work, source(), workers=1, depth=3) as results:
        for result in results:
            got.append(result)
            wait_until(lambda: len(begun) == 2)  # the thread is at work on the second item
            raise KeyboardInterrupt
    assert time.monotonic() - start < 5 and threads()
    go_on.set()
    wait_until(lambda: not threads())
    assert len(begun) <= 2 and got == ([0] if where == "the user" else [])
