"""Images of the objects: as they are in this folder, in another colour, mirrored and turned."""

from __future__ import annotations

from functools import cache
from importlib import resources

import numpy as np
from PIL import Image

from biaslab.scenes.objects.recolouring import recoloured, turned


@cache
def object_image(name: str) -> Image.Image:
    """Return the RGBA image of an object or of a piece of clutter, cropped to what is visible, at most 96 px.

    Examples
    --------
    >>> image = object_image("cat")
    >>> image.mode, max(image.size) <= 96
    ('RGBA', True)
    """
    path = resources.files("biaslab.scenes.objects") / f"{name}.webp"
    with path.open("rb") as file:
        return Image.open(file).convert("RGBA")


@cache
def tinted(name: str, colour: str | None) -> Image.Image:
    """Return ``object_image(name)`` with the hue of its coloured parts replaced (greys, glass and tyres stay).

    Examples
    --------
    >>> tinted("car", "blue").size == object_image("car").size
    True
    """
    image = object_image(name)
    if colour is None:
        return image
    return recoloured(image, colour, saturation_above=70)


def sprite(
    rng: np.random.Generator, name: str, side: float, *, colour: str | None = None, turn: float = 12.0
) -> Image.Image:
    """Draw an object, mirrored or not and slightly turned.

    Parameters
    ----------
    rng : numpy.random.Generator
    name : str
        Of the object.
    side : float
        Long side of what is visible, pixels.
    colour : str, optional
        As of `tinted`.
    turn : float
        Degrees at most.

    Examples
    --------
    >>> max(sprite(np.random.default_rng(0), "cat", 40).size)
    40
    """
    image = tinted(name, colour)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle = float(rng.uniform(-turn, turn))
    return turned(image, angle, side)
