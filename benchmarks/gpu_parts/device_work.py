"""What a task makes a device do, whatever its host takes to ask for it: torch's profiler over one run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["device_work"]


def device_work(task: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Sum the time of all kernels and copies of a task, in ms, and count them; nothing where that is no CUDA device."""
    if device.type != "cuda":
        return {}
    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        task()
        torch.cuda.synchronize(device)
    ran = [event for event in profiler.key_averages() if str(event.device_type).endswith("CUDA")]
    return {
        "device_ms": sum(event.self_device_time_total for event in ran) / 1e3,
        "launches": sum(event.count for event in ran),
    }
