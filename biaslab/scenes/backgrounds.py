"""Varied, mostly textured and cluttered backgrounds, so that objects do not stand out by mere diversity."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from biaslab.scenes.objects import CLUTTER, sprite

CANVAS = 224
_BANK = 512  # side of the precomputed texture fields that crops are taken from

Colour = tuple[int, int, int]


@lru_cache(maxsize=1)
def _fields() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make the banks of textures: fractal noise in [0, 1], pebble labels, fine noise; the same for every scene."""
    from scipy.ndimage import zoom
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(20261123)
    clouds = []
    for base in (3, 4, 6, 8, 12, 16):
        field = np.zeros((_BANK, _BANK), np.float32)
        for octave in range(5):
            n = min(_BANK, base * 2**octave)
            layer = zoom(rng.standard_normal((n, n)).astype(np.float32), _BANK / n, order=1)
            field += layer[:_BANK, :_BANK] * 0.6**octave
        low, high = np.quantile(field, (0.02, 0.98))
        clouds.append(np.clip((field - low) / (high - low), 0, 1))
    ys, xs = np.mgrid[:_BANK, :_BANK]
    points = np.stack([xs.ravel(), ys.ravel()], 1)
    pebbles = []
    for n in (200, 400, 900, 1800):
        tree = cKDTree(rng.uniform(0, _BANK, (n, 2)))
        distance, label = tree.query(points, k=2)
        label = (label[:, 0] % 255 + 1).astype(np.uint8)
        label[distance[:, 1] - distance[:, 0] < 1.6] = 0  # the joints
        pebbles.append(label.reshape(_BANK, _BANK))
    fine = rng.standard_normal((4, _BANK, _BANK, 1)) + 0.5 * rng.standard_normal((4, _BANK, _BANK, 3))
    return np.stack(clouds), np.stack(pebbles), fine.astype(np.float32)


def _crop(rng: np.random.Generator, bank: np.ndarray) -> np.ndarray:
    k = int(rng.integers(len(bank)))
    y, x = (int(v) for v in rng.integers(0, _BANK - CANVAS, 2))
    return bank[k, y : y + CANVAS, x : x + CANVAS]


def fine_noise(rng: np.random.Generator) -> np.ndarray:
    """Draw zero-mean sensor-like noise, shape (CANVAS, CANVAS, 3), standard deviation about 1.1."""
    return _crop(rng, _fields()[2])


def _colour(rng: np.random.Generator, base: np.ndarray, spread: float) -> Colour:
    value = base + rng.normal(0, spread, 3) * 0.7 + rng.normal(0, spread)
    red, green, blue = (int(v) for v in np.clip(value, 15, 245))
    return red, green, blue


