"""Images of the objects: as they are in this folder, in another colour, mirrored and turned."""

from __future__ import annotations

from functools import cache
from importlib import resources

import numpy as np
from PIL import Image

from biaslab.scenes.objects.recolouring import recoloured, turned


@cache
def object_image(name: str) -> Image.Image:
    """Return the RGBA image of an object or of a piece of clutter, cropped to what is visible, at most 96 px."""
    path = resources.files("biaslab.scenes.objects") / f"{name}.webp"
    with path.open("rb") as file:
        return Image.open(file).convert("RGBA")


@cache
def tinted(name: str, colour: str | None) -> Image.Image:
    """Return ``object_image(name)`` with the hue of its coloured parts replaced (greys, glass and tyres stay)."""
    image = object_image(name)
    if colour is None:
        return image
    return recoloured(image, colour, saturation_above=70)


def sprite(
    rng: np.random.Generator, name: str, side: float, *, colour: str | None = None, turn: float = 12.0
) -> Image.Image:
    """Draw a mirrored and slightly turned (degrees) image whose visible part has long side `side` px."""
    image = tinted(name, colour)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle = float(rng.uniform(-turn, turn))
    return turned(image, angle, side)
