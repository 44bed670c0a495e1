"""Seeded images: image i of split s in domain d is always the same, with the same objects and questions."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from biaslab.core.boxes import Box
from biaslab.errors import InputError
from biaslab.scenes import expressions as ex
from biaslab.scenes.drawings import placed_drawing
from biaslab.scenes.gallery.canvas import TILE, grid_of, picture_size, rng_of
from biaslab.scenes.gallery.cast import roles
from biaslab.scenes.gallery.painters import KINDS, UNFAMILIAR_KIND, background
from biaslab.scenes.gallery.questions import Question, asked_of
from biaslab.scenes.gallery.signs import SIGN, sign_image, sign_size, text_of_sign
from biaslab.scenes.gallery.thing import Thing

#: what of an image is unfamiliar to a model that was trained on the gallery
DOMAINS: tuple[str, ...] = ("familiar", "style", "background", "both")

_LEGIBLE, _READABLE = 18.0, 23.0  # least long side of an object, and height of a sign, in pixels of the tiles
_HIDDEN = 0.25  # share of the smaller box that another object may cover
_OUTSIDE = 0.2  # share of its side by which an object may stick out of the image
_SIGNS = 0.4  # share of images with a sign


@dataclass(frozen=True)
class Picture:
    """A drawn image; `picture` makes it.

    Attributes
    ----------
    split, domain : str
    index : int
    image : PIL.Image.Image
        RGB.
    things : tuple of Thing
    counted : str or None
        A name whose number is drawn evenly from 1 to 6: the one to ask about.
    text : str or None
        What the sign says, if there is one.
    owner : numpy.ndarray
        uint8, (height, width): 1 + the number of the thing that each pixel shows, 0 for background.
    kind : str
        Of the background.

    Examples
    --------
    >>> from biaslab.scenes.gallery import picture
    >>> made = picture("test", 3)
    >>> made.owner.shape == made.image.size[::-1]
    True
    """

    split: str
    domain: str
    index: int
    image: Image.Image
    things: tuple[Thing, ...]
    counted: str | None
    text: str | None
    owner: np.ndarray
    kind: str

    @property
    def id(self) -> str:
        """Name of the image: split, domain and number."""
        return f"{self.split}-{self.domain}-{self.index:06d}"

    @property
    def grid(self) -> tuple[int, int]:
        """Columns and rows of the tiles that InternVL cuts it into."""
        return grid_of(self.image.size)

    def rng(self, stream: int) -> np.random.Generator:
        """Seed a generator of what is asked about this image."""
        return rng_of(self.split, self.index, stream)

    @cached_property
    def expressions(self) -> tuple[ex.Expression, ...]:
        """At most one referring expression of each type, about different things where the image allows it."""
        return ex.one_of_each_type(self.rng(2), self.things)

    def questions(self, *, held_out: bool = False) -> tuple[Question, ...]:
        """Ask at most one question of each category, in forms that training shows, or in the held-out ones."""
        return asked_of(self.rng(4 if held_out else 3), self.things, self.counted, self.text, held_out=held_out)


def picture(split: str, index: int, *, domain: str = "familiar") -> Picture:
    """Draw an image (about 15 ms).

    Parameters
    ----------
    split : {"train", "calibration", "validation", "test", "monitor"}
        No two splits share an image.
    index : int
        Not negative; there is no last one.
    domain : {"familiar", "style", "background", "both"}
        What is of the kind that training never shows: the style of the drawings (and the letters of signs), the kind
        of the background, or both.

    Returns
    -------
    Picture

    Raises
    ------
    InputError
        For an unknown split or domain, or a negative index.

    Examples
    --------
    >>> from biaslab.scenes.gallery import picture
    >>> made = picture("test", 0)
    >>> made.id, made.image.size, made.grid
    ('test-familiar-000000', (196, 569), (1, 3))
    """
    if domain not in DOMAINS:
        raise InputError(f"unknown domain {domain!r} of the gallery: choose one of {', '.join(DOMAINS)}")
    size = picture_size(split, index)
    rng = rng_of(split, index, 1)
    kind = KINDS[int(rng.integers(len(KINDS)))]
    kind = UNFAMILIAR_KIND if domain in ("background", "both") else kind
    other_style = domain in ("style", "both")
    image = background(rng, kind, size)
    side, grid = math.sqrt(size[0] * size[1]), grid_of(size)
    per_pixel = side / (TILE * math.sqrt(grid[0] * grid[1]))  # pixels of the image for one of the tiles
    cast, counted = roles(rng, unfamiliar_style=other_style, least=_LEGIBLE * per_pixel / side)
    pieces: list[tuple[Thing, Image.Image]] = []
    text = text_of_sign(rng) if rng.random() < _SIGNS else None
    if text is not None:
        low = max(_READABLE * per_pixel, 0.07 * side)
        height = math.exp(rng.uniform(math.log(low), math.log(max(low, 0.2 * side))))
        height *= min(1.0, 0.92 * size[0] / sign_size(text, height)[0])
        plate = sign_image(rng, text, height, unfamiliar=other_style)
        pieces.append((_thing(SIGN, size, style="sign"), plate))
    for role in sorted(cast, key=lambda role: -role.side):  # the big ones first, so that they do not hide the small
        wanted = min(role.side * side, 0.95 * max(size), 1.5 * min(size))
        drawn = placed_drawing(rng, role.name, role.style, wanted, colour=role.colour)
        fit = min(1.0, 0.97 * size[0] / drawn.width, 0.97 * size[1] / drawn.height)
        if fit < 1.0:
            drawn = drawn.resize((int(drawn.width * fit), int(drawn.height * fit)), Image.Resampling.BILINEAR)
        # a big one that had to shrink may have become neither big nor small
        word = role.size if role.size != "big" or max(drawn.size) / side > 0.3 else None
        pieces.append((_thing(role.name, size, word=word, colour=role.colour, style=role.style), drawn))
    owner, placed = _place(rng, image, pieces)
    if counted is not None and sum(t.name == counted for t in placed) != sum(r.name == counted for r in cast):
        counted = None  # one of them found no place: the numbers would no longer be drawn evenly
    things = tuple(_seen(thing, owner, k) for k, thing in enumerate(placed, start=1))
    shown = text if any(thing.name == SIGN for thing in things) else None
    return Picture(split, domain, index, _photographed(rng, image, per_pixel), things, counted, shown, owner, kind)


def _thing(
    name: str, size: tuple[int, int], *, word: str | None = None, colour: str | None = None, style: str
) -> Thing:
    return Thing(name, word, colour, Box(0, 0, 1, 1), size, style)


def _place(
    rng: np.random.Generator, image: Image.Image, pieces: list[tuple[Thing, Image.Image]]
) -> tuple[np.ndarray, list[Thing]]:
    """Paste the pieces where they hide little of each other; returns who owns each pixel and who found a place."""
    owner = np.zeros(image.size[::-1], np.uint8)
    placed: list[Thing] = []
    taken: list[tuple[float, tuple[int, int, int, int]]] = []
    width, height = image.size
    for thing, piece in pieces:
        w, h = piece.size
        slack = 0.0 if thing.name == SIGN or rng.random() < 0.7 else _OUTSIDE
        for _ in range(30):
            u, v = rng.beta(0.75, 0.75, 2)  # big ones cannot reach the border with their centres: even out the places
            x = round(-slack * w + u * (width - w + 2 * slack * w))
            y = round(-slack * h + v * (height - h + 2 * slack * h))
            box = (max(x, 0), max(y, 0), min(x + w, width), min(y + h, height))
            if all(_common(box, other) <= most * min(_area(box), _area(other)) for most, other in taken):
                break
        else:
            continue
        rgb: np.ndarray = np.asarray(piece.convert("RGB"), np.float32)
        if thing.name != SIGN:
            rgb = rgb * rng.uniform(0.78, 1.15) + rng.normal(0, 6, 3)
        image.paste(Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8)), (x, y), piece.getchannel("A"))
        solid = np.asarray(piece.getchannel("A")) > 127
        placed.append(thing)
        taken.append((0.0 if thing.name == SIGN else _HIDDEN, box))  # nothing covers a letter
        part = solid[box[1] - y : box[3] - y, box[0] - x : box[2] - x]
        owner[box[1] : box[3], box[0] : box[2]][part] = len(placed)
    return owner, placed


def _area(box: tuple[int, int, int, int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _common(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> int:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _seen(thing: Thing, owner: np.ndarray, number: int) -> Thing:
    """Give a thing the tight box of what is visible of it."""
    visible = owner == number
    ys, xs = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    box = Box(float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1))
    return Thing(thing.name, thing.size, thing.colour, box, thing.picture_size, thing.style)


def _photographed(rng: np.random.Generator, image: Image.Image, per_pixel: float) -> Image.Image:
    """Blur, change colours, add noise, encode as JPEG: none moves a box or changes what a colour is called."""
    if rng.random() < 0.35:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.9)) * per_pixel))
    if rng.random() < 0.5:
        image = ImageEnhance.Color(image).enhance(float(rng.uniform(0.7, 1.4)))
        image = ImageEnhance.Contrast(image).enhance(float(rng.uniform(0.75, 1.25)))
    if rng.random() < 0.6:
        values = np.asarray(image, np.float32) * rng.uniform(0.93, 1.07, 3).astype(np.float32)
        values += rng.standard_normal((image.height, image.width, 1), np.float32) * float(rng.uniform(1, 9))
        image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    if rng.random() < 0.5:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(rng.integers(35, 96)))
        image = Image.open(file).convert("RGB")
    return image
