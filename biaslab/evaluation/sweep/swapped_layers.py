"""A decoder that runs some of its layers only: those below K, or none after hidden states that are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["Given", "Stop", "swapped_layers"]


@contextmanager
def swapped_layers(decoder: Any, layers: Sequence[nn.Module]) -> Iterator[None]:
    """Let a decoder run ``layers`` inside the block; it has its own again after it, whatever happens."""
    own = decoder.layers
    decoder.layers = nn.ModuleList(layers)
    try:
        yield
    finally:
        decoder.layers = own


class Stop(nn.Module):
    """Stands where a layer K would: its input is what the layers below have made, and goes no further.

    A pre-hook on it sees what the layer would have been given.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the hidden states as they came."""
        return args[0] if args else kwargs["hidden_states"]


class Given(nn.Module):
    """Stands for all layers: gives hidden states that are known, so that the model makes logits of them."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the given hidden states."""
        return self.hidden
