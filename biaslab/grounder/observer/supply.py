"""Batches in the order of the plan, drawn by worker processes ahead of the step that uses them."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from biaslab._util.processes import deaf_to_interrupts, end_with_parent
from biaslab.errors import BiaslabError
from biaslab.grounder.observer.batches import Batch, make_batch
from biaslab.grounder.observer.plan import Step, steps_of
from biaslab.grounder.observer.recipe import ObserverRecipe


def batches(
    recipe: ObserverRecipe, stage: str, *, start: int, workers: int
) -> Generator[tuple[Step, Batch], None, None]:
    """Yield the steps of a stage from ``start`` on with their batches; the same ones for any number of workers.

    Parameters
    ----------
    recipe : ObserverRecipe
    stage : {"vision", "decoder"}
    start : int
    workers : int
        Processes that draw; 0: every batch is drawn when it is asked for.

    Yields
    ------
    Step, Batch

    Raises
    ------
    BiaslabError
        A worker died.

    Examples
    --------
    >>> from biaslab.grounder.observer.recipe import ObserverRecipe
    >>> from biaslab.grounder.observer.supply import batches
    >>> recipe = ObserverRecipe(vision_steps=1, vision_pictures=2)
    >>> [len(batch.grid) for step, batch in batches(recipe, "vision", start=0, workers=0)]
    [2]
    """
    steps = steps_of(recipe, stage, start=start)
    if not workers:
        for step in steps:
            yield step, make_batch(recipe, step)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)
    waiting: deque[tuple[Step, Future[Batch]]] = deque()
    try:
        with deaf_to_interrupts():
            for step in steps:
                waiting.append((step, pool.submit(make_batch, recipe, step)))
                if len(waiting) == 2 * workers + 1:
                    break
        while waiting:
            step, future = waiting.popleft()
            batch = future.result()
            if (following := next(steps, None)) is not None:
                waiting.append((following, pool.submit(make_batch, recipe, following)))
            yield step, batch
    except BrokenProcessPool:
        raise BiaslabError(
            "a process that draws images died: the same command goes on from the last checkpoint; use fewer workers "
            "if memory ran out"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _begin() -> None:
    import torch

    end_with_parent()
    torch.set_num_threads(1)
