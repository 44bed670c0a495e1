"""The crossed design: every (object, background) pair at every location of the grid, seeded, made when asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from biaslab.core.boxes import Box
from biaslab.datasets.image_sources import find_images
from biaslab.diagnostics.probe.sources import Cutouts, files_digest, rendered_background, rendered_object
from biaslab.errors import InputError
from biaslab.scenes.objects import NAMES

if TYPE_CHECKING:
    from biaslab.core.layout import TokenLayout
    from biaslab.models.vlm import VLM

__all__ = ["ProbeDesign", "Stimulus", "design_for"]


@dataclass(frozen=True, eq=False)
class Stimulus:
    """One image of a design: an object at one place.

    Attributes
    ----------
    pair, row, col, repetition : int
        Which object on which background, where, and the how-manyth time.
    image : PIL image
    box : Box
        The tight box of the object, in pixels.
    name : str
        Name of the object.
    expression : str
        What is asked for.

    Examples
    --------
    >>> from biaslab.diagnostics.probe import ProbeDesign
    >>> design = ProbeDesign(grid=(2, 2), pairs=1, scale=(0.3, 0.5))
    >>> stimuli = list(design)
    >>> len(stimuli), stimuli[3].id, stimuli[3].image.size
    (4, 'p000-r001-c001-0', (224, 224))
    """

    pair: int
    row: int
    col: int
    repetition: int
    image: Image.Image
    box: Box
    name: str
    expression: str

    @property
    def id(self) -> str:
        """Name of the image in the log: pair, row, column, repetition."""
        return stimulus_id(self.pair, self.row, self.col, self.repetition)


def stimulus_id(pair: int, row: int, col: int, repetition: int) -> str:
    """Name an image of the design, as in ``stimuli.jsonl``."""
    return f"p{pair:03d}-r{row:03d}-c{col:03d}-{repetition}"


@dataclass(frozen=True)
class ProbeDesign:
    """Which object is shown where, on what.

    A *pair* is an object at one size, mirrored or not, on a background: the same pixels wherever it stands. Every
    pair is shown at every location, so the effect of object and background on attention is the same at all of them and
    goes when the pair's mean is taken off. Pair k takes object k and background k of a seeded order: pairs share
    neither while there are enough of both, so that they are independent groups.

    The centre of the object is drawn uniformly inside the cell, then moved inward as far as the object would
    leave the image: an object cut off would be another object. In the cells of the border it touches the edge.

    Parameters
    ----------
    grid : (int, int)
        Rows and columns of the locations; for a model, `design_for` takes its raster of tokens.
    size : (int, int)
        Width and height of the images, pixels.
    pairs : int
        Number of pairs.
    seed : int
        Everything follows from it, the pair, the location and the repetition.
    scale : (float, float)
        Long side of the object in cells, drawn uniformly per pair between the two.
    repetitions : int
        Images per pair and location, with other jitter.
    distractors : int
        Other objects, never of the target's name, that belong to the background of a pair.
    objects : str or Path, optional
        Folder of RGBA cut-outs (see `Cutouts`); default biaslab's own.
    backgrounds : str or Path, optional
        Folder of images; default biaslab's own.
    expression : str
        The prompt's expression, without any word for a location; ``{}`` is the object's name.

    Raises
    ------
    InputError
        Counts below 1, an expression without ``{}``, objects larger than the image, a folder without images.

    Examples
    --------
    >>> import biaslab as bl
    >>> design = bl.ProbeDesign(grid=(2, 3), pairs=2, scale=(0.3, 0.5))
    >>> len(design), design.locations
    (12, 6)
    >>> stimulus = design.stimulus(pair=0, row=1, col=2)
    >>> stimulus.id, stimulus.image.size
    ('p000-r001-c002-0', (224, 224))
    >>> stimulus.expression == f"the {design.groups[0]}"
    True
    """

    grid: tuple[int, int]
    _: KW_ONLY
    size: tuple[int, int] = (224, 224)
    pairs: int = 12
    seed: int = 0
    scale: tuple[float, float] = (1.5, 2.5)
    repetitions: int = 1
    distractors: int = 0
    objects: str | Path | None = None
    backgrounds: str | Path | None = None
    expression: str = "the {}"
    _latest: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        counts = {"pairs": self.pairs, "repetitions": self.repetitions}
        for name, value in {**counts, "locations": min(self.grid), "size": min(self.size)}.items():
            if value < 1:
                raise InputError(f"a probe needs {name} of at least 1, got {value}")
        if "{}" not in self.expression:
            raise InputError(f"{self.expression!r} holds no {{}} for the object's name: write it as in 'the {{}}'")
        low, high = _cells(self.scale)
        if high * self.cell > min(self.size) or low * self.cell < 4:
            raise InputError(
                f"objects of {low:g} to {high:g} cells of {self.cell:.0f} px do not fit {self.size[0]}x{self.size[1]} "
                "pixels: choose another scale or size"
            )
        if not 0 <= self.distractors < len(self.names):
            most = len(self.names) - 1
            raise InputError(f"distractors must be 0 to {most} with these objects, got {self.distractors}")

    @property
    def cell(self) -> float:
        """Side of a cell in pixels (geometric mean of width and height)."""
        return float(np.sqrt(self.size[0] / self.grid[1] * self.size[1] / self.grid[0]))

    @property
    def locations(self) -> int:
        """Number of locations of the grid."""
        return self.grid[0] * self.grid[1]

    def __len__(self) -> int:
        """Count the images."""
        return self.pairs * self.locations * self.repetitions

    @cached_property
    def _cutouts(self) -> Cutouts | None:
        return None if self.objects is None else Cutouts(self.objects)

    @cached_property
    def _grounds(self) -> list[Path] | None:
        return None if self.backgrounds is None else find_images(self.backgrounds)

    @property
    def names(self) -> tuple[str, ...]:
        """Objects that may be shown."""
        return NAMES if self._cutouts is None else tuple(self._cutouts.names)

    @cached_property
    def groups(self) -> list[str]:
        """Name of each pair's object: pairs of one object are not independent and count as one group."""
        return [self.names[self._object(pair)] for pair in range(self.pairs)]

    def identity(self) -> dict[str, Any]:
        """Give all that the images follow from, JSON-ready, contents of the user's folders included."""
        return {
            "grid": list(self.grid), "size": list(self.size), "pairs": self.pairs, "seed": self.seed,
            "scale": list(self.scale), "repetitions": self.repetitions, "distractors": self.distractors,
            "expression": self.expression,
            "objects": "biaslab" if self._cutouts is None else self._cutouts.digest(),
            "backgrounds": "biaslab" if self._grounds is None else files_digest(self._grounds),
        }  # fmt: skip

    def __iter__(self) -> Iterator[Stimulus]:
        """Yield all images, pair by pair, made one at a time."""
        for at in self.order():
            yield self.stimulus(*at)

    def order(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield (pair, row, col, repetition) of all images, pair by pair."""
        shape = (self.pairs, self.repetitions, *self.grid)
        return ((pair, row, col, r) for pair, r, row, col in np.ndindex(shape))

    def stimulus(self, pair: int, row: int, col: int, repetition: int = 0) -> Stimulus:
        """Render the image of one pair at one location."""
        ground, cutout, name = self._pair(pair)
        x, y = self._corner(cutout.size, pair, row, col, repetition)
        image = ground.copy()
        image.paste(cutout.convert("RGB"), (x, y), cutout.getchannel("A"))
        box = Box(x, y, x + cutout.width, y + cutout.height)
        return Stimulus(pair, row, col, repetition, image, box, name, self.expression.replace("{}", name))

    def _corner(self, size: tuple[int, int], pair: int, row: int, col: int, repetition: int) -> tuple[int, int]:
        jitter = np.random.default_rng([self.seed, 1, pair, row * self.grid[1] + col, repetition]).random(2)
        centre = (np.array([col, row]) + jitter) / self.grid[::-1] * self.size
        low = np.rint(centre - np.array(size) / 2).astype(int)
        x, y = np.clip(low, 0, np.array(self.size) - size)
        return int(x), int(y)

    def _object(self, pair: int) -> int:
        n = len(self.names)
        return int(np.random.default_rng([self.seed, 2, pair // n]).permutation(n)[pair % n])

    def _pair(self, pair: int) -> tuple[Image.Image, Image.Image, str]:
        """Background, object and name of a pair; the latest is kept, as images come pair by pair."""
        latest = self._latest.get(pair)  # several threads may be at work on neighbouring pairs
        if latest is None:
            rng = np.random.default_rng([self.seed, 3, pair])
            target = self._object(pair)
            path = None
            if self._grounds is not None:
                n = len(self._grounds)
                path = self._grounds[np.random.default_rng([self.seed, 4, pair // n]).permutation(n)[pair % n]]
            cutout = self._render(rng, target)
            ground = rendered_background(rng, self.size, path)
            others = [i for i, name in enumerate(self.names) if name != self.names[target]]
            for index in rng.choice(others, self.distractors, replace=False) if self.distractors else ():
                other = self._render(rng, int(index))
                x, y = (int(rng.integers(0, most - side + 1)) for most, side in zip(self.size, other.size, strict=True))
                ground.paste(other.convert("RGB"), (x, y), other.getchannel("A"))
            latest = ground, cutout, self.names[target]
            self._latest.clear()
            self._latest[pair] = latest
        return latest

    def _render(self, rng: np.random.Generator, index: int) -> Image.Image:
        side = rng.uniform(*self.scale) * self.cell
        return rendered_object(rng, index, side) if self._cutouts is None else self._cutouts.render(rng, index, side)


def _cells(scale: Any) -> tuple[float, float]:
    """Return the sides of the smallest and the largest object in cells."""
    try:
        low, high = (float(side) for side in scale)
    except (TypeError, ValueError):
        low = high = float("nan")
    if not 0 < low <= high < float("inf"):
        raise InputError(f"scale must be two numbers of cells above 0, small to large, as in (1.5, 2.5); got {scale!r}")
    return low, high


def raster_grid(layout: TokenLayout) -> tuple[int, int]:
    """Count rows and columns of all tiles together (of the thumbnail, if there is nothing else)."""
    centers = layout.centers[~layout.thumbnail if not layout.thumbnail.all() else layout.thumbnail]
    return len(np.unique(centers[:, 1].round(6))), len(np.unique(centers[:, 0].round(6)))


def design_for(
    vlm: VLM, *, size: int | tuple[int, int] = 224, grid: tuple[int, int] | None = None, **options: Any
) -> ProbeDesign:
    """Make a `ProbeDesign` on the raster of tokens that the model lays over an image.

    Parameters
    ----------
    vlm : VLM
        The model.
    size : int or (int, int)
        Pixels of the images: side of a square, or width and height.
    grid : (int, int), optional
        Coarser locations in place of the raster.
    **options
        Of `ProbeDesign`.

    Returns
    -------
    ProbeDesign
        For :func:`biaslab.diagnostics.probe.measure`.

    Raises
    ------
    InputError
        A size below 1, or options that `ProbeDesign` refuses.

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.diagnostics.probe import design_for
    >>> design_for(bl.load("grounder"), pairs=2).grid
    (16, 16)
    """
    width, height = (int(size), int(size)) if isinstance(size, int) else (int(side) for side in size)
    if min(width, height) < 1:
        raise InputError(f"size must be positive pixels, got {(width, height)}")
    if grid is None:
        blank = Image.new("RGB", (width, height), (128,) * 3)
        grid = raster_grid(vlm.encode_grounding([blank], ["the object"]).layouts[0])
    rows, cols = grid
    return ProbeDesign(grid=(rows, cols), size=(width, height), **options)
