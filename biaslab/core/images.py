"""Opening images: one place that turns whatever stands for an image into upright 8-bit RGB.

``docs/data.md`` says what becomes of every mode, depth, orientation and animation.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from PIL import Image

from biaslab._util.text import printable
from biaslab.core.picture_files import open_file, orientation, upright
from biaslab.core.pixels import array_image, rgb, rgba
from biaslab.errors import InputError

__all__ = ["content_hash", "image_name", "image_orientation", "image_size", "load_image", "load_rgba"]

T = TypeVar("T")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|data:")  # a single letter is a drive; a Path folds "//" to "/"
_FIX = "replace or remove it"


def load_image(source: Any) -> Image.Image:
    """Open an image as RGB: upright, 8 bits, first frame, white behind what is transparent.

    Parameters
    ----------
    source : PIL.Image.Image, path, ``file://`` URL, bytes, binary file, array, tensor, or object with ``.image``
        An array is (H, W), (H, W, C) or (C, H, W), as uint8 or as floats in 0..1; ``.image`` is an attribute or a
        method, as on samples and scenes. Boxes of the image are in pixels of what is returned.

    Returns
    -------
    PIL.Image.Image
        In mode RGB, read completely; the source itself where it is that already.

    Raises
    ------
    InputError
        One line that names the file when it is missing, truncated, no image, or not to be read without guessing.

    Examples
    --------
    >>> from PIL import Image
    >>> load_image(Image.new("L", (4, 3), 255)).getpixel((0, 0))
    (255, 255, 255)
    >>> import numpy as np
    >>> load_image(np.zeros((20, 30, 3), np.uint8)).size
    (30, 20)
    >>> load_image("missing.png")
    Traceback (most recent call last):
    biaslab.errors.InputError: image not found: missing.png
    """
    return _plain(_read(source, rgb))


def load_rgba(source: Any) -> Image.Image:
    """Open an image as :func:`load_image` does, in mode RGBA with its transparency.

    Parameters
    ----------
    source : as for :func:`load_image`

    Returns
    -------
    PIL.Image.Image
        In mode RGBA.

    Raises
    ------
    InputError
        As :func:`load_image`.
    """
    return _plain(_read(source, rgba))


def image_size(source: Any) -> tuple[int, int]:
    """Width and height of the upright image, from a file's header alone.

    Parameters
    ----------
    source : as for :func:`load_image`

    Returns
    -------
    (int, int)
        In pixels, of what :func:`load_image` would return.

    Raises
    ------
    InputError
        As :func:`load_image`, but for damage behind the header.
    """
    if not isinstance(source, (str, os.PathLike, bytes)):
        return load_image(source).size
    with _opened(source) as (image, name):
        if image.format == "TIFF":  # Pillow turns it itself, some versions when they read the pixels
            _guarded(name, image.load)
            return image.size
        width, height = image.size
        return (height, width) if orientation(image) >= 5 else (width, height)


def image_orientation(source: str | Path | bytes) -> int:
    """Read the EXIF orientation (1 to 8) of an image file, or of its content; 1 where it has none.

    Raises
    ------
    InputError
        The file cannot be read.
    """
    with _opened(source) as (image, _):
        return orientation(image)


def _read(source: Any, convert: Callable[[Image.Image, str], Image.Image]) -> Image.Image:
    if isinstance(source, Image.Image):
        return _converted(source, "the image", convert)
    if isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(source, "read"):
        with _opened(source) as (image, name):
            return _converted(image, name, convert)
    if hasattr(source, "__array__") or hasattr(source, "detach"):
        return convert(_of_array(source), "the array")
    inner = getattr(source, "image", None)
    if inner is None:
        raise InputError(
            "expected an image (PIL image, path, bytes, array or tensor) or an object with .image, "
            f"got {type(source).__name__}"
        )
    return _read(inner() if callable(inner) else inner, convert)


def _converted(image: Image.Image, name: str, convert: Callable[[Image.Image, str], Image.Image]) -> Image.Image:
    if min(image.size) < 1:
        raise InputError(f"{name} is empty ({image.width}x{image.height} pixels)")
    return _guarded(name, lambda: convert(upright(image, name), name))


def _plain(image: Image.Image) -> Image.Image:
    """Drop what later readers might act upon once more: the orientation and the transparent colour."""
    if "transparency" in image.info or orientation(image) != 1:
        image = image.copy()
        image.info = {}
    return image


def _of_array(source: Any) -> Image.Image:
    """Make an image of an array or tensor; only tensors have their channels first where both would do."""
    tensor = hasattr(source, "detach")
    name = "the tensor" if tensor else "the array"

    def values() -> Any:
        if not tensor:
            return source
        host = source.detach().cpu()
        return (host.float() if host.is_floating_point() else host).numpy()  # numpy has no bfloat16

    return _guarded(name, lambda: array_image(values(), name, channels_first=tensor))


@contextmanager
def _opened(source: Any) -> Iterator[tuple[Image.Image, str]]:
    """Open a file without reading its pixels, and name it."""
    if isinstance(source, (str, os.PathLike)):
        file: Any = _path(source)
        name = str(file)
    else:
        name = "the image"
        file = source if hasattr(source, "read") else io.BytesIO(source)
        if isinstance(file, io.TextIOBase):
            raise InputError("the image's file is open as text: open it with mode 'rb'")
    with _guarded(name, lambda: open_file(file, name)) as image:
        yield image, name


def _path(source: str | os.PathLike) -> Path:
    text = os.fsdecode(source)
    path = _local(text) if _URL.match(text) else _guarded(text, lambda: Path(text).expanduser())
    try:
        found, folder = path.is_file(), path.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        found = folder = False
    if folder:
        raise InputError(f"{path} is a folder: give one image")
    if not found:
        raise InputError(f"image not found: {_short(str(path))}")
    return path


def _local(url: str) -> Path:
    """Return the path of a ``file:`` URL; nothing is fetched."""
    parts = urlsplit(url)
    if parts.scheme.lower() == "file" and parts.netloc in ("", "localhost"):
        return Path(url2pathname(parts.path))
    if parts.scheme.lower() == "data":
        raise InputError("a data: URL is no path: decode it (base64.b64decode) and pass the bytes")
    raise InputError(f"{_short(url)} is not on this machine: download it first and pass the file's path")


def _guarded(name: str, work: Callable[[], T]) -> T:
    """Do what damaged data may make fail in any way a decoder can think of, and word the error."""
    try:
        return work()
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{_short(name)} cannot be read ({reason}): {_FIX}") from None


def _short(text: str, most: int = 300) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


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
    source : as for :func:`load_image`
    image : PIL.Image.Image, optional
        The opened image, where it is at hand: nothing is read then.

    Returns
    -------
    str
        The same in every run, with what UTF-8 cannot hold as escapes.

    Examples
    --------
    >>> image_name("photos/cat.jpg")
    'cat.jpg'
    """
    for attribute in ("image_id", "id"):
        value = getattr(source, attribute, None)
        if value is not None and not callable(value):
            return printable(str(value))
    if isinstance(source, (str, os.PathLike)):
        return printable(Path(source).name)
    return content_hash(load_image(source) if image is None else image)
