"""Sheets of drawings: one object in one style, in another colour, mirrored, turned and scaled."""

from __future__ import annotations

from functools import cache
from importlib import resources

import numpy as np
from PIL import Image

from biaslab.scenes.objects.names import COLOURS, NAMES

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
    return image if colour is None else _recoloured(image, colour)


def _recoloured(image: Image.Image, colour: str) -> Image.Image:
    """Replace the hue of all but the grey and the dark parts; pale ones become fuller."""
    hue, saturation, value = (np.asarray(c).copy() for c in image.convert("RGB").convert("HSV").split())
    coloured = (saturation > 38) & (value > 90)
    hue[coloured] = COLOURS[colour]
    saturation[coloured] = np.maximum(saturation[coloured], 170)
    if colour == "yellow":
        value[coloured] = np.maximum(value[coloured], 200)
    hsv = Image.merge("HSV", [Image.fromarray(c) for c in (hue, saturation, value)])
    out = hsv.convert("RGB").convert("RGBA")
    out.putalpha(image.getchannel("A"))
    return out


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
    image = image.convert("RGBa").rotate(angle, Image.Resampling.BILINEAR, expand=True)
    image = image.crop(image.getchannel(3).point(lambda v: 255 * (v > 60)).getbbox())
    scale = side / max(image.size)
    width, height = (max(4, round(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0).convert("RGBA")