def _base(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(60, 215) * 0.55 + rng.uniform(35, 235, 3) * 0.45


def _blend(field: np.ndarray, a: Colour, b: Colour) -> Image.Image:
    low, high = np.asarray(a, np.float32), np.asarray(b, np.float32)
    return Image.fromarray((low + field[..., None] * (high - low)).astype(np.uint8))


def plain(rng: np.random.Generator) -> Image.Image:
    """Paint a smooth gradient between a few colours."""
    base, n = _base(rng), int(rng.integers(2, 5))
    grid = np.clip(base + rng.normal(0, 10, (n, n, 1)) + rng.normal(0, 6, (n, n, 3)), 0, 255)
    return Image.fromarray(grid.astype(np.uint8)).resize((CANVAS, CANVAS), Image.Resampling.BICUBIC)


def clouds(rng: np.random.Generator) -> Image.Image:
    """Paint fractal clouds in two colours."""
    base = _base(rng)
    return _blend(_crop(rng, _fields()[0]), _colour(rng, base, 30), _colour(rng, base, 45))


def pebbles(rng: np.random.Generator) -> Image.Image:
    """Paint pebbles with dark joints."""
    base = _base(rng)
    palette = base + rng.normal(0, rng.uniform(8, 30), (256, 1)) + rng.normal(0, rng.uniform(4, 22), (256, 3))
    palette[0] = base * 0.6
    return Image.fromarray(np.clip(palette, 0, 255).astype(np.uint8)[_crop(rng, _fields()[1])])


def mosaic(rng: np.random.Generator) -> Image.Image:
    """Paint a mosaic of square tiles."""
    base, cell = _base(rng), int(rng.integers(9, 34))
    n = CANVAS // cell + 2
    grid = base + rng.normal(0, rng.uniform(6, 26), (n, n, 1)) + rng.normal(0, rng.uniform(3, 20), (n, n, 3))
    image = Image.fromarray(np.clip(grid, 0, 255).astype(np.uint8))
    image = image.resize((n * cell, n * cell), Image.Resampling.NEAREST)
    x, y = (int(v) for v in rng.integers(0, cell, 2))
    return image.crop((x, y, x + CANVAS, y + CANVAS))


def planks(rng: np.random.Generator) -> Image.Image:
    """Paint upright or lying planks."""
    base, width = _base(rng), int(rng.integers(12, 48))
    image = Image.new("RGB", (CANVAS, CANVAS))
    draw = ImageDraw.Draw(image)
    upright = rng.random() < 0.5
    for start in range(-int(rng.integers(width)), CANVAS, width):
        box = (start, 0, start + width, CANVAS) if upright else (0, start, CANVAS, start + width)
        draw.rectangle(box, fill=_colour(rng, base, 14))
        edge = (start, 0, start, CANVAS) if upright else (0, start, CANVAS, start)
        draw.line(edge, fill=_colour(rng, base * 0.6, 6), width=1)
    return image


def confetti(rng: np.random.Generator) -> Image.Image:
    """Paint ellipses, triangles and strokes in random places."""
    base = _base(rng)
    image = Image.new("RGB", (CANVAS, CANVAS), _colour(rng, base, 5))
    draw = ImageDraw.Draw(image, "RGBA")
    spread = rng.uniform(15, 50)
    for _ in range(int(rng.integers(30, 120))):
        x, y = (float(v) for v in rng.uniform(-10, CANVAS + 10, 2))
        w, h = (float(v) for v in rng.uniform(3, 26, 2))
        fill = (*_colour(rng, base, spread), int(rng.integers(90, 230)))
        figure = rng.integers(3)
        if figure == 0:
            draw.ellipse((x, y, x + w, y + h), fill=fill)
        elif figure == 1:
            draw.polygon([(x, y), (x + w, y + h / 3), (x + w / 3, y + h)], fill=fill)
        else:
            draw.line((x, y, x + w - 13, y + h - 13), fill=fill, width=int(rng.integers(1, 5)))
    return image


def landscape(rng: np.random.Generator) -> Image.Image:
    """Paint a sky over a textured ground."""
    sky, ground = clouds(rng), (pebbles, planks, clouds, mosaic)[int(rng.integers(4))](rng)
    horizon = int(rng.uniform(0.3, 0.75) * CANVAS)
    sky.paste(ground.crop((0, horizon, CANVAS, CANVAS)), (0, horizon))
    return sky


PAINTERS: dict[Callable[[np.random.Generator], Image.Image], float] = {
    plain: 0.08, clouds: 0.2, pebbles: 0.16, mosaic: 0.14, planks: 0.12, confetti: 0.14, landscape: 0.16,
}  # fmt: skip


def _scatter(rng: np.random.Generator, image: Image.Image) -> None:
    """Strew small decorative things that no expression names: leaves, shells, gears, sparkles."""
    few = rng.choice(len(CLUTTER), int(rng.integers(1, 4)), replace=False)
    opacity = float(rng.uniform(0.35, 0.95))
    for _ in range(int(rng.integers(5, 22))):
        piece = sprite(rng, CLUTTER[int(few[rng.integers(len(few))])], float(rng.uniform(9, 26)), turn=60.0)
        alpha = piece.getchannel("A").point(lambda v: int(v * opacity))
        x, y = (int(v) for v in rng.integers(-8, CANVAS - 4, 2))
        image.paste(piece.convert("RGB"), (x, y), alpha)


def background(rng: np.random.Generator) -> Image.Image:
    """Draw an RGB background of CANVAS x CANVAS px."""
    painters = list(PAINTERS)
    image = painters[rng.choice(len(painters), p=list(PAINTERS.values()))](rng)
    if rng.random() < 0.65:
        _scatter(rng, image)
    return image
