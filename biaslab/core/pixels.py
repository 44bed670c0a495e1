"""Pixels of every kind of image and array as 8-bit RGB. ``docs/data.md`` has the table of what becomes what."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from PIL import Image

from biaslab.errors import InputError

__all__ = ["array_image", "rgb", "rgba"]

_ALPHA = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_CHANNELS = (1, 3, 4)
_TOLERANCE = 1e-3  # what resampling may leave outside 0..1


def rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert to RGB, with white behind what is transparent.

    Parameters
    ----------
    image : PIL.Image.Image
        Of any mode, upright.
    name : str
        For messages.

    Returns
    -------
    PIL.Image.Image
        The same object if it is plain RGB already.

    Raises
    ------
    InputError
        Values that are no image (negative, NaN, of unknown scale), or a transparent colour that cannot be told.

    Examples
    --------
    >>> rgb(Image.new("LA", (1, 1), (0, 0)), "a transparent picture").getpixel((0, 0))
    (255, 255, 255)
    >>> rgb(Image.new("I;16", (1, 1), 40_000), "a 16-bit grey").getpixel((0, 0))
    (156, 156, 156)
    """
    if image.mode in _ALPHA or "transparency" in image.info:
        over = rgba(image, name)
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    if image.mode == "RGB":
        return image
    return _eight_bits(image, name).convert("RGB")


def rgba(image: Image.Image, name: str) -> Image.Image:
    """Convert to RGBA, as :func:`rgb` does, the transparency kept."""
    clear = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(clear, tuple) and max(clear) > 255:
        raise InputError(
            f"{name} is a 16-bit image with a transparent colour, of which Pillow keeps 8 bits: save it as RGBA"
        )
    if image.mode.startswith("I"):
        opaque = np.asarray(image) != clear if isinstance(clear, int) else np.ones(image.size[::-1], bool)
        grey = _eight_bits(image, name).convert("RGBA")
        grey.putalpha(Image.fromarray(np.where(opaque, 255, 0).astype(np.uint8)))
        return grey
    if image.mode == "La":  # Pillow has no way from La but this one
        image = image.convert("LA")
    return _eight_bits(image, name).convert("RGBA")


def array_image(values: Any, name: str, *, channels_first: bool = False) -> Image.Image:
    """Make an image of an array.

    Parameters
    ----------
    values : ndarray
        (H, W), (H, W, C) or (C, H, W) with C = 1 (grey), 3 (RGB) or 4 (RGBA); bool, integers as those of an image of
        8, 12 or 16 bits, or floats in 0..1 (whole numbers up to 255 are taken as 8-bit values).
    name : str
        For messages.
    channels_first : bool
        How a shape is read that is possible both ways, such as (3, 20, 3).

    Returns
    -------
    PIL.Image.Image
        L, RGB or RGBA.

    Raises
    ------
    InputError
        Another shape or dtype, NaN, or values of unknown scale.

    Examples
    --------
    >>> array_image(np.full((2, 5, 3), 0.5), "half grey").getpixel((0, 0))
    (128, 128, 128)
    >>> array_image(np.ones((3, 2, 5)), "channels first").size
    (5, 2)
    """
    values = np.asarray(values)
    if values.ndim == 4:
        raise InputError(f"{name} of shape {values.shape} is a batch of images: pass them as a list, list(batch)")
    axis = _channel_axis(values.shape, channels_first)
    if axis is None:
        raise InputError(
            f"{name} of shape {values.shape} is no image: give (H, W), (H, W, C) or (C, H, W) with C = 1, 3 or 4"
        )
    if not values.size:
        raise InputError(f"{name} of shape {values.shape} has no pixels")
    if values.ndim == 3:
        values = np.moveaxis(values, axis, -1)
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    return Image.fromarray(np.ascontiguousarray(_to_uint8(values, name)))


def _channel_axis(shape: tuple[int, ...], channels_first: bool) -> int | None:
    """Return the axis of the channels, -1 too for a grey image without; None for what is no image."""
    if len(shape) == 2:
        return -1
    order = (0, -1) if channels_first else (-1, 0)
    return next((axis for axis in order if len(shape) == 3 and shape[axis] in _CHANNELS), None)


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Bring the greys of 16 bits, 32 bits and floating point to 8 bits, which Pillow would clip."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    return Image.fromarray(_to_uint8(np.asarray(image), name))


def _to_uint8(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    if values.dtype.kind in "iu":
        return _from_ints(values, name)
    if values.dtype.kind == "f":
        return _from_floats(values, name)
    raise InputError(f"{name} holds values of type {values.dtype}: give uint8, or floats in 0..1")


def _from_ints(values: np.ndarray, name: str) -> np.ndarray:
    """Keep the 8 leading bits of the depth: 8, 12 or 16 bits, the least that holds the largest value."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65_535:
        raise InputError(f"{name} has values from {low} to {high}: scale it to 0..255 (uint8) or 0..65535 (16 bits)")
    depth = 8 if high < 1 << 8 else 12 if high < 1 << 12 else 16
    if depth < 16 and values.dtype.itemsize == 2 and high:
        # without a name, so that a folder of them warns once
        warnings.warn(
            f"16-bit greys that stay below {1 << depth} are read as {depth}-bit ones; if they are dark 16-bit "
            "images, save them with 8 bits",
            stacklevel=5,
        )
    return (values >> (depth - 8)).astype(np.uint8)


def _from_floats(values: np.ndarray, name: str) -> np.ndarray:
    """Scale 0..1 to 0..255; larger values must be whole, as those of an 8-bit image are."""
    if not np.isfinite(values).all():
        raise InputError(f"{name} has values that are not finite (NaN or infinity): replace them")
    low, high = float(values.min()), float(values.max())
    if low >= -_TOLERANCE and high <= 1 + _TOLERANCE:
        return np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    if low >= 0 and high <= 255 and not np.any(values % 1):
        return values.astype(np.uint8)
    normalised = ", which looks normalised by a mean and a deviation" if low < 0 else ""
    raise InputError(f"{name} has values from {low:.4g} to {high:.4g}{normalised}: give floats in 0..1, or uint8")
