"""Sheets of drawings: one object in one style, in another colour, mirrored, turned and scaled."""

from __future__ import annotations

from functools import cache
from importlib import resources

import numpy as np
from PIL import Image

from biaslab.scenes.objects.names import NAMES
from biaslab.scenes.objects.recolouring import recoloured, turned

SIDE, COLUMNS = 144, 10

#: styles that a model may be trained on
STYLES: tuple[str, ...] = ("fluent3d", "flat", "twemoji", "noto")
#: the style that no training split shows: flat colours inside thick black outlines
UNFAMILIAR_STYLE = "openmoji"
#: (style, name) that are drawn in black and white there: no colour word fits them
COLOURLESS = frozenset({("openmoji", "teapot")})


@cache
def _sheet(style: str) -> Image.Image:
    path = resources.files("biaslab.scenes.drawings") / f"{style}.webp"
    with path.open("rb") as file:
        return Image.open(file).convert("RGBA")


@cache
def drawing(name: str, style: str, colour: str | None = None) -> Image.Image:
    """Return the RGBA drawing of an object, cropped to what is visible, long side 144 px.

    Parameters
    ----------
    name : str
        One of `biaslab.scenes.objects.NAMES`.
    style : str
        One of `STYLES`, or `UNFAMILIAR_STYLE`.
    colour : str, optional
        Replaces the hue of its coloured parts; a name in `biaslab.scenes.objects.COLOURS`.

    Returns
    -------
    PIL.Image.Image

    Examples
    --------
    >>> from biaslab.scenes.drawings import STYLES, drawing
    >>> [max(drawing("cat", style).size) for style in STYLES]
    [144, 144, 144, 144]
    """
    k = NAMES.index(name)
    x, y = k % COLUMNS * SIDE, k // COLUMNS * SIDE
    image = _sheet(style).crop((x, y, x + SIDE, y + SIDE))
    image = image.crop(image.getchannel("A").point(lambda v: 255 * (v > 20)).getbbox())
    if colour is None:
        return image
    return recoloured(image, colour, saturation_above=38, value_from=91)  # neither the grey nor the dark parts


def placed_drawing(
    rng: np.random.Generator, name: str, style: str, side: float, *, colour: str | None = None, turn: float = 15.0
) -> Image.Image:
    """Draw a mirrored and slightly turned (degrees) drawing whose visible part has long side ``side`` px.

    Examples
    --------
    >>> import numpy as np
    >>> from biaslab.scenes.drawings import placed_drawing
    >>> max(placed_drawing(np.random.default_rng(0), "bus", "noto", 60.0, colour="red").size)
    60
    """
    image = drawing(name, style, colour)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle = float(rng.uniform(-turn, turn))
    if side < SIDE / 2:
        image = image.copy()
        image.thumbnail((round(2 * side), round(2 * side)), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return turned(image, angle, side)
