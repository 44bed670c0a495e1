"""The sign: a plate with a short word or a number."""

from __future__ import annotations

import io
from functools import cache
from importlib import resources
from typing import cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont

#: name of the sign among the objects
SIGN = "sign"
WORDS: tuple[str, ...] = tuple(
    "art bar bed bike blue bread cafe calm care cash city club cold cook cool cup dance deal desk door east eat exit "
    "fast film fire fix food free fresh fun game girl go gold good hall help high home hot hotel ice inn join "
    "keep kids lake last left lift live look love luck lunch mail map milk moon music new news nice night no north "
    "now off oil old on one open out park pay play plus post pull push quiet race rain read red rent rest right road "
    "room run safe sale salt save school sea sell shoe shop show sky slow soap soft song soup south spa sport star "
    "start stay stop store street sun swim table talk tax taxi tea time toll top town toys trade up use view wait "
    "walk warm wash water way west wet wide win wine work yes yoga zone zoo".split()
)
_FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSansMono-Bold.ttf", "DejaVuSans-Oblique.ttf")
_UNFAMILIAR_FONT = "DejaVuSerif-Bold.ttf"
_DRAWN = 64  # size in pixels at which letters are drawn before they are fitted into the plate
#: most letters of a word, and the longest number has fewer
LONGEST = max(map(len, WORDS))


@cache
def _font(file: str) -> ImageFont.FreeTypeFont:
    path = resources.files("matplotlib") / "mpl-data" / "fonts" / "ttf" / file
    with path.open("rb") as content:
        return ImageFont.truetype(io.BytesIO(content.read()), _DRAWN)


def text_of_sign(rng: np.random.Generator) -> str:
    """Draw what a sign says: two times of three a word, else a number of one to three figures."""
    if rng.random() < 0.67:
        return WORDS[int(rng.integers(len(WORDS)))]
    return str(int(rng.integers(1, 10 ** int(rng.integers(1, 4)))))


def sign_size(text: str, height: float) -> tuple[int, int]:
    """Say how wide and high a plate is, which does not depend on any font."""
    return round(height * (0.56 * len(text) + 0.7)), round(height)


def sign_image(rng: np.random.Generator, text: str, height: float, *, unfamiliar: bool = False) -> Image.Image:
    """Draw the plate.

    Parameters
    ----------
    rng : numpy.random.Generator
    text : str
    height : float
        Of the plate, pixels.
    unfamiliar : bool
        Letters of a typeface with serifs, which training does not show.

    Returns
    -------
    PIL.Image.Image
        RGBA.

    Examples
    --------
    >>> import numpy as np
    >>> from biaslab.scenes.gallery.signs import sign_image
    >>> sign_image(np.random.default_rng(0), "stop", 40).size
    (118, 40)
    """
    size = width, tall = sign_size(text, height)
    dark, light = rng.uniform(0, 90, 3), rng.uniform(175, 255, 3)
    plate, ink = (light, dark) if rng.random() < 0.6 else (dark, light)
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    colours = [cast(tuple[int, int, int], tuple(int(v) for v in c)) for c in (plate, ink)]
    edge = max(1, round(height * 0.05))
    draw.rounded_rectangle(
        (0, 0, width - 1, tall - 1), radius=height * rng.uniform(0, 0.3), fill=colours[0], outline=colours[1],
        width=edge if rng.random() < 0.7 else 0,
    )  # fmt: skip
    font = _font(_UNFAMILIAR_FONT if unfamiliar else _FONTS[int(rng.integers(len(_FONTS)))])
    shown = text.upper() if rng.random() < 0.7 else text
    left, top, right, bottom = font.getbbox(shown)
    letters = Image.new("L", (int(right - left), int(bottom - top)), 0)
    ImageDraw.Draw(letters).text((-left, -top), shown, font=font, fill=255)
    inner = (width - round(0.5 * height), round(tall * rng.uniform(0.55, 0.66)))
    scale = min(inner[0] / letters.width, inner[1] / letters.height)
    letters = letters.resize(
        (max(1, round(letters.width * scale)), max(1, round(letters.height * scale))), Image.Resampling.LANCZOS
    )
    at = ((width - letters.width) // 2, (tall - letters.height) // 2)
    image.paste(Image.new("RGBA", letters.size, (*colours[1], 255)), at, letters)
    return image
