"""Backgrounds of any size in five kinds: drawn, textured, noisy, photographs of surfaces, photographs of things."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, lru_cache
from importlib import resources

import numpy as np
from PIL import Image, ImageDraw

from biaslab.scenes.objects import CLUTTER, sprite

#: kinds of background that training shows
KINDS: tuple[str, ...] = ("drawn", "textured", "noisy", "surface")
#: the kind that no training split shows: photographs of things
UNFAMILIAR_KIND = "photograph"
SURFACES = ("brick", "grass", "gravel", "moon", "tissue", "stars")
PHOTOGRAPHS = ("coffee", "coins", "retina", "astronaut", "raccoon", "stairs")

_BANK = 512
Size = tuple[int, int]  # width, height
Painter = Callable[[np.random.Generator, Size], Image.Image]


@lru_cache(maxsize=1)
def _fields() -> tuple[np.ndarray, np.ndarray]:
    """Make the banks that textures are cut from: fractal noise in [0, 1] and labels of pebbles."""
    from scipy.ndimage import zoom
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(20261127)
    clouds = []
    for base in (2, 4, 8, 16, 32):
        field = np.zeros((_BANK, _BANK), np.float32)
        for octave in range(6):
            n = min(_BANK, base * 2**octave)
            field += zoom(rng.standard_normal((n, n)).astype(np.float32), _BANK / n, order=1) * 0.62**octave
        low, high = np.quantile(field, (0.02, 0.98))
        clouds.append(np.clip((field - low) / (high - low), 0, 1))
    ys, xs = np.mgrid[:_BANK, :_BANK]
    points = np.stack([xs.ravel(), ys.ravel()], 1)
    pebbles = []
    for n in (60, 200, 600, 1800):
        distance, label = cKDTree(rng.uniform(0, _BANK, (n, 2))).query(points, k=2)
        label = (label[:, 0] % 255 + 1).astype(np.uint8)
        label[distance[:, 1] - distance[:, 0] < 1.6] = 0  # the joints
        pebbles.append(label.reshape(_BANK, _BANK))
    return np.stack(clouds), np.stack(pebbles)


def _cut(rng: np.random.Generator, image: Image.Image, size: Size, least: float = 0.45) -> Image.Image:
    """Cut a random part with the proportions of ``size`` and scale it to it."""
    width, height = size
    most = min(image.width / width, image.height / height)
    scale = most * rng.uniform(least, 1.0)
    w, h = width * scale, height * scale
    x, y = rng.uniform(0, image.width - w), rng.uniform(0, image.height - h)
    return image.resize(size, Image.Resampling.BILINEAR, box=(x, y, x + w, y + h))


def _base(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(40, 225) * 0.55 + rng.uniform(20, 240, 3) * 0.45


def _tone(rng: np.random.Generator, base: np.ndarray, spread: float) -> np.ndarray:
    return np.clip(base + rng.normal(0, spread, 3) * 0.7 + rng.normal(0, spread), 8, 247)


def _fill(rng: np.random.Generator, base: np.ndarray, spread: float) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in _tone(rng, base, spread))
    return red, green, blue


def _image(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


# ---- drawn -------------------------------------------------------------------------------------------------------
def gradient(rng: np.random.Generator, size: Size) -> Image.Image:
    """Paint a smooth gradient between a few colours."""
    base, n = _base(rng), int(rng.integers(2, 6))
    grid = base + rng.normal(0, 16, (n, n, 1)) + rng.normal(0, 10, (n, n, 3))
    return _image(grid).resize(size, Image.Resampling.BICUBIC)


def planks(rng: np.random.Generator, size: Size) -> Image.Image:
    """Paint upright or lying planks."""
    base, (width, height) = _base(rng), size
    image = Image.new("RGB", size)
    draw = ImageDraw.Draw(image)
    upright, step = rng.random() < 0.5, int(rng.uniform(0.05, 0.25) * min(size)) + 2
    for start in range(-int(rng.integers(step)), width if upright else height, step):
        box = (start, 0, start + step, height) if upright else (0, start, width, start + step)
        draw.rectangle(box, fill=_fill(rng, base, 14))
        edge = (start, 0, start, height) if upright else (0, start, width, start)
        draw.line(edge, fill=_fill(rng, base * 0.6, 6), width=1)
    return image


def confetti(rng: np.random.Generator, size: Size) -> Image.Image:
    """Paint ellipses, triangles and strokes in random places."""
    base, (width, height) = _base(rng), size
    image = Image.new("RGB", size, _fill(rng, base, 5))
    draw = ImageDraw.Draw(image, "RGBA")
    spread, most = rng.uniform(15, 55), 0.12 * math.sqrt(width * height)
    for _ in range(int(rng.integers(25, 110))):
        x, y = float(rng.uniform(-most, width)), float(rng.uniform(-most, height))
        w, h = (float(v) for v in rng.uniform(3, most, 2))
        fill = (*_fill(rng, base, spread), int(rng.integers(90, 230)))
        figure = rng.integers(3)
        if figure == 0:
            draw.ellipse((x, y, x + w, y + h), fill=fill)
        elif figure == 1:
            draw.polygon([(x, y), (x + w, y + h / 3), (x + w / 3, y + h)], fill=fill)
        else:
            draw.line((x, y, x + w - most / 2, y + h - most / 2), fill=fill, width=int(rng.integers(1, 6)))
    return image


def horizon(rng: np.random.Generator, size: Size) -> Image.Image:
    """Paint a sky or a wall over a ground or a floor."""
    upper, lower = (PAINTERS_OF_HALVES[int(rng.integers(4))](rng, size) for _ in range(2))
    line = int(rng.uniform(0.25, 0.8) * size[1])
    upper.paste(lower.crop((0, line, *size)), (0, line))
    return upper


# ---- textured ----------------------------------------------------------------------------------------------------
def clouds(rng: np.random.Generator, size: Size) -> Image.Image:
    """Paint fractal clouds in two colours."""
    bank, base = _fields()[0], _base(rng)
    field = Image.fromarray(bank[int(rng.integers(len(bank)))])
    values = np.asarray(_cut(rng, field, size))[..., None]
    low, high = _tone(rng, base, 35), _tone(rng, base, 55)
    return _image(low + values * (high - low))


def pebbles(rng: np.random.Generator, size: Size) -> Image.Image:
    """Paint pebbles with dark joints."""
    bank, base = _fields()[1], _base(rng)
    palette = base + rng.normal(0, rng.uniform(8, 32), (256, 1)) + rng.normal(0, rng.uniform(4, 24), (256, 3))
    palette[0] = base * 0.6
    labels = Image.fromarray(np.clip(palette, 0, 255).astype(np.uint8)[bank[int(rng.integers(len(bank)))]])
    return _cut(rng, labels, size)


def mosaic(rng: np.random.Generator, size: Size) -> Image.Image:
    """Paint a mosaic of square tiles."""
    base, cell = _base(rng), int(rng.uniform(0.03, 0.16) * min(size)) + 3
    columns, rows = size[0] // cell + 2, size[1] // cell + 2
    grid = base + rng.normal(0, rng.uniform(6, 28), (rows, columns, 1))
    grid += rng.normal(0, rng.uniform(3, 22), (rows, columns, 3))
    image = _image(grid).resize((columns * cell, rows * cell), Image.Resampling.NEAREST)
    x, y = (int(v) for v in rng.integers(0, cell, 2))
    return image.crop((x, y, x + size[0], y + size[1]))


def weave(rng: np.random.Generator, size: Size) -> Image.Image:
    """Paint two crossed waves of stripes."""
    low, high = _tone(rng, base := _base(rng), 30), _tone(rng, base, 40)
    ys, xs = np.mgrid[: size[1], : size[0]].astype(np.float32)
    field = np.zeros(size[::-1], np.float32)
    for _ in range(int(rng.integers(1, 4))):
        angle, period = rng.uniform(0, np.pi), rng.uniform(5, 60)
        wave = np.sin((xs * np.cos(angle) + ys * np.sin(angle)) * (2 * np.pi / period) + rng.uniform(0, 6))
        field += np.sign(wave) * 0.8 if rng.random() < 0.4 else wave
    field = (field - field.min()) / max(float(np.ptp(field)), 1e-6)
    return _image(low + field[..., None] * (high - low))


# ---- noisy -------------------------------------------------------------------------------------------------------
def static(rng: np.random.Generator, size: Size) -> Image.Image:
    """Paint noise of one grain, grey or coloured."""
    grain = int(rng.integers(1, 7))
    shape = (size[1] // grain + 1, size[0] // grain + 1, 3 if rng.random() < 0.6 else 1)
    noise = rng.standard_normal(shape, np.float32) * rng.uniform(12, 70) + _base(rng).astype(np.float32)
    filters = (Image.Resampling.NEAREST, Image.Resampling.BILINEAR)
    return _image(noise).resize(size, filters[int(rng.integers(2))])


def speckled(rng: np.random.Generator, size: Size) -> Image.Image:
    """Paint a gradient under noise of two grains."""
    under = np.asarray(gradient(rng, size), np.float32)
    over = np.asarray(static(rng, size), np.float32)
    share = rng.uniform(0.25, 0.7)
    dots = rng.random(size[::-1]) < rng.uniform(0, 0.03)
    values = under * (1 - share) + over * share
    values[dots] = rng.choice([0.0, 255.0])
    return _image(values)


# ---- photographs -------------------------------------------------------------------------------------------------
@cache
def _photograph(name: str) -> Image.Image:
    path = resources.files("biaslab.scenes.gallery") / "photographs" / f"{name}.jpg"
    with path.open("rb") as file:
        return Image.open(file).convert("RGB")


def _shown(rng: np.random.Generator, name: str, size: Size) -> Image.Image:
    image = _photograph(name)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = _cut(rng, image, size, least=0.5)
    gain = rng.uniform(0.7, 1.2, 3) if rng.random() < 0.5 else rng.uniform(0.8, 1.15)
    return _image(np.asarray(image, np.float32) * gain + rng.normal(0, 10))


def surface(rng: np.random.Generator, size: Size) -> Image.Image:
    """Cut a part of a photograph of a surface: stones, grass, the moon."""
    return _shown(rng, SURFACES[int(rng.integers(len(SURFACES)))], size)


def photograph(rng: np.random.Generator, size: Size) -> Image.Image:
    """Cut a part of a photograph of things that the scenes have no word for."""
    return _shown(rng, PHOTOGRAPHS[int(rng.integers(len(PHOTOGRAPHS)))], size)


PAINTERS_OF_HALVES: tuple[Painter, ...] = (gradient, planks, clouds, mosaic)
PAINTERS: dict[str, tuple[Painter, ...]] = {
    "drawn": (gradient, planks, confetti, horizon), "textured": (clouds, pebbles, mosaic, weave),
    "noisy": (static, speckled), "surface": (surface,), UNFAMILIAR_KIND: (photograph,),
}  # fmt: skip


def _scatter(rng: np.random.Generator, image: Image.Image) -> None:
    """Strew small decorative things that no question names: leaves, shells, gears, sparkles."""
    few = rng.choice(len(CLUTTER), int(rng.integers(1, 4)), replace=False)
    opacity, side = float(rng.uniform(0.35, 0.95)), math.sqrt(image.width * image.height)
    for _ in range(int(rng.integers(3, 16))):
        piece = sprite(
            rng, CLUTTER[int(few[rng.integers(len(few))])], float(rng.uniform(0.035, 0.11)) * side, turn=60.0
        )
        alpha = piece.getchannel("A").point(lambda v: int(v * opacity))
        x, y = int(rng.integers(-8, image.width - 4)), int(rng.integers(-8, image.height - 4))
        image.paste(piece.convert("RGB"), (x, y), alpha)


def background(rng: np.random.Generator, kind: str, size: Size) -> Image.Image:
    """Draw a background.

    Parameters
    ----------
    rng : numpy.random.Generator
    kind : str
        One of `KINDS`, or `UNFAMILIAR_KIND`.
    size : (int, int)
        Width and height, pixels.

    Returns
    -------
    PIL.Image.Image
        RGB.

    Examples
    --------
    >>> import numpy as np
    >>> from biaslab.scenes.gallery.painters import KINDS, background
    >>> [background(np.random.default_rng(0), kind, (90, 60)).size for kind in KINDS]
    [(90, 60), (90, 60), (90, 60), (90, 60)]
    """
    painters = PAINTERS[kind]
    image = painters[int(rng.integers(len(painters)))](rng, size)
    if rng.random() < 0.45:
        _scatter(rng, image)
    return image
