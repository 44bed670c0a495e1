"""Decoder layers as users give them."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import TYPE_CHECKING

from biaslab.errors import InputError

if TYPE_CHECKING:
    pass


def check_layers(layers: int | Iterable[int] | None, n_layers: int) -> list[int]:
    """Sorted layer indices without repetition; None means all, negative ones count from the end."""
    if layers is None:
        return list(range(n_layers))
    wanted = [layers] if isinstance(layers, Integral) else list(layers)
    for layer in wanted:
        if not isinstance(layer, Integral) or not -n_layers <= layer < n_layers:
            raise InputError(f"layer {layer} does not exist: the decoder has layers 0 to {n_layers - 1}")
    if not wanted:
        raise InputError("no layer given: use layers=None for all, or a list of layer indices")
    return sorted({int(layer) % n_layers for layer in wanted})
