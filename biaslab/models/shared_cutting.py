"""An image that several prompts of a batch show is cut once, as expressions of one image do."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["PIXEL_ROWS", "cutting_once"]

#: beside pixel values that are not repeated: which of their rows stand for the images of the batch
PIXEL_ROWS = "pixel_rows"


def cutting_once(
    processor: Any, images: Sequence[Sequence[Image.Image]], *, rows_apart: bool = False
) -> tuple[Any, dict[str, Any]]:
    """Let a processor cut every image of a batch once.

    Parameters
    ----------
    processor : ProcessorMixin
    images : sequence of sequence of PIL images
        Of the prompts that it will be called with; the same image is the same object.
    rows_apart : bool
        Do not repeat the pixel values: this is for the device to do.

    Returns
    -------
    processor : ProcessorMixin
        A copy for this one call, with the same output, or the processor itself where no image comes twice or a prompt
        has several.
    apart : dict
        With ``rows_apart``, and filled by the call: pixel values of the distinct images and their `PIXEL_ROWS`, to be
        put in the place of those that the processor returns, which have the right shape and no content.
    """
    apart: dict[str, Any] = {}
    if any(len(several) != 1 for several in images):
        return processor, apart
    places: dict[int, int] = {}  # object -> its place among the distinct ones
    which = [places.setdefault(id(image), len(places)) for [image] in images]
    if len(places) == len(which):
        return processor, apart
    once = copy.copy(processor)
    once.image_processor = _Once(processor.image_processor, which, apart if rows_apart else None)
    return once, apart


class _Once:
    """An image processor that is given the distinct images alone, and whose output is repeated."""

    def __init__(self, inner: Any, which: list[int], apart: dict[str, Any] | None) -> None:
        self._inner, self._which, self._apart = inner, which, apart

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_inner":
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __call__(self, images: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        if len(images) != len(self._which):
            return self._inner(images, *args, **kwargs)
        n = max(self._which) + 1
        made = self._inner([images[self._which.index(i)] for i in range(n)], *args, **kwargs)
        entries = _entries(made, n)
        ends = np.cumsum(entries)
        rows = [k for i in self._which for k in range(ends[i] - entries[i], ends[i])]
        if any(not hasattr(value, "__len__") or len(value) not in (n, ends[-1]) for value in made.values()):
            return self._inner(images, *args, **kwargs)  # something that is neither of images nor of their parts
        for name, value in made.items():
            of_images = self._which if len(value) == n else rows
            if name == "pixel_values" and self._apart is not None:
                import torch

                self._apart.update({name: torch.as_tensor(value), PIXEL_ROWS: torch.tensor(of_images)})
                made[name] = _blank(value, len(of_images))
            else:
                made[name] = [value[row] for row in of_images] if isinstance(value, list) else value[of_images]
        return made


def _entries(made: Any, n: int) -> list[int]:
    """Count what the pixels of each image hold: patches where a grid says so, tiles where they are counted."""
    if "image_grid_thw" in made:
        return [int(np.prod(np.asarray(grid))) for grid in made["image_grid_thw"]]
    return [int(count) for count in made["num_patches"]] if "num_patches" in made else [1] * n


def _blank(value: Any, length: int) -> Any:
    """Make what looks like so many rows of a tensor or array, in the memory of one value: processors read its shape."""
    shape = (length, *value.shape[1:])
    if isinstance(value, np.ndarray):
        return np.lib.stride_tricks.as_strided(np.zeros(1, value.dtype), shape, (0,) * len(shape))
    return value.new_zeros(1).expand(shape)
