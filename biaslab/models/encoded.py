"""A batch of prompts ready for the model, with the places of image and text tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..layout import TokenLayout

__all__ = ["Encoded", "last_token", "positions", "text_after_image"]


def positions(flags: Tensor) -> tuple[Tensor, Tensor]:
    """Where each row of ``flags`` is True.

    Parameters
    ----------
    flags : BoolTensor (B, N)

    Returns
    -------
    indices : LongTensor (B, M)
        Ascending column indices, M the largest count; fillers hold 0.
    mask : BoolTensor (B, M)
        False for fillers.
    """
    count = flags.sum(1, keepdim=True)
    width = int(count.max())  # the one device sync of a prefill
    order = flags.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :width]
    mask = torch.arange(width, device=flags.device) < count
    return order.masked_fill(~mask, 0), mask


def text_after_image(is_image: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Positions after the last image token of each row, without padding: ``(indices, mask)``, (B, Tmax)."""
    later = is_image.flip(1).cumsum(1).flip(1) == 0
    if attention_mask is not None:
        later = later & attention_mask.bool()
    return positions(later)


def last_token(is_image: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Position of the last token of each row that is no padding, (B, 1)."""
    batch, length = is_image.shape
    if attention_mask is None:
        return is_image.new_full((batch, 1), length - 1, dtype=torch.long)
    return length - 1 - attention_mask.flip(1).long().argmax(1, keepdim=True)


@dataclass(frozen=True, eq=False)
class Encoded:
    """Left-padded prompts of a batch; made by `VLM.encode`.

    Attributes
    ----------
    inputs : dict
        Keyword arguments for ``model(**inputs)`` and ``model.generate(**inputs)``.
    layouts : list of TokenLayout
        One per sample.
    visual, visual_mask : (B, Vmax) LongTensor, BoolTensor
        Absolute indices of the visual tokens in the padded prompt, and which of them are no fillers.
    text_after, text_after_mask : (B, Tmax) LongTensor, BoolTensor
        The same for all positions after the image: question, end-of-turn and answer header.
    last : int
        Index of the last prompt token (prompt length - 1, for every sample, because padding is on the left).
    resized : list of (width, height)
        Size of the picture the model saw, pixels (before tiling into equal squares where there is tiling).
    sample_ids : list of str, optional
        Names the samples carry through pruning (their random seeds depend on it) and logs.
    """

    inputs: dict[str, Any]
    layouts: list[TokenLayout]
    visual: Tensor
    visual_mask: Tensor
    text_after: Tensor
    text_after_mask: Tensor
    last: int
    resized: list[tuple[int, int]]
    sample_ids: list[str] | None = None

    @classmethod
    def from_inputs(
        cls,
        inputs: dict[str, Any],
        layouts: list[TokenLayout],
        resized: list[tuple[int, int]],
        image_token_id: int,
        sample_ids: list[str] | None = None,
    ) -> Encoded:
        """Locate image and text tokens in processor output; the counts must agree with the layouts."""
        ids = inputs["input_ids"]
        is_image = ids == image_token_id
        counts = is_image.sum(1).tolist()
        wanted = [layout.n for layout in layouts]
        if counts != wanted:
            raise InputError(
                f"the prompts hold {counts} image tokens but the layouts {wanted}: check that the text does "
                "not contain the image token, and that the processor belongs to the model"
            )
        if sample_ids is not None and len(sample_ids) != len(layouts):
            raise InputError(f"{len(sample_ids)} sample_ids for {len(layouts)} samples: give one id per sample")
        visual, visual_mask = positions(is_image)
        text, text_mask = text_after_image(is_image, inputs.get("attention_mask"))
        ids_list = None if sample_ids is None else [str(s) for s in sample_ids]
        return cls(inputs, layouts, visual, visual_mask, text, text_mask, ids.shape[1] - 1, resized, ids_list)

    def __len__(self) -> int:
        return len(self.layouts)

    @property
    def device(self) -> torch.device:
        return self.visual.device

    def with_inputs(self, inputs: dict[str, Any]) -> Encoded:
        """The same prompts with other model inputs, for example with the image features already computed."""
        return replace(self, inputs=inputs)
