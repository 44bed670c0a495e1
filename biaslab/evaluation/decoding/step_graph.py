"""A static step that a CUDA graph repeats: warmed up, captured once for its shapes, replayed.

What is captured waits for nothing and allocates nothing that is used outside it: what a step gives is written into
tensors that were there before.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch

from biaslab.evaluation.decoding.static_state import StaticState

__all__ = ["CudaStepGraph", "GraphedStates", "StepGraph"]

_WARM = 3  # steps before the capture: libraries set themselves up in them


class StepGraph(Protocol):
    """Repeats a function without arguments and result."""

    def warm(self, step: Callable[[], None]) -> None:
        """Run the function once, as it is."""

    def capture(self, step: Callable[[], None]) -> None:
        """Note what the function does, without doing it."""

    def replay(self) -> None:
        """Do it."""


class CudaStepGraph:
    """A `StepGraph` by ``torch.cuda.CUDAGraph``.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):
            self.stream = torch.cuda.Stream()
            self.graph = torch.cuda.CUDAGraph()

    def warm(self, step: Callable[[], None]) -> None:
        """Run the step on the stream of the capture, whose libraries' handles are made by it."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            step()
        current.wait_stream(self.stream)

    def capture(self, step: Callable[[], None]) -> None:
        """Capture the step; what other threads do meanwhile (images on their way) is none of its business."""
        with (
            torch.cuda.stream(torch.cuda.current_stream(self.device)),  # comes back also where the capture fails
            torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"),
        ):
            step()

    def replay(self) -> None:
        """Launch what was captured."""
        self.graph.replay()


class GraphedStates:
    """The latest static states with their graphs, by shape: batches of the same shapes use them again.

    Parameters
    ----------
    most : int
        States that are kept. Each holds a KV cache; the one that was used longest ago goes first.
    make : callable
        Device -> `StepGraph`.
    """

    def __init__(self, most: int = 2, make: Callable[[torch.device], Any] = CudaStepGraph) -> None:
        self.most, self.make = most, make
        self._held: OrderedDict[Hashable, tuple[StaticState, _Graphed]] = OrderedDict()

    def take(self, key: Hashable, new: Callable[[], StaticState]) -> tuple[StaticState, Callable[[], None]]:
        """Find the state of these shapes, or make it; returns it and what takes one step with it."""
        if key not in self._held:
            while len(self._held) >= self.most:
                self._held.popitem(last=False)
            state = new()
            self._held[key] = (state, _Graphed(state, self.make(state.tokens.device)))
        self._held.move_to_end(key)
        return self._held[key]

    def clear(self) -> None:
        """Let go of all states and their memory."""
        self._held.clear()


class _Graphed:
    """Steps of one state: the first few as they are, the others by the graph."""

    def __init__(self, state: StaticState, graph: StepGraph) -> None:
        self.state, self.graph, self.warmed = state, graph, 0
        self.captured: bool | None = None  # False where it cannot be

    def __call__(self) -> None:
        if self.warmed < _WARM:  # real steps: nothing is computed for the warm-up alone
            self.warmed += 1
            self.graph.warm(self.state.run)
            return
        if self.captured is None:
            self.captured = self._capture()
        if self.captured:
            self.graph.replay()
        else:
            self.graph.warm(self.state.run)

    def _capture(self) -> bool:
        """Capture the step, which runs nothing: where it fails, the step can still be taken as it is."""
        try:
            self.graph.capture(self.state.run)
        except torch.OutOfMemoryError:  # fewer rows may do
            raise
        except RuntimeError as error:
            why = (str(error).strip().splitlines() or ["no reason given"])[0]
            warnings.warn(f"decode='graph': a step could not be captured ({why}) and runs as it is", stacklevel=2)
            return False
        return True
