"""Models of which a part waits on disk: its weights are on the device "meta" until they are run."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["execution_device"]


def execution_device(model: nn.Module) -> torch.device | None:
    """Find the device on which accelerate runs the first part of a model; None where it runs none."""
    for module in model.modules():
        device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return None
