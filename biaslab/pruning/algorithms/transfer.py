"""Between device and host, without waiting where that can be helped."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["Arriving", "upload", "wait_for", "wide"]


def upload(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array to a device; to CUDA from pinned memory, so that the host goes on.

    Examples
    --------
    >>> upload(np.array([1, 2]), torch.device("cpu"))
    tensor([1, 2])
    """
    here = torch.from_numpy(array)
    if device.type != "cuda":
        return here.to(device)
    return here.pin_memory().to(device, non_blocking=True)  # an unpinned copy would wait for the device


def wide(values: Tensor) -> Tensor:
    """Widen to float64, on the device that the values lie on; Apple's has none, and keeps them as they are.

    Examples
    --------
    >>> wide(torch.ones(2)).dtype
    torch.float64
    """
    return values if values.device.type == "mps" else values.double()


def wait_for(device: torch.device) -> None:
    """Wait until a device has done all work given to it, so that a clock can be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Arriving:
    """A tensor on its way to the host: the copy starts at once, :meth:`read` waits for it and for nothing behind it.

    Parameters
    ----------
    value : Tensor
        On any device.

    Examples
    --------
    >>> Arriving(torch.tensor([True])).read()
    tensor([True])
    """

    def __init__(self, value: Tensor) -> None:
        self._value, self._event = value, None
        if value.device.type == "cuda":
            self._value = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            self._value.copy_(value, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(value.device))

    def read(self) -> Tensor:
        """Return the value as a tensor on the CPU."""
        if self._event is not None:
            self._event.synchronize()
        return self._value.cpu()
