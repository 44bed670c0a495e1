"""Changed inputs for controls: images without their order or location, models without what they learned."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps

from biaslab.core.images import load_image
from biaslab.errors import InputError

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["CellGrid", "PerturbedImage", "mirrored", "randomise_weights", "shuffled", "swap_sides", "translated"]


class PerturbedImage:
    """An image that is changed each time it is read, so that none is held in memory."""

    def __init__(self, source: Any, change: Callable, cells: CellGrid, seed: tuple[int, ...]) -> None:
        self._source, self._change, self._cells, self._seed = source, change, cells, seed

    def image(self) -> Image.Image:
        """Render the changed image; the same in every run."""
        image = load_image(self._source)
        return self._change(image, self._cells(image.size), np.random.default_rng(self._seed))


class CellGrid:
    """Rows and columns of a model's cells over an image, by its (width, height)."""

    def __init__(self, vlm: VLM) -> None:
        self._vlm = vlm
        self._cells: dict[tuple[int, int], tuple[int, int]] = {}

    def __call__(self, size: tuple[int, int]) -> tuple[int, int]:
        """Count rows and columns of cells over an image of ``size`` = (width, height) pixels."""
        if size not in self._cells:
            layout = self._vlm.encode([Image.new("RGB", size)], ["?"]).layouts[0]
            self._cells[size] = layout.grid[0] * layout.tiles[0], layout.grid[1] * layout.tiles[1]
        return self._cells[size]


def mirrored(image: Image.Image, cells: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Exchange left and right; the words have to be, too (:func:`swap_sides`)."""
    return ImageOps.mirror(image)


def translated(image: Image.Image, cells: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Roll around by a random whole number of cells down and across (rounded to pixels)."""
    down, across = (int(rng.integers(c)) for c in cells)
    shift = round(down * image.height / cells[0]), round(across * image.width / cells[1])
    return Image.fromarray(np.roll(np.asarray(image), shift, axis=(0, 1)))


def shuffled(image: Image.Image, cells: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Put cells into random order; what is left over on the right and at the bottom by whole pixels stays."""
    rows, cols = cells
    h, w = image.height // rows, image.width // cols
    if not (h and w):
        size = f"{image.width}x{image.height}"
        raise InputError(f"an image of {size} pixels is too small to shuffle {rows}x{cols} cells: leave it out")
    pixels = np.array(image)
    covered = pixels[: h * rows, : w * cols]
    patches = covered.reshape(rows, h, cols, w, -1).swapaxes(1, 2).reshape(rows * cols, h, w, -1)
    mixed = patches[rng.permutation(rows * cols)].reshape(rows, cols, h, w, -1).swapaxes(1, 2)
    pixels[: h * rows, : w * cols] = mixed.reshape(covered.shape)
    return Image.fromarray(pixels)


_SIDES = re.compile(r"\b(left|right)(?=most\b|\b)", re.IGNORECASE)


def swap_sides(text: str) -> str:
    """Exchange left and right (leftmost, rightmost) in a text, in whatever sense they are used."""

    def other(match: re.Match) -> str:
        word = match.group(1)
        new = "right" if word.lower() == "left" else "left"
        return new.upper() if word.isupper() else new.capitalize() if word[0].isupper() else new

    return _SIDES.sub(other, text)


def randomise_weights(vlm: VLM, how: str, seed: int = 0) -> VLM:
    """Make the same model without what it learned; ``vlm`` itself is not changed.

    Parameters
    ----------
    vlm : VLM
        The trained model.
    how : {"init", "permute"}
        "init": a model of the same configuration, initialised by its class; "permute": a copy in which the entries of
        every matrix are shuffled among themselves (vectors, such as norms and biases, stay).
    seed : int
        Of the weights.

    Returns
    -------
    VLM
        On the same device, in the same dtype.

    Raises
    ------
    InputError
        Another ``how``.
    """
    from biaslab.models.vlm import VLM

    first = next(vlm.model.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if how == "init":
            model = type(vlm.model)(copy.deepcopy(vlm.model.config))
        elif how == "permute":
            model = copy.deepcopy(vlm.model)
            with torch.no_grad():
                for p in model.parameters():
                    if p.dim() > 1:
                        p.copy_(p.flatten()[torch.randperm(p.numel()).to(p.device)].view_as(p))
        else:
            raise InputError(f"weights are made by init or permute, got {how!r}")
    model = model.to(device=first.device, dtype=first.dtype).eval().requires_grad_(False)
    revision = None if vlm.revision is None else f"{vlm.revision} ({how} weights)"  # no fingerprint: other weights
    made = VLM(model, vlm.processor, vlm.family, name=f"{vlm.name} ({how} weights)", revision=revision)
    made.image_options = dict(vlm.image_options)
    return made
