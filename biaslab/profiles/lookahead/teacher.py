"""What the conditional profile learns: the attention of heads that look at something, without their position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from biaslab.core.layout import TokenLayout
from biaslab.maps.moments import centred_log
from biaslab.maps.protocol import ReadableMaps
from biaslab.profiles.base import Profile
from biaslab.profiles.chosen_heads import Head

__all__ = ["Teacher"]

_NAMED = 2  # heads in a title
_LEAST = 1e-3  # added to a standard deviation over an image that is divided by


class Teacher:
    """Attention of some heads as one map per image, with and without what position explains.

    Parameters
    ----------
    heads : sequence of Head
    positional : Profile, optional
        Fitted per head, on the layers of ``heads``; None to take nothing off.
    """

    def __init__(self, heads: Sequence[Head], positional: Profile) -> None:
        self.heads, self.positional = list(heads), positional

    @property
    def layers(self) -> list[int]:
        """Layers that are read."""
        return sorted({head.layer for head in self.heads})

    @property
    def names(self) -> str:
        """The heads as figures name them, the heaviest of many: "L3h1, L3h0", "L3h1, L8h0 and 16 more"."""
        names = [f"L{head.layer}h{head.head}" for head in self.heads]
        some = names if len(names) <= _NAMED + 1 else names[:_NAMED]
        more = len(names) - len(some)
        return ", ".join(some) + (f" and {more} more" if more else "")

    def expected_log(self, layout: TokenLayout) -> np.ndarray:
        """(N,) what position alone makes the map be expected to be, centred."""
        maps = {layer: centred_log(self.positional.expected(layout, layer).numpy()) for layer in self.layers}
        return np.sum([head.weight * maps[head.layer][head.head] for head in self.heads], axis=0)

    def log(self, maps: ReadableMaps, index: int) -> np.ndarray:
        """(N,) weighted mean of the heads' log attention to one image, centred."""
        logs = {layer: centred_log(maps.image(index, layer)) for layer in self.layers}
        return np.sum([head.weight * logs[head.layer][head.head] for head in self.heads], axis=0)

    def target(self, maps: ReadableMaps, index: int, *, debiased: bool = True) -> np.ndarray:
        """(N,) float32 map to be learned: of each head, in standard deviations over the image, without its position."""
        layout = maps.record(index).layout
        total = np.zeros(layout.n)
        for layer in self.layers:
            rest = centred_log(maps.image(index, layer))
            if debiased:
                rest = rest - centred_log(self.positional.expected(layout, layer).numpy())
            for head in self.heads:
                if head.layer == layer:
                    total += head.weight * rest[head.head] / (rest[head.head].std() + _LEAST)
        return total.astype(np.float32)
