"""Objects and backgrounds of the probe: biaslab's own, or the user's images."""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from biaslab.core.images import load_image, load_rgba
from biaslab.datasets.image_sources import find_images
from biaslab.errors import InputError
from biaslab.scenes.backgrounds import background, fine_noise
from biaslab.scenes.objects import NAMES, sprite

__all__ = ["Cutouts", "rendered_background", "rendered_object"]

_SOLID = 60  # opacity of 255 from which a pixel belongs to the object


class Cutouts:
    """A folder of RGBA images (one object each, on a transparent ground), named by their files.

    ``red-apple_2.png`` is "red apple": dashes and underscores are blanks, a number at the end is dropped.

    Parameters
    ----------
    folder : str or Path
        Holds the images.

    Raises
    ------
    InputError
        No folder, no image, or an image without transparency.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> from biaslab.diagnostics.probe import Cutouts
    >>> image = Image.new("RGBA", (32, 32))
    >>> image.paste((200, 0, 0, 255), (8, 8, 24, 24))
    >>> with TemporaryDirectory() as folder:
    ...     image.save(Path(folder) / "red-apple_2.png")
    ...     Cutouts(folder).names
    ['red apple']
    """

    def __init__(self, folder: str | Path) -> None:
        self.paths = find_images(folder)
        self.names = [_name(path) for path in self.paths]
        for path in self.paths:
            _cutout(path)  # all of them before any work

    def __repr__(self) -> str:
        return f"<{len(self.paths)} cut-outs: {', '.join(self.names[:3])}{', ...' * (len(self.names) > 3)}>"

    def digest(self) -> str:
        """Hash names and contents to 12 hex digits."""
        return files_digest(self.paths)

    def render(self, rng: np.random.Generator, index: int, side: float) -> Image.Image:
        """Render cut-out ``index``, mirrored by chance, its visible part with long side ``side`` px, RGBA."""
        image = _cutout(self.paths[index])
        if rng.random() < 0.5:
            image = ImageOps.mirror(image)
        return _scaled(image, side)


def files_digest(paths: list[Path]) -> str:
    """Hash the names and contents of files to 12 hex digits."""
    total = hashlib.sha256()
    for path in paths:
        total.update(os.fsencode(path.name) + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:12]


def rendered_object(rng: np.random.Generator, index: int, side: float) -> Image.Image:
    """Render object ``NAMES[index]`` as scenes show it: mirrored and turned a little, brightness varied. RGBA."""
    image = sprite(rng, NAMES[index], side)
    values = np.asarray(image, np.float32).copy()
    values[..., :3] = values[..., :3] * rng.uniform(0.8, 1.15) + rng.normal(0, 6, 3)
    return _scaled(Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)), side)


def rendered_background(rng: np.random.Generator, size: tuple[int, int], path: Path | None = None) -> Image.Image:
    """Render a background of ``size`` = (width, height) px: a scene's, or the image at ``path`` cut to that shape."""
    if path is not None:
        return ImageOps.fit(load_image(path), size)
    image = background(rng)
    values = np.asarray(image, np.float32) + fine_noise(rng) * rng.uniform(1, 7)
    image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    return image if image.size == size else ImageOps.fit(image, size, Image.Resampling.BICUBIC)


def _scaled(image: Image.Image, side: float) -> Image.Image:
    """Cut to what is visible, its long side ``side`` px: the box of the image is then the box of the object."""
    image = image.crop(_visible(image))
    scale = side / max(image.size)
    width, height = (max(4, round(length * scale)) for length in image.size)
    size = (width, height)
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _visible(image: Image.Image) -> tuple[int, int, int, int] | None:
    return image.getchannel("A").point(lambda v: 255 * (v > _SOLID)).getbbox()


@lru_cache(maxsize=4)
def _cutout(path: Path) -> Image.Image:
    image = load_rgba(path)
    box = _visible(image)
    if box is None or image.getchannel("A").getextrema()[0] == 255:
        raise InputError(f"{path} is no cut-out: give an image with a transparent ground (RGBA)")
    return image.crop(box)


def _name(path: Path) -> str:
    name = re.sub(r"\s*\d+$", "", re.sub(r"[-_\s]+", " ", path.stem).strip())
    if not name:
        raise InputError(f"{path} names no object: call the file what it shows, for example apple.png")
    return name
