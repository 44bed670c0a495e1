"""A drawing in another colour, turned and brought to a size: what all sets of drawings have done to them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from biaslab.scenes.objects.names import COLOURS

__all__ = ["recoloured", "turned"]


def recoloured(image: Image.Image, colour: str, *, saturation_above: int, value_from: int = 0) -> Image.Image:
    """Replace the hue of the coloured parts; pale ones become fuller, greys stay.

    Parameters
    ----------
    image : PIL.Image.Image
        RGBA.
    colour : str
        A name in `biaslab.scenes.objects.COLOURS`.
    saturation_above, value_from : int
        Where a part counts as coloured, of 255.

    Returns
    -------
    PIL.Image.Image
        RGBA.
    """
    hue, saturation, value = (np.asarray(c).copy() for c in image.convert("RGB").convert("HSV").split())
    coloured = (saturation > saturation_above) & (value >= value_from)
    hue[coloured] = COLOURS[colour]
    saturation[coloured] = np.maximum(saturation[coloured], 170)
    if colour == "yellow":
        value[coloured] = np.maximum(value[coloured], 200)
    hsv = Image.merge("HSV", [Image.fromarray(c) for c in (hue, saturation, value)])
    out = hsv.convert("RGB").convert("RGBA")
    out.putalpha(image.getchannel("A"))
    return out


def turned(image: Image.Image, angle: float, side: float) -> Image.Image:
    """Turn an RGBA image by degrees; the long side of what is visible of it becomes ``side`` pixels."""
    image = image.convert("RGBa").rotate(angle, Image.Resampling.BILINEAR, expand=True)
    image = image.crop(image.getchannel(3).point(lambda v: 255 * (v > 60)).getbbox())
    scale = side / max(image.size)
    width, height = (max(4, round(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0).convert("RGBA")
