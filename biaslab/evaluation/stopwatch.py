"""Time and peak memory: of one generate() call, of any task, and the order in which tasks take turns."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from biaslab.pruning.algorithms.transfer import wait_for

__all__ = ["GenerationTimer", "cuda_devices", "extra_peak", "interleaved"]


class GenerationTimer:
    """Times the prefill and the decoding of whatever generates inside the block.

    A pre-hook on the decoder notes the first call (prefill begins) and the second (decoding begins); work
    on a GPU is waited for at these two moments and at :meth:`stop`, not per token. Enter it *before* a pruning
    block, so that its hook runs before the engine's and the prefill includes capture, scoring and selection. A static
    decoding calls the decoder once, to look at its step, before it runs the layers by itself: the second call too.

    Parameters
    ----------
    model, decoder : Module
        The model and its decoder.
    layers : sequence of int
        Decoder layers whose beginning in the prefill is noted too: work on a GPU is waited for there once more, as a
        pruned prefill waits at K.

    Attributes
    ----------
    prefill_ms, decode_ms : float or None
        Wall time of the prefill up to and including the first token, and of the rest; None before
        :meth:`stop`. The vision tower is part of neither.
    below_ms : dict of int to float
        By layer of ``layers``: the part of the prefill before it begins.
    peak_mb : float or None
        Highest memory held by tensors during the block, summed over the model's CUDA devices; None on the
        CPU.
    """

    def __init__(self, model: nn.Module, decoder: nn.Module, *, layers: Sequence[int] = ()) -> None:
        self._decoder, self._layers = decoder, layers
        self._devices = cuda_devices(model)
        self._awaited = {parameter.device for parameter in model.parameters()}
        self.prefill_ms: float | None = None
        self.decode_ms: float | None = None
        self.below_ms: dict[int, float] = {}
        self.peak_mb: float | None = None

    def __enter__(self) -> GenerationTimer:
        self._marks: list[float] = []
        self._begun: dict[int, float] = {}
        for device in self._devices:
            torch.cuda.reset_peak_memory_stats(device)
        self._handle = self._decoder.register_forward_pre_hook(self._mark)
        stack: Any = self._decoder.layers if self._layers else ()
        self._at_layers = [stack[i].register_forward_pre_hook(partial(self._mark_layer, i)) for i in self._layers]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.remove()
        self._leave_layers()

    def stop(self) -> None:
        """Stop the clock: what follows in the block is not counted."""
        end = self.now()
        if not self._marks:
            return
        split = self._marks[1] if len(self._marks) > 1 else end
        self.prefill_ms = 1e3 * (split - self._marks[0])
        self.decode_ms = 1e3 * (end - split)
        self.below_ms = {layer: 1e3 * (begin - self._marks[0]) for layer, begin in self._begun.items()}
        if self._devices:
            self.peak_mb = sum(torch.cuda.max_memory_allocated(device) for device in self._devices) / 2**20

    def _mark(self, module: nn.Module, args: tuple) -> None:
        if len(self._marks) < 2:
            self._marks.append(self.now())
        if len(self._marks) == 2:
            self._leave_layers()

    def _mark_layer(self, layer: int, module: nn.Module, args: tuple) -> None:
        self._begun.setdefault(layer, self.now())

    def _leave_layers(self) -> None:
        """Take the hooks off the layers, so that decoding does not pay for them."""
        for handle in self._at_layers:
            handle.remove()
        self._at_layers = []

    def now(self) -> float:
        """Read the clock, in seconds, once the model's devices have done all work given to them."""
        for device in self._awaited:
            wait_for(device)
        return time.perf_counter()


def cuda_devices(model: nn.Module) -> set[torch.device]:
    """Collect the CUDA devices that hold parameters of a model; empty on the CPU."""
    return {p.device for p in model.parameters() if p.device.type == "cuda"}


def interleaved(names: Sequence[Any], repeats: int, warmup: int = 1) -> Iterator[tuple[int, Any]]:
    """Yield (round, name) in the order A B C, B C A, C A B, ...; rounds below 0 warm up.

    A machine that slows down does so for neighbours alike, and no task always follows the same other one. Garbage
    is collected before every task, so that none pays for another's.
    """
    names = list(names)
    gc.collect()
    gc.freeze()  # what is there already need not be looked at again at every collection below
    try:
        for turn in range(-warmup, repeats):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                gc.collect()
                yield turn, name
    finally:
        gc.unfreeze()


def extra_peak(task: Callable[[], Any], warm: Callable[[], Any]) -> float | None:
    """Measure by how many MiB a task raises this process's resident memory over what it held when idle.

    Parameters
    ----------
    task : callable
        What to measure; what it returns is alive until the peak is read.
    warm : callable
        A small task of the same kind, run first, so that libraries loaded on first use do not count.

    Returns
    -------
    float or None
        None where the kernel does not let a process reset its peak (only Linux does).
    """
    warm()
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # free memory the allocator still holds would hide part of the task
    try:
        Path("/proc/self/clear_refs").write_text("5")  # peak := now
    except OSError:
        return None
    idle = _resident("VmRSS")
    value = task()
    peak = _resident("VmHWM")
    del value
    return (peak - idle) / 1024


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
