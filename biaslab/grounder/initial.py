"""Initial weights with which models this small start to learn."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def scale_by_fan_in(module: nn.Module, gain: float) -> None:
    """Draw the matrices of a module anew, with standard deviation ``gain`` over the root of their fan-in."""
    for parameter in module.parameters():
        if parameter.dim() == 2:
            parameter.normal_(0, gain * parameter.shape[1] ** -0.5)


def sincos(width: int, grid: int) -> Tensor:
    """Compute 2-D position embeddings, (grid * grid, width): a quarter each of sin x, cos x, sin y, cos y."""
    import torch

    frequency = 100.0 ** -(torch.arange(width // 4) / (width // 4))
    ys, xs = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    waves = [f(v.reshape(-1, 1) * frequency) for v in (xs, ys) for f in (torch.sin, torch.cos)]
    return torch.cat(waves, 1)
