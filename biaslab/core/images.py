"""Opening images: one place that turns a path, a PIL image or a data-set sample into an RGB image."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from biaslab.errors import InputError

__all__ = ["content_hash", "image_name", "load_image"]


def load_image(source: Any) -> Image.Image:
    """Open an image as RGB.

    Parameters
    ----------
    source : PIL.Image.Image, path, or object with ``.image``
        ``.image`` is an attribute or a method, as on samples and scenes.

    Returns
    -------
    PIL.Image.Image
        In mode RGB, read completely.

    Raises
    ------
    InputError
        One line that names the file when it is missing, truncated or no picture.

    Examples
    --------
    >>> from PIL import Image
    >>> load_image(Image.new("L", (4, 3), 255)).getpixel((0, 0))
    (255, 255, 255)
    >>> load_image("missing.png")
    Traceback (most recent call last):
    biaslab.errors.InputError: image not found: missing.png
    """
    if isinstance(source, Image.Image):
        return _rgb(source, "the image")
    if isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        if not path.is_file():
            raise InputError(f"image not found: {path}")
        try:
            with Image.open(path) as image:
                return _rgb(image, str(path))
        except (UnidentifiedImageError, OSError, SyntaxError) as err:  # a header may be truncated, too
            raise InputError(f"not a picture that can be read: {path} ({_reason(err)})") from None
    inner = getattr(source, "image", None)
    if inner is None:
        raise InputError(f"expected a PIL image, a path or an object with .image, got {type(source).__name__}")
    return load_image(inner() if callable(inner) else inner)


def _rgb(image: Image.Image, name: str) -> Image.Image:
    try:
        image.load()  # PIL reads lazily: only this finds a truncated file
        if image.width < 1 or image.height < 1:
            raise InputError(f"{name} is empty ({image.width}x{image.height} pixels)")
        return image if image.mode == "RGB" else image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as err:
        if isinstance(err, InputError):
            raise
        raise InputError(f"{name} cannot be read ({err}): replace or remove it") from None


def _reason(err: Exception) -> str:
    return "no known format" if isinstance(err, UnidentifiedImageError) else str(err)


def content_hash(image: Image.Image) -> str:
    """16 hex digits that depend on the size and pixels alone.

    Examples
    --------
    >>> square, strip = Image.new("RGB", (2, 2)), Image.new("RGB", (4, 1))  # the same bytes in another shape
    >>> content_hash(square) == content_hash(square.copy()), content_hash(square) == content_hash(strip)
    (True, False)
    """
    digest = hashlib.sha256(f"{image.size}{image.mode}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()[:16]


def image_name(source: Any, image: Image.Image | None = None) -> str:
    """Name an image: ``.image_id`` or ``.id`` of a sample, else the file name, else the hash of the pixels.

    Parameters
    ----------
    source : PIL.Image.Image, path, or object with ``.image``
        As for `load_image`.
    image : PIL.Image.Image, optional
        The opened image, where it is at hand: nothing is read then.

    Returns
    -------
    str
        The same in every run.

    Examples
    --------
    >>> image_name("photos/cat.jpg")
    'cat.jpg'
    """
    for attribute in ("image_id", "id"):
        value = getattr(source, attribute, None)
        if value is not None and not callable(value):
            return str(value)
    if isinstance(source, (str, os.PathLike)):
        return Path(source).name
    return content_hash(load_image(source) if image is None else image)
