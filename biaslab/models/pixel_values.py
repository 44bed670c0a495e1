"""Pixels sent to the device as the 8-bit values they are, and rescaled and normalised there, with the processor's bits.

What a processor makes of a pixel depends on its channel and its value alone: 256 values in each of three channels,
which the processor itself is asked for. The device looks them up, so that no arithmetic of its own can differ.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from biaslab.models.pixel_form import PixelForm

__all__ = ["RawPixels", "table_of"]

LEVELS = 256


@dataclass(frozen=True, eq=False)
class RawPixels:
    """What makes pixel values of 8-bit ones.

    Attributes
    ----------
    table : Tensor (3, 256)
        float32: of every channel, what becomes of each value.
    form : PixelForm
    filling : BoolTensor, optional
        Broadcastable to the pixel values: entries that show nothing and are 0, such as the tiles that a batch is filled
        up with.
    rows : LongTensor, optional
        Which pixels stand for each row of the pixel values, where an image that comes several times is sent once.
    """

    table: Tensor
    form: PixelForm
    filling: Tensor | None = None
    rows: Tensor | None = None

    def to(self, device: torch.device, *, non_blocking: bool = False) -> RawPixels:
        """Send it to a device."""

        def to(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=non_blocking)

        table = self.table.to(device, non_blocking=non_blocking)
        return replace(self, table=table, filling=to(self.filling), rows=to(self.rows))

    def normalised(self, pixels: Tensor) -> Tensor:
        """Rescale and normalise pixels where they lie; nothing waits for the device.

        Parameters
        ----------
        pixels : uint8 Tensor
            In the form of the family.

        Returns
        -------
        Tensor
            float32, in the same form: what the processor would have made, bit by bit.

        Examples
        --------
        >>> table = torch.arange(3 * 256).float().view(3, 256) / 255
        >>> RawPixels(table, PixelForm.TILES).normalised(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten()
        tensor([1.0000, 2.0039, 3.0078])
        """
        values = torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device)
        before, after = (_by_channel(x, self.form) for x in (pixels, values))
        for channel, levels in enumerate(self.table):  # by channel: the indices take a third of the room
            index = before[:, channel].int()
            after[:, channel] = levels.index_select(0, index.flatten()).view(index.shape)
        if self.rows is not None:
            values = values.index_select(0, self.rows)
        return values if self.filling is None else values.masked_fill_(self.filling, 0)


def table_of(processor: Any) -> Tensor:
    """Ask an image processor what becomes of every value of every channel.

    It is asked anew for each batch, in some 50 microseconds: its mean and deviation may be changed in between.

    Parameters
    ----------
    processor : ImageProcessor
        One that :func:`~biaslab.models.pixel_form.normalises_apart`.

    Returns
    -------
    Tensor (3, 256)
        float32.

    Examples
    --------
    >>> from transformers import CLIPImageProcessorPil
    >>> table = table_of(CLIPImageProcessorPil(image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5]))
    >>> table.shape, table[:, [0, 255]].tolist()
    (torch.Size([3, 256]), [[-1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0]])
    """
    levels = np.arange(LEVELS, dtype=np.uint8).reshape(1, 16, 16).repeat(3, axis=0)  # an image, channels first
    scaled = processor.rescale(levels, processor.rescale_factor)
    values = processor.normalize(scaled, processor.image_mean, processor.image_std)
    return torch.from_numpy(np.ascontiguousarray(values, np.float32).reshape(3, LEVELS))


def _by_channel(pixels: Tensor, form: PixelForm) -> Tensor:
    """View pixels as (entries, channels, values); shares their memory."""
    if form is PixelForm.PATCHES:
        return pixels.view(len(pixels), 3, -1)
    return pixels.view(-1, 3, pixels.shape[-2] * pixels.shape[-1])
