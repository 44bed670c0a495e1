"""Sources of calibration images: the image files of a folder, and null images that show nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from biaslab.errors import InputError

__all__ = ["blank", "find_images", "noise"]

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def find_images(folder: str | Path, *, n: int | None = None) -> list[Path]:
    """List the image files in a folder and below it, sorted; broken ones show when they are read.

    Parameters
    ----------
    folder : str or Path
    n : int, optional
        The first files only; default all.

    Returns
    -------
    list of Path

    Raises
    ------
    InputError
        If there is no such folder, or no image in it.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"no such folder of images: {folder}")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    if not paths:
        raise InputError(f"no picture in {folder} (looked for {', '.join(sorted(_SUFFIXES))})")
    return paths[:n]


def blank(n: int, size: tuple[int, int]) -> list[Image.Image]:
    """Make uniform grey images, from dark to bright.

    Parameters
    ----------
    n : int
        Number of images.
    size : (width, height)
        In pixels.

    Returns
    -------
    list of PIL.Image.Image
        RGB.

    Examples
    --------
    >>> [image.getpixel((0, 0)) for image in blank(3, (4, 2))]
    [(64, 64, 64), (128, 128, 128), (191, 191, 191)]
    """
    _check(n, size)
    levels = np.linspace(0, 255, n + 2)[1:-1].round().astype(int)  # for n = 1 the middle grey
    return [Image.new("RGB", size, (int(v),) * 3) for v in levels]


def noise(n: int, size: tuple[int, int], *, seed: int = 0) -> list[Image.Image]:
    """Make images of uniform noise; image i depends on (seed, i) alone.

    Parameters
    ----------
    n : int
        Number of images.
    size : (width, height)
        In pixels.
    seed : int

    Returns
    -------
    list of PIL.Image.Image
        RGB.
    """
    _check(n, size)
    width, height = size
    rngs = (np.random.default_rng((seed, i)) for i in range(n))
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for rng in rngs]


def _check(n: int, size: tuple[int, int]) -> None:
    if n < 1 or min(size) < 1:
        raise InputError(f"need n >= 1 and a positive (width, height), got n={n}, size={tuple(size)}")
