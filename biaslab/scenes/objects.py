"""The objects that scenes are made of: 80 images with one-word English names, and small clutter.

They are Microsoft's Fluent Emoji 3D (MIT licence, see ``data/objects/LICENSE``).  Ten of the objects
come in five colours (their hue is replaced), so that a colour word can tell two of them apart.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import numpy as np
from PIL import Image

NAMES: tuple[str, ...] = tuple(
    "cat dog elephant penguin fish turtle whale octopus crab butterfly bee snail frog owl duck rooster cow pig "
    "horse sheep giraffe fox rabbit panda parrot flamingo dinosaur "
    "apple banana carrot cake strawberry watermelon grapes pineapple corn burger pizza donut cheese mushroom "
    "avocado cupcake broccoli eggplant "
    "car bus bicycle rocket airplane ship tractor truck scooter helicopter train "
    "guitar camera key house tree cactus sunflower bell bulb umbrella gift balloon crown backpack hammer lock "
    "chair trophy clock book shirt dress bucket teapot laptop drum cookie hat".split()
)
TINTABLE = frozenset("car umbrella balloon backpack book shirt dress bucket teapot scooter".split())
CLUTTER: tuple[str, ...] = tuple(
    "leaf blossom leaves clover snowflake dizzy gear drop sparkles herb shell rock wood coral puzzle cyclone "
    "gem".split()
)
COLOURS: dict[str, int] = {"red": 0, "yellow": 36, "green": 90, "blue": 152, "purple": 196}  # hue of 0..255
SIZES: tuple[str, ...] = ("small", "big")


@cache
def object_image(name: str) -> Image.Image:
    """Return the RGBA image of an object or of a piece of clutter, cropped to what is visible, at most 96 px."""
    path = resources.files("biaslab") / "data" / "objects" / f"{name}.webp"
    with path.open("rb") as file:
        return Image.open(file).convert("RGBA")


@cache
def tinted(name: str, colour: str | None) -> Image.Image:
    """Return ``object_image(name)`` with the hue of its coloured parts replaced (greys, glass and tyres stay)."""
    image = object_image(name)
    if colour is None:
        return image
    hue, saturation, value = (np.asarray(c).copy() for c in image.convert("RGB").convert("HSV").split())
    coloured = saturation > 70
    hue[coloured] = COLOURS[colour]
    saturation[coloured] = np.maximum(saturation[coloured], 170)
    if colour == "yellow":
        value[coloured] = np.maximum(value[coloured], 200)
    hsv = Image.merge("HSV", [Image.fromarray(c) for c in (hue, saturation, value)])
    out = hsv.convert("RGB").convert("RGBA")
    out.putalpha(image.getchannel("A"))
    return out


def sprite(
    rng: np.random.Generator, name: str, side: float, *, colour: str | None = None, turn: float = 12.0
) -> Image.Image:
    """Draw a mirrored and slightly turned (degrees) image whose visible part has long side `side` px."""
    image = tinted(name, colour)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle = float(rng.uniform(-turn, turn))
    image = image.convert("RGBa").rotate(angle, Image.Resampling.BILINEAR, expand=True)
    image = image.crop(image.getchannel(3).point(lambda v: 255 * (v > 60)).getbbox())
    scale = side / max(image.size)
    width, height = (max(4, round(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0).convert("RGBA")
