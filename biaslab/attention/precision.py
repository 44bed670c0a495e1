"""Scores in float32 whatever surrounds them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

__all__ = ["full_precision"]


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute in the number types of the tensors: a surrounding ``torch.autocast`` ends at this door.

    Around everything that turns queries, keys, attention and features into scores and choices; also a decorator.
    Autocast would round the factors of every product to half precision, whose ties and errors decide what is kept.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 2**-12]])
    >>> with torch.autocast("cpu", dtype=torch.bfloat16):
    ...     rounded = x @ x.T
    ...     with full_precision():
    ...         exact = x @ x.T
    >>> rounded.dtype, exact.dtype
    (torch.bfloat16, torch.float32)
    """
    with ExitStack() as stack:
        for device in _device_types():
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def _device_types() -> tuple[str, ...]:
    """List the types of device that autocast may be on for."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return ("cpu",) if accelerator is None else ("cpu", accelerator.type)
