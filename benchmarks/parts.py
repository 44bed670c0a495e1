"""What the time of an evaluation goes to: seconds in the model's layers, the selection and the rest, none twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from torch import nn

from biaslab.evaluation.sweep import shared
from biaslab.evaluation.worker import Worker
from biaslab.models.vlm import VLM
from biaslab.pruning import Method

__all__ = ["BELOW", "PARTS", "SELECT", "UNPRUNED", "Parts"]

ENCODE, VISION, BELOW, ABOVE = "encoding", "vision", "prefill, layers < K", "prefill, layers >= K"
UNPRUNED = "shared prefill, layers >= K"  # of the unpruned model; in a run of its own they count as layers >= K
PREFILL_REST, STEPS, STEPS_REST = "prefill, rest of the model", "decode, layers", "decode, rest of the model"
SELECT, LINES = "selection", "boxes, scores, lines"
PARTS = (ENCODE, VISION, BELOW, UNPRUNED, ABOVE, PREFILL_REST, SELECT, STEPS, STEPS_REST, LINES)


class Parts:
    """A watch that counts every moment for the innermost part that is running.

    Attributes
    ----------
    seconds : Counter
        Part -> seconds.
    row_steps : int
        Rows, summed over the decode steps.
    """

    def __init__(self, clock: Callable[[], float] = time.process_time) -> None:
        self.clock = clock
        self.seconds: Counter[str] = Counter()
        self.row_steps = 0
        self._running: list[str] = []
        self._shared = False  # inside the prefix that configurations share
        self._since = 0.0

    def begin(self, part: str) -> None:
        """Let a part begin inside the one that runs."""
        self._count()
        self._running.append(part)

    def end(self) -> None:
        """Let the innermost part end."""
        self._count()
        self._running.pop()

    def _count(self) -> None:
        now = self.clock()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def around(self, part: str, inner: Callable) -> Callable:
        """Count calls of a function as a part."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self.begin(part)
            try:
                return inner(*args, **kwargs)
            finally:
                self.end()

        return call

    def _prefix(self, inner: Callable) -> Callable:
        def run(*args: Any) -> Any:
            self._shared = True
            try:
                return inner(*args)
            finally:
                self._shared = False

        return run

    @contextmanager
    def watching(self, vlm: VLM, layer: int) -> Iterator[None]:
        """Watch a model whose tokens are dropped before ``layer``, and the evaluations that run it."""
        with ExitStack() as stack:
            for owner, name, part in (
                (vlm, "prepare", ENCODE), (vlm, "send", ENCODE), (vlm, "vision", VISION),
                (Method, "select_batch", SELECT), (Method, "select_budgets", SELECT), (Worker, "lines", LINES),
            ):  # fmt: skip
                stack.enter_context(patch.object(owner, name, self.around(part, getattr(owner, name))))
            stack.enter_context(patch.object(shared, "run_prefix", self._prefix(shared.run_prefix)))
            self._hook(stack, vlm.model, lambda tokens: STEPS_REST if tokens == 1 else PREFILL_REST, rows=True)
            for index, module in enumerate(vlm.decoder.layers):
                self._hook(stack, module, self._of_layer(index < layer))
            yield

    def _of_layer(self, below: bool) -> Callable[[int], str]:
        def part(tokens: int) -> str:
            if tokens == 1:
                return STEPS
            return BELOW if below else UNPRUNED if self._shared else ABOVE

        return part

    def _hook(self, stack: ExitStack, module: nn.Module, part: Callable[[int], str], rows: bool = False) -> None:
        def before(_: nn.Module, args: tuple, kwargs: dict) -> None:
            given = kwargs.get("input_ids", args[0] if args else kwargs.get("hidden_states"))
            tokens = given.shape[1]
            if rows and tokens == 1:
                self.row_steps += len(given)
            self.begin(part(tokens))

        stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
        stack.callback(module.register_forward_hook(lambda *_: self.end()).remove)
