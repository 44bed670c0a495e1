"""Boxes in pixels of the original image, their overlap, and the coordinate spaces models answer in.

Edges are continuous: a box from x0 to x1 is ``x1 - x0`` wide, with no added pixel.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from biaslab._util.notebook import InNotebooks
from biaslab.errors import InputError

__all__ = ["Box", "BoxSpace", "box_iou", "find_box"]

# every alternative begins and goes on with another character, so that a long run of digits is read once
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_FOUR_NUMBERS = re.compile(rf"\[\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*(?:,\s*)?\]")
_OVERHANG = 0.1  # of the space's extent: a box that reaches further out is none of this space

_CORNER = rf"\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)"
_TWO_CORNERS = re.compile(rf"{_CORNER}\s*,\s*{_CORNER}")


@dataclass(frozen=True, repr=False)
class Box(InNotebooks):
    """An axis-aligned box in pixels of the original image.

    A model may answer corners in the wrong order. Such a box is kept as it is and has area 0, so that it
    counts as a miss instead of being repaired.

    Parameters
    ----------
    x0, y0 : float
        Top left corner, pixels.
    x1, y1 : float
        Bottom right corner, pixels.

    Raises
    ------
    InputError
        If a coordinate is not a finite number.

    Examples
    --------
    >>> import biaslab as bl
    >>> target, answer = bl.Box(10, 20, 50, 60), bl.Box(10, 20, 50, 40)
    >>> target.area, target.center, target.iou(answer)
    (1600.0, (30.0, 40.0), 0.5)
    >>> bl.Box(50, 60, 10, 20).iou(target)  # corners in the wrong order: a miss
    0.0
    """

    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        for name in ("x0", "y0", "x1", "y1"):
            try:
                value = float(getattr(self, name))
            except (TypeError, ValueError):
                raise InputError(f"box coordinate {name} is not a number: {getattr(self, name)!r}") from None
            if not math.isfinite(value):
                raise InputError(f"box coordinate {name} is {value}: give finite pixel coordinates")
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return "Box(x0={}, y0={}, x1={}, y1={})".format(*(round(value, 2) for value in self.as_tuple()))

    @classmethod
    def from_xywh(cls, x: float, y: float, w: float, h: float) -> Box:
        """Box from its top left corner, width and height (the COCO convention).

        Parameters
        ----------
        x, y : float
            Top left corner, pixels.
        w, h : float
            Width and height, pixels.

        Examples
        --------
        >>> Box.from_xywh(10, 20, 30, 40)
        Box(x0=10.0, y0=20.0, x1=40.0, y1=60.0)
        """
        return cls(x, y, x + w, y + h)

    @property
    def width(self) -> float:
        """Width in pixels, 0 where the corners are reversed."""
        return max(0.0, self.x1 - self.x0)

    @property
    def height(self) -> float:
        """Height in pixels, 0 where the corners are reversed."""
        return max(0.0, self.y1 - self.y0)

    @property
    def area(self) -> float:
        """Area in square pixels."""
        return self.width * self.height

    @property
    def center(self) -> tuple[float, float]:
        """Centre (x, y) in pixels."""
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    def as_tuple(self) -> tuple[float, float, float, float]:
        """Return x0, y0, x1, y1."""
        return self.x0, self.y0, self.x1, self.y1

    def iou(self, other: Box) -> float:
        """Intersection over union with another box, 0 where either has no area."""
        return float(box_iou(np.asarray(self.as_tuple()), np.asarray(other.as_tuple())))

    def clip(self, size: tuple[float, float]) -> Box:
        """Cut the box to an image of ``size = (width, height)`` pixels.

        Examples
        --------
        >>> Box(-5, 3, 120, 90).clip((100, 50))
        Box(x0=0.0, y0=3.0, x1=100.0, y1=50.0)
        """
        width, height = size
        return Box(
            min(max(self.x0, 0.0), width),
            min(max(self.y0, 0.0), height),
            min(max(self.x1, 0.0), width),
            min(max(self.y1, 0.0), height),
        )


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes ``(..., 4)``, element by element after broadcasting.

    Parameters
    ----------
    a, b : array_like, (..., 4)
        x0, y0, x1, y1 in any common unit. For all pairs use ``box_iou(a[:, None], b[None])``.

    Returns
    -------
    ndarray (...)
        Values in [0, 1]; 0 where the union is empty or a box is reversed.

    Raises
    ------
    InputError
        If the last axis of one of them does not have four values.

    Examples
    --------
    >>> answers = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 0, 30, 10]])
    >>> box_iou(answers, [0, 0, 10, 10]).round(2)
    array([1.  , 0.33, 0.  ])
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape[-1:] != (4,) or b.shape[-1:] != (4,):
        raise InputError(f"boxes need a last axis of 4 (x0, y0, x1, y1), got shapes {a.shape} and {b.shape}")

    def area(box: np.ndarray) -> np.ndarray:
        return np.clip(box[..., 2] - box[..., 0], 0, None) * np.clip(box[..., 3] - box[..., 1], 0, None)

    corners = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    inter = np.clip(corners, 0, None).prod(axis=-1)
    inter = np.where((area(a) > 0) & (area(b) > 0), inter, 0.0)
    union = area(a) + area(b) - inter
    return np.divide(inter, union, out=np.zeros_like(union), where=union > 0)


class BoxSpace(enum.Enum):
    """The coordinate space in which a model family writes its boxes.

    The space is a property of the family: it is never guessed from the size of the numbers.

    Examples
    --------
    The same four numbers, as two families mean them, on an image of 640 x 480 pixels:

    >>> BoxSpace.NORM1000.to_pixels([250, 250, 750, 750], size=(640, 480))
    Box(x0=160.0, y0=120.0, x1=480.0, y1=360.0)
    >>> BoxSpace.RESIZED.to_pixels([250, 250, 750, 750], size=(640, 480), resized=(1000, 750))
    Box(x0=160.0, y0=160.0, x1=480.0, y1=480.0)
    """

    PIXEL = "pixel"  # pixels of the original image
    NORM1000 = "norm1000"  # 0-1000 of the original width and height
    NORM1 = "norm1"  # 0-1 of the original width and height
    PADDED_SQUARE = "padded_square"  # 0-1 of the image padded to a centred square
    RESIZED = "resized"  # pixels of the resized image the model saw

    def to_pixels(
        self, values: Sequence[float], *, size: tuple[float, float], resized: tuple[float, float] | None = None
    ) -> Box:
        """Box in pixels of the original image from the four numbers of an answer.

        Parameters
        ----------
        values : sequence of 4 floats
            x0, y0, x1, y1 in this space.
        size : (width, height)
            Original image, pixels.
        resized : (width, height), optional
            Size of the image the model saw; needed by ``RESIZED`` alone.

        Returns
        -------
        Box
            In pixels of the original image; nothing is clipped.

        Raises
        ------
        InputError
            For an image without area, or if ``resized`` is missing where it is needed.
        """
        x0, y0, x1, y1 = values
        sx, sy, ox, oy = self._frame(size, resized)
        return Box(x0 * sx - ox, y0 * sy - oy, x1 * sx - ox, y1 * sy - oy)

    def read(
        self, values: Sequence[float], *, size: tuple[float, float], resized: tuple[float, float] | None = None
    ) -> Box | None:
        """Box from the four numbers of an answer, which may be anything.

        Numbers that lie outside the space by up to a tenth of its extent are moved to its edge; with one that lies
        further out (a model that answers in another space) or that is not finite, the answer holds no box.

        Parameters
        ----------
        values : sequence of 4 floats
            x0, y0, x1, y1 as the model wrote them.
        size, resized
            As in `to_pixels`.

        Returns
        -------
        Box or None
            Inside the space; in pixels of the original image, as from `to_pixels`.

        Raises
        ------
        InputError
            As `to_pixels`.

        Examples
        --------
        >>> BoxSpace.NORM1000.read([-3, 250, 1004, 750], size=(640, 480))
        Box(x0=0.0, y0=120.0, x1=640.0, y1=360.0)
        >>> BoxSpace.NORM1.read([120, 40, 580, 400], size=(640, 480)) is None  # these are pixels
        True
        """
        ends = self._extent(size, resized) * 2
        if not all(-_OVERHANG * end <= value <= (1 + _OVERHANG) * end for value, end in zip(values, ends, strict=True)):
            return None  # a NaN too
        inside = [min(max(value, 0.0), end) for value, end in zip(values, ends, strict=True)]
        return self.to_pixels(inside, size=size, resized=resized)

    def _extent(self, size: tuple[float, float], resized: tuple[float, float] | None) -> tuple[float, float]:
        """Largest x and y of the space."""
        if self is BoxSpace.PIXEL:
            return size
        if self is BoxSpace.RESIZED:
            return size if resized is None else resized
        return (1000.0, 1000.0) if self is BoxSpace.NORM1000 else (1.0, 1.0)

    def _frame(
        self, size: tuple[float, float], resized: tuple[float, float] | None
    ) -> tuple[float, float, float, float]:
        """Pixels per unit in x and y, and the offset of the original image inside the frame, in pixels."""
        width, height = size
        if width <= 0 or height <= 0:
            raise InputError(f"image size must be positive (width, height), got {tuple(size)}")
        if self is BoxSpace.PIXEL:
            return 1.0, 1.0, 0.0, 0.0
        if self is BoxSpace.NORM1000:
            return width / 1000, height / 1000, 0.0, 0.0
        if self is BoxSpace.NORM1:
            return float(width), float(height), 0.0, 0.0
        if self is BoxSpace.PADDED_SQUARE:
            side = float(max(width, height))
            # the model's own preprocessing pads by whole pixels, hence the floor division
            return side, side, float((side - width) // 2), float((side - height) // 2)
        if resized is None:
            raise InputError("box space RESIZED needs resized=(width, height) of the image the model saw")
        return width / resized[0], height / resized[1], 0.0, 0.0


def find_box(text: str, *, corners: bool = False) -> tuple[float, float, float, float] | None:
    """Parse the first box of an answer.

    Works for ``[[a, b, c, d]]`` (InternVL), ``{"bbox_2d": [a, b, c, d]}`` (Qwen2.5-VL) and plain lists (LLaVA).

    Parameters
    ----------
    text : str
        The answer.
    corners : bool
        Whether a box may also be written as ``(a,b),(c,d)``, with or without box tokens around it (Qwen2-VL); the
        first of either form counts.

    Returns
    -------
    tuple of 4 floats, or None
        The numbers as they are written; None for an answer without a box (a miss, counted apart).

    Examples
    --------
    >>> find_box('{"bbox_2d": [12, 30, 80, 95], "label": "cup"}')
    (12.0, 30.0, 80.0, 95.0)
    >>> find_box("(12,30),(80,95)", corners=True)
    (12.0, 30.0, 80.0, 95.0)
    >>> find_box("I see no cup.") is None
    True
    """
    matches = [m for m in (_FOUR_NUMBERS.search(text), corners and _TWO_CORNERS.search(text)) if m]
    if not matches:
        return None
    x0, y0, x1, y1 = (float(g) for g in min(matches, key=lambda m: m.start()).groups())
    return x0, y0, x1, y1
