"""Whether a processor can leave pixels as 8-bit values, and how they lie then: what families say, without torch."""

from __future__ import annotations

from enum import Enum
from typing import Any

__all__ = ["PLAIN_BYTES", "PixelForm", "normalises_apart"]

#: what a processor is told so that it leaves pixels as they are
PLAIN_BYTES = {"do_rescale": False, "do_normalize": False}


class PixelForm(Enum):
    """How the pixel values of a family lie: on which axis the channels are."""

    TILES = "tiles"  # (..., 3, height, width)
    PATCHES = "patches"  # (patches, 3 * values of a channel)


def normalises_apart(processor: Any) -> bool:
    """Whether an image processor rescales and normalises as its last step, so that it can be left to the device.

    It is one of transformers' own on Pillow, which keep 8 bits until then, and does both. Those on torchvision resize
    in other ways.

    Parameters
    ----------
    processor : ImageProcessor

    Returns
    -------
    bool
    """
    stock = type(processor).__module__.startswith("transformers.")
    asked = getattr(processor, "do_rescale", False) and getattr(processor, "do_normalize", False)
    return stock and getattr(processor, "backend", None) == "pil" and bool(asked)
