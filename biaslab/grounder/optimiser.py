"""Muon for hidden matrices, AdamW for the rest: float32 masters of the working copies, gradients averaged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch
import torch.distributed as dist

from biaslab.errors import UnsupportedError
from biaslab.grounder.muon import Float32Muon

# Embeddings, heads and the first layer learn better with AdamW (Muon is meant for hidden matrices).
_ADAMW = ("embed", "lm_head", "heads", "patch", "position", "cls_token")


def check_torch() -> None:
    """Refuse a torch without the Muon optimiser, which came with 2.9; the rest of biaslab needs 2.6.

    Raises
    ------
    UnsupportedError
    """
    if not hasattr(torch.optim, "Muon"):
        raise UnsupportedError(f"training needs torch.optim.Muon: install torch>=2.9 (here: {torch.__version__})")


def working_dtype(device: torch.device) -> torch.dtype:
    """Choose bfloat16 where the device multiplies it in hardware, else float32.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    torch.dtype
    """
    if device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.float32
    return torch.bfloat16


class MuonAdamW:
    """Update parameters through float32 masters.

    Parameters
    ----------
    named : iterable of (str, torch.nn.Parameter)
        The working copies, in bfloat16 or (see `working_dtype`) in float32; a missing gradient counts as zero.
    muon_rate, adamw_rate : float
        Peak learning rates.
    steps, warmup : int
        Length of the cosine schedule and of the linear warm-up before it.
    final_rate : float
        Share of the peak rates that is left at the end.
    slower : mapping of str to float
        Parts of names -> factor of both rates, for parameters that are to change more slowly.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, torch.nn.Parameter]],
        *,
        muon_rate: float,
        adamw_rate: float,
        steps: int,
        warmup: int,
        final_rate: float,
        slower: Mapping[str, float] = MappingProxyType({}),
    ):
        self.working = dict(named)
        self.masters = {n: p.detach().float().clone().requires_grad_() for n, p in self.working.items()}
        self.steps, self._warmup, self._final = steps, warmup, final_rate
        hidden: dict[float, list[torch.Tensor]] = {}
        rest: dict[float, list[torch.Tensor]] = {}
        for name, master in self.masters.items():
            factor = next((factor for part, factor in slower.items() if part in name), 1.0)
            kind = hidden if master.dim() == 2 and not any(k in name for k in _ADAMW) else rest
            kind.setdefault(factor, []).append(master)
        groups = [
            [{"params": some, "lr": rate * factor, "peak": rate * factor} for factor, some in kind.items()]
            for kind, rate in ((hidden, muon_rate), (rest, adamw_rate))
        ]
        in_float32 = next(iter(self.working.values())).dtype == torch.float32
        kind_of_muon = Float32Muon if in_float32 else torch.optim.Muon
        muon = kind_of_muon(groups[0], lr=muon_rate, momentum=0.95, weight_decay=0.01, ns_steps=5)
        adamw = torch.optim.AdamW(groups[1], lr=adamw_rate, betas=(0.9, 0.98), weight_decay=0.0)
        self._optimisers = (muon, adamw)
        self.step_number = 0
        self.gradient_norm = 0.0

    def step(self, clip: float = 1.0) -> None:
        """Average the gradients over the processes, clip them, update masters and working copies."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # thousands of tiny operations: OpenMP barriers would cost more than they give
        masters = list(self.masters.values())
        gradients = []
        for working, master in zip(self.working.values(), masters, strict=True):
            gradient = torch.zeros_like(master) if working.grad is None else working.grad.float()
            gradients.append(gradient)
            master.grad, working.grad = gradient, None
        if dist.is_initialized():
            flat = torch.cat([g.view(-1) for g in gradients])
            dist.all_reduce(flat)
            flat /= dist.get_world_size()
            for gradient, part in zip(gradients, flat.split([m.numel() for m in masters]), strict=True):
                gradient.copy_(part.view_as(gradient))
        self.gradient_norm = float(torch.nn.utils.clip_grad_norm_(masters, clip))
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * self._schedule()
            optimiser.step()
        with torch.no_grad():
            for working, master in zip(self.working.values(), masters, strict=True):
                working.copy_(master)
        self.step_number += 1
        torch.set_num_threads(threads)

    def _schedule(self) -> float:
        warm = min(1.0, (self.step_number + 1) / self._warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, self.step_number / self.steps)))
        return warm * (self._final + (1 - self._final) * cosine)

    def state(self) -> dict:
        """All that `restore` needs, tensors and numbers only."""
        return {
            "masters": {n: m.detach().clone() for n, m in self.masters.items()},
            "optimisers": [o.state_dict() for o in self._optimisers],
            "step": self.step_number,
        }

    def restore(self, state: dict) -> None:
        """Go on exactly where `state` was taken."""
        with torch.no_grad():
            for name, master in self.masters.items():
                master.copy_(state["masters"][name])
                self.working[name].copy_(master)
        for optimiser, saved in zip(self._optimisers, state["optimisers"], strict=True):
            peaks = [group["peak"] for group in optimiser.param_groups]
            optimiser.load_state_dict(saved)
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["peak"] = peak  # checkpoints of earlier versions do not say it
        self.step_number = state["step"]
