"""Sources of calibration images: a folder of pictures, and null images that show nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from biaslab.errors import InputError

__all__ = ["blank", "images_from", "noise"]

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def images_from(folder: str | Path, limit: int | None = None) -> list[Path]:
    """Paths of the pictures in a folder and below it, sorted; broken ones are found when they are read.

    Raises
    ------
    InputError
        If there is no such folder, or no picture in it.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"no such folder of images: {folder}")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    if not found:
        raise InputError(f"no picture in {folder} (looked for {', '.join(sorted(_SUFFIXES))})")
    return found[:limit]


def blank(n: int, size: tuple[int, int]) -> list[Image.Image]:
    """``n`` uniform grey pictures of ``size`` = (width, height), from dark to bright."""
    _check(n, size)
    levels = np.linspace(0, 255, n + 2)[1:-1].round().astype(int)  # for n = 1 the middle grey
    return [Image.new("RGB", size, (int(v),) * 3) for v in levels]


def noise(n: int, size: tuple[int, int], seed: int = 0) -> list[Image.Image]:
    """``n`` pictures of uniform noise, ``size`` = (width, height); picture i depends on (seed, i) alone."""
    _check(n, size)
    width, height = size
    rngs = (np.random.default_rng((seed, i)) for i in range(n))
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for rng in rngs]


def _check(n: int, size: tuple[int, int]) -> None:
    if n < 1 or min(size) < 1:
        raise InputError(f"need n >= 1 and a positive (width, height), got n={n}, size={tuple(size)}")
