"""A decoder that runs some of its layers only: those below K, none, or none after hidden states that are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from biaslab.evaluation.sweep.generation import Generation
from biaslab.evaluation.sweep.layer_input import LayerInput

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["Given", "Skipped", "Stop", "logits_of", "swapped_layers"]


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


class Skipped(nn.Module):
    """Stands for one layer of a decoder that is to show what it would hand it, and what it adds between layers.

    Attributes
    ----------
    given : LayerInput
        What it was called with.
    out : Tensor
        What it has returned: zeros, in the shape of the hidden states. What enters the next layer in its place is what
        the decoder has added to it, as Qwen3-VL adds image features after its first layers.
    """

    given: LayerInput
    out: Tensor

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Keep the arguments, return zeros that take no room."""
        self.given = LayerInput(args, kwargs)
        hidden = self.given.hidden
        self.out = hidden.new_zeros(1).expand_as(hidden)
        return self.out


def logits_of(vlm: VLM, generation: Generation, hidden: Tensor, empty: Any) -> Tensor:
    """Let the model make logits of hidden states that its last layer has returned: (R, 1, D) -> (R, 1, vocabulary)."""
    mask = generation.kwargs.get("attention_mask")
    last = generation.with_cache(empty)  # and stays so: no layer runs that would fill it
    if mask is not None:
        last.kwargs["attention_mask"] = mask[:, -1:]
    with swapped_layers(vlm.decoder, [Given(hidden)]):
        return last.step().logits[:, -1:]
