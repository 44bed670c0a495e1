"""Seeded scenes: scene i of split s is always the same image with the same objects and expressions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from biaslab.core.boxes import Box
from biaslab.errors import InputError
from biaslab.scenes import expressions as ex
from biaslab.scenes.backgrounds import CANVAS, background, fine_noise
from biaslab.scenes.objects import COLOURS, NAMES, SIZES, TINTABLE, sprite
from biaslab.scenes.scene_object import SceneObject

# A split's number is part of every scene's seed: no two splits share a scene.
SPLITS = {"train": 1, "calibration": 2, "validation": 3, "test": 4, "monitor": 5}
_SEED = 20261123

SMALL, BIG = (0.14, 0.235), (0.30, 0.48)  # long side as a fraction of the canvas
MAX_HIDDEN = 0.25  # share of the smaller box that another object may cover


@dataclass(frozen=True, repr=False)
class Scene:
    """A rendered scene; `scene` makes it.

    Attributes
    ----------
    split : str
    index : int
    image : PIL.Image.Image
        RGB, 224 x 224 px.
    objects : tuple of SceneObject
    owner : numpy.ndarray
        uint8, (224, 224): 1 + the number of the object that each pixel shows, 0 for background.

    Examples
    --------
    >>> from biaslab.scenes import scene
    >>> made = scene("test", 0)
    >>> [thing.name for thing in made.objects]
    ['elephant', 'cookie', 'trophy', 'pineapple', 'sheep', 'eggplant']
    >>> made.owner.shape, made.objects[int(made.owner[180, 150]) - 1].name
    ((224, 224), 'elephant')
    """

    split: str
    index: int
    image: Image.Image
    objects: tuple[SceneObject, ...]
    owner: np.ndarray

    def __repr__(self) -> str:
        return f"Scene({self.id!r}, {len(self.objects)} objects)"

    @property
    def id(self) -> str:
        """Name of the scene: split and number."""
        return f"{self.split}-{self.index:06d}"

    @cached_property
    def expressions(self) -> tuple[ex.Expression, ...]:
        """At most one expression of each type, about different objects where the scene allows it."""
        return ex.one_of_each_type(_rng(self.split, self.index, 1), self.objects)


def _rng(split: str, index: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([_SEED, SPLITS[split], index, stream])


def _cast(rng: np.random.Generator) -> list[tuple[str, str, str | None]]:
    """Name, size and colour of the objects: 3 to 8, most often with two or three of one name."""
    n = int(rng.integers(3, 9))
    names = [NAMES[k] for k in rng.choice(len(NAMES), n, replace=False)]
    if rng.random() < 0.85:
        twins = int(rng.integers(2, 4))
        names[:twins] = [names[0]] * twins
        if n - twins >= 2 and rng.random() < 0.5:
            names[twins : twins + 2] = [names[twins]] * 2
    big = 0.75 if n <= 4 else 0.55
    colours = list(COLOURS)
    return [
        (name, SIZES[int(rng.random() < big)], colours[int(rng.integers(5))] if name in TINTABLE else None)
        for name in names
    ]


def _place(
    rng: np.random.Generator, size: tuple[int, int], taken: list[tuple[int, int, int, int]]
) -> tuple[int, int] | None:
    w, h = size
    for _ in range(30):
        # Big objects cannot reach the border with their centres: a U-shaped draw evens out where targets lie.
        u, v = rng.beta(0.75, 0.75, 2)
        x, y = int(u * (CANVAS - w + 1)), int(v * (CANVAS - h + 1))
        for a, b, c, d in taken:
            over = max(0, min(x + w, c) - max(x, a)) * max(0, min(y + h, d) - max(y, b))
            if over > MAX_HIDDEN * min(w * h, (c - a) * (d - b)):
                break
        else:
            return x, y
    return None


def scene(split: str, index: int) -> Scene:
    """Render scene number `index` of `split` (about 10 ms).

    Parameters
    ----------
    split : {"train", "calibration", "validation", "test", "monitor"}
        No two splits share a scene.
    index : int
        Not negative; there is no last one.

    Returns
    -------
    Scene

    Raises
    ------
    InputError
        For an unknown split or a negative index.

    Examples
    --------
    >>> from biaslab.scenes import scene
    >>> made = scene("test", 0)
    >>> made.id, made.image.size, len(made.objects)
    ('test-000000', (224, 224), 6)
    >>> [expression.text for expression in made.expressions]
    ['big elephant left of the sheep', 'eggplant']
    """
    if split not in SPLITS:
        raise InputError(f"unknown scene split {split!r}: choose one of {', '.join(SPLITS)}")
    if index < 0:
        raise InputError(f"scene index {index} is negative: scenes are numbered from 0")
    rng = _rng(split, index, 0)
    image = background(rng)
    owner = np.zeros((CANVAS, CANVAS), np.uint8)
    cast = _cast(rng)
    sides = [rng.uniform(*(BIG if size == "big" else SMALL)) * CANVAS for _, size, _ in cast]
    taken: list[tuple[int, int, int, int]] = []
    placed = []
    for k in np.argsort(sides)[::-1]:  # the big ones first, so that they do not hide the small ones
        name, size, colour = cast[k]
        thing = sprite(rng, name, sides[k], colour=colour)
        place = _place(rng, thing.size, taken)
        if place is None:
            continue
        x, y = place
        w, h = thing.size
        rgb = np.asarray(thing.convert("RGB"), np.float32) * rng.uniform(0.8, 1.15) + rng.normal(0, 6, 3)
        image.paste(Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8)), place, thing.getchannel("A"))
        solid = np.asarray(thing.getchannel("A")) > 127
        taken.append((x, y, x + w, y + h))
        placed.append((name, size, colour))
        owner[y : y + h, x : x + w][solid] = len(placed)
    objects = tuple(SceneObject(*what, _visible_box(owner, k)) for k, what in enumerate(placed, start=1))
    pixels = np.asarray(image, np.float32) + fine_noise(rng) * rng.uniform(1, 7)
    return Scene(split, index, Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), objects, owner)


def _visible_box(owner: np.ndarray, number: int) -> Box:
    visible = owner == number
    ys, xs = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    return Box(float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1))
