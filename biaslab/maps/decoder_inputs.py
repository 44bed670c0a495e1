"""What enters a decoder layer at the prefill: of each image its visual tokens, and the tokens behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from biaslab.models.encoded import Encoded, text_after_image

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["DecoderInputs", "decoder_inputs"]

_MOST = float(np.finfo(np.float16).max)


class DecoderInputs:
    """Hidden states of the latest prefill that entered the layer; decode steps leave them alone."""

    def __init__(self) -> None:
        self.hidden: Tensor | None = None

    def per_image(self, vlm: VLM, encoded: Encoded) -> list[tuple[np.ndarray, np.ndarray]]:
        """Take them apart, in one transfer.

        Parameters
        ----------
        vlm : VLM
        encoded : Encoded
            The prompts that were run.

        Returns
        -------
        list of (N, D) and (T, D) float16 arrays
            Of each image, what its visual tokens and the tokens behind the last image of its prompt hold. What does not
            fit in half precision is its largest number.
        """
        if self.hidden is None:
            raise AssertionError("the layer has not run")
        ids = encoded.inputs["input_ids"]
        text, said = text_after_image(ids == vlm.image_token_id, encoded.inputs.get("attention_mask"))
        hidden = self.hidden
        places = torch.cat([encoded.visual, text], 1).to(hidden.device)
        taken = hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[2]))
        values = taken.float().clamp(-_MOST, _MOST).half().cpu().numpy()
        width, counts = encoded.visual.shape[1], said.sum(1).tolist()
        return [
            (values[owner, first:last], values[owner, width : width + counts[owner]])
            for owner, (first, last) in zip(encoded.owners, encoded.spans, strict=True)
        ]


@contextmanager
def decoder_inputs(vlm: VLM, layer: int) -> Iterator[DecoderInputs]:
    """Watch what enters decoder layer ``layer`` while the block lasts."""
    inputs = DecoderInputs()

    def keep(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        if hidden.shape[1] > 1:
            inputs.hidden = hidden.detach()

    decoder: Any = vlm.decoder
    handle = decoder.layers[layer].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield inputs
    finally:
        handle.remove()
