"""What a decoder hands one of its layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["LayerInput"]


@dataclass(frozen=True, eq=False)
class LayerInput:
    """What the decoder hands layer K at the prefill of the whole prompt.

    Attributes
    ----------
    args, kwargs
        Of its forward.
    """

    args: tuple
    kwargs: dict[str, Any]

    @property
    def hidden(self) -> Tensor:
        """(B, N, D) hidden states that enter the layer."""
        return self.args[0] if self.args else self.kwargs["hidden_states"]

    def with_hidden(self, hidden: Tensor) -> LayerInput:
        """Copy it, with other hidden states."""
        if self.args:
            return LayerInput((hidden, *self.args[1:]), self.kwargs)
        return LayerInput((), {**self.kwargs, "hidden_states": hidden})
