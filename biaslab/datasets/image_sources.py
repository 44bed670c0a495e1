"""Sources of calibration images: the image files of a folder, and null images that show nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from biaslab.core.picture_files import suffixes
from biaslab.errors import InputError

__all__ = ["blank", "find_images", "noise", "require_images"]


def find_images(folder: str | Path, *, n: int | None = None) -> list[Path]:
    """List the image files in a folder and below it, sorted; broken ones show when they are read.

    Parameters
    ----------
    folder : str or Path
        A single image file stands for a folder that holds it alone.
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
    folder, known = Path(folder).expanduser(), suffixes()
    if folder.is_file():
        if folder.suffix.lower() not in known:
            raise InputError(f"{folder} is neither an image nor a folder of images: give one of them")
        return [folder]
    if not folder.is_dir():
        raise InputError(f"no such folder of images: {folder}")
    paths = sorted(_pictures(folder, known))
    if not paths:
        held = sorted({path.suffix or path.name for path in folder.rglob("*") if path.is_file()})
        holds = ", ".join(held[:5]) or "no file"
        raise InputError(f"no image in {folder} (it holds {holds}): give a folder of JPEG, PNG or other images")
    return paths[:n]


def require_images(folder: Path) -> None:
    """Refuse what holds no image, as :func:`find_images` does; it looks no further than the first one."""
    if not folder.is_dir() or next(_pictures(folder, suffixes()), None) is None:
        find_images(folder)


def _pictures(folder: Path, known: Collection[str]) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.suffix.lower() in known and path.is_file())


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
