"""Time and peak memory of one generate() call, prefill and decode apart."""

from __future__ import annotations

import time
from types import TracebackType

import torch
from torch import nn


class Clock:
    """Times the prefill and the decoding of whatever generates inside the block.

    A pre-hook on the decoder notes the first call (prefill begins) and the second (decoding begins); CUDA
    work is waited for at these two moments and at :meth:`stop`, not per token. Enter it *before* a pruning
    block, so that its hook runs before the engine's and the prefill includes capture, scoring and selection.

    Attributes
    ----------
    prefill_ms, decode_ms : float or None
        Wall time of the prefill up to and including the first token, and of the rest; None before
        :meth:`stop`. The vision tower is part of neither.
    peak_mb : float or None
        Highest memory held by tensors during the block, summed over the model's CUDA devices; None on the
        CPU.
    """

    def __init__(self, model: nn.Module, decoder: nn.Module) -> None:
        self._decoder = decoder
        self._devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
        self.prefill_ms: float | None = None
        self.decode_ms: float | None = None
        self.peak_mb: float | None = None

    def __enter__(self) -> Clock:
        self._marks: list[float] = []
        for device in self._devices:
            torch.cuda.reset_peak_memory_stats(device)
        self._handle = self._decoder.register_forward_pre_hook(self._mark)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.remove()

    def stop(self) -> None:
        """Generation is over: what follows in the block is not counted."""
        end = self.now()
        if not self._marks:
            return
        split = self._marks[1] if len(self._marks) > 1 else end
        self.prefill_ms = 1e3 * (split - self._marks[0])
        self.decode_ms = 1e3 * (end - split)
        if self._devices:
            self.peak_mb = sum(torch.cuda.max_memory_allocated(device) for device in self._devices) / 2**20

    def _mark(self, module: nn.Module, args: tuple) -> None:
        if len(self._marks) < 2:
            self._marks.append(self.now())

    def now(self) -> float:
        """Seconds, once the model's devices have done all work given to them."""
        for device in self._devices:
            torch.cuda.synchronize(device)
        return time.perf_counter()
