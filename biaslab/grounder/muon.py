"""Muon in float32, for CPUs without bfloat16 units, where `torch.optim.Muon`'s bfloat16 products are far slower."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["Float32Muon"]


class Float32Muon(torch.optim.Muon):
    """`torch.optim.Muon` whose Newton-Schulz iterations run in float32, on all matrices of one shape at once.

    The update is that of torch ("original" learning rate adjustment, Nesterov momentum), to the rounding of bfloat16.
    State and options are torch's own.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # it never returns a loss
        """Update every matrix that has a gradient; no closure is taken."""
        if closure is not None:
            raise ValueError("Float32Muon.step takes no closure")
        for group in self.param_groups:
            of_shape: dict[torch.Size, list[tuple[torch.nn.Parameter, torch.Tensor]]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    of_shape.setdefault(p.shape, []).append((p, p.grad))
            for shape, some in of_shape.items():
                updates = []
                for p, gradient in some:
                    state = self.state[p]
                    if "momentum_buffer" not in state:
                        state["momentum_buffer"] = torch.zeros_like(gradient)
                    momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
                    updates.append(gradient.lerp(momentum, group["momentum"]))
                rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                orthogonal = _orthogonalised(
                    torch.stack(updates), group["ns_coefficients"], group["ns_steps"], group["eps"]
                )
                for (p, _), update in zip(some, orthogonal, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=rate)


def _orthogonalised(
    gradients: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """Move the singular values of (matrices, rows, columns) towards 1."""
    a, b, c = coefficients
    tall = gradients.shape[1] > gradients.shape[2]
    x = gradients.transpose(1, 2) if tall else gradients
    x = x / x.flatten(1).norm(dim=1).clamp(min=eps)[:, None, None]
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x
