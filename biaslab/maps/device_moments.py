"""Moments on the device where the maps were computed, so that maps need not leave it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from biaslab.maps.moments import TINY, Moments

__all__ = ["DeviceMoments", "device_of_moments", "on_host", "room_for_moments"]

#: types of device that compute in float64
_FLOAT64 = frozenset({"cpu", "cuda"})
_PART = 2**22  # values of all images that are worked on at a time: 64 MiB of attention and logarithms in float64
_SHARE = 8  # moments may take an eighth of the memory that is free on a device when they come to it


@dataclass(frozen=True, eq=False)
class DeviceMoments:
    """`Moments` as tensors: index 0 is of attention, index 1 of its centred logarithm.

    Nothing is changed in place: who keeps a reference keeps a state.

    Attributes
    ----------
    n : int
        Number of images.
    mean, var : Tensor (2, ..., N), float64

    Examples
    --------
    >>> images = [torch.tensor([[0.1, 0.3]]), torch.tensor([[0.3, 0.3]])]
    >>> both = DeviceMoments.of(Moments.empty((1, 2)), "cpu").plus(images).moments()
    >>> both.n, both.mean.round(3), both.var.round(3)
    (2, array([[0.2, 0.3]]), array([[0.01, 0.  ]]))
    """

    n: int
    mean: Tensor
    var: Tensor

    @staticmethod
    def of(moments: Moments, device: torch.device | str) -> DeviceMoments:
        """Bring the moments of earlier images, or of none, to a device."""
        pairs = (np.stack(pair) for pair in ((moments.mean, moments.log_mean), (moments.var, moments.log_var)))
        mean, var = (torch.from_numpy(pair).to(device) for pair in pairs)
        return DeviceMoments(moments.n, mean, var)

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self.mean.nbytes + self.var.nbytes

    def moments(self, index: Any = ...) -> Moments:
        """Bring them to the CPU, all or at an index of the maps, in two transfers."""
        mean, var = (pair[:, index].cpu().numpy() for pair in (self.mean, self.var))
        return Moments(self.n, mean[0], var[0], mean[1], var[1])

    def plus(self, images: Sequence[Tensor]) -> DeviceMoments:
        """Add single maps, one after the other, by the update of `Moments.plus`.

        The result does not depend on how images are batched, and differs from that of `Moments.plus` by the rounding of
        float64 alone. Nothing waits for the device.

        Parameters
        ----------
        images : sequence of Tensor (..., N)
            On the device of the moments.
        """
        tokens = self.mean.shape[-1]
        before_mean, before_var = self.mean.reshape(2, -1, tokens), self.var.reshape(2, -1, tokens)
        mean, var = before_mean.clone(), before_var.clone()
        maps = [image.reshape(-1, tokens) for image in images]
        step = max(1, _PART // (tokens * len(maps)))
        for start in range(0, mean.shape[1], step):
            part = slice(start, start + step)
            m, v = mean[:, part], var[:, part]
            for n, both in enumerate(_both(torch.stack([image[part] for image in maps])), self.n + 1):
                share = 1 / n
                delta = both - m
                m.add_(delta, alpha=share)
                v.mul_(1 - share).addcmul_(delta, delta, value=share * (1 - share))
        return DeviceMoments(self.n + len(maps), mean.view(self.mean.shape), var.view(self.var.shape))


def _both(maps: Tensor) -> Tensor:
    """(n, 2, R, N) float64: maps (n, R, N), and their logarithms as `centred_log` takes them."""
    attention = maps.double()
    logs = (attention + TINY).log()
    even = (logs == logs[..., :1]).all(-1, keepdim=True)  # what rounding leaves there would pass for a map
    logs = (logs - logs.mean(-1, keepdim=True)).masked_fill(even, 0.0)
    return torch.stack([attention, logs], 1)


def on_host(moments: Moments | DeviceMoments) -> Moments:
    """Return moments as arrays, wherever they lie.

    Examples
    --------
    >>> nothing = Moments.empty((1, 2))
    >>> on_host(nothing) is nothing, on_host(DeviceMoments.of(nothing, "cpu")).mean
    (True, array([[0., 0.]]))
    """
    return moments if isinstance(moments, Moments) else moments.moments()


def device_of_moments(device: torch.device) -> torch.device:
    """Where moments of maps on ``device`` are computed: there, or on the CPU if it has no float64.

    Examples
    --------
    >>> device_of_moments(torch.device("cuda", 1)), device_of_moments(torch.device("mps"))
    (device(type='cuda', index=1), device(type='cpu'))
    """
    return device if device.type in _FLOAT64 else torch.device("cpu")


def room_for_moments(device: torch.device) -> int:
    """Bytes that moments may take on a device: a share of what is free there now."""
    free, _ = torch.cuda.mem_get_info(device)
    return free // _SHARE
