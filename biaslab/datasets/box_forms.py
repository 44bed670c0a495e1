"""What the four numbers of a box mean, and the refusal of a file whose numbers say otherwise.

A reader states the form of its numbers (``box_form``); it is never guessed. The numbers are only held against it, over
the whole file: a box without area, one outside its image, or one smaller than a pixel in the first pixel cannot be
what the reader says. If another form explains every box, the message names it. What is possible in both forms in every
row cannot be told: thousandths of images larger than 1000 pixels, y before x in square images.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from biaslab.core.boxes import BoxSpace
from biaslab.errors import InputError

__all__ = ["FORMS", "BoxForm", "check_boxes", "warn_if_unlikely"]

OVERHANG = 1.0  # pixels that a box may lie over the edge: rounding, and width taken for the last pixel
_TOLERANCE = 1e-6
_LISTED = 3  # rows that a message names
_ENOUGH = 5  # rows from which a file of nothing but first pixels is one of fractions
_SHARE = 0.1  # of bad rows from which the whole file is judged
_UNLIKELY = 1e-3  # probability of the good rows below which a form is not named
_FRACTIONS = (BoxSpace.NORM1, BoxSpace.PADDED_SQUARE)
_CHANCE = 1e-6  # probability that an honest file looks so by accident, below which it is warned about


@dataclass(frozen=True)
class BoxForm:
    """The form of four numbers.

    Attributes
    ----------
    words : str
        What the numbers are, for messages.
    space : BoxSpace
        Their unit.
    corners : callable
        (n, 4) numbers -> (n, 4) x0, y0, x1, y1 in that unit.
    fix : str
        How numbers of this form are turned into corners in pixels.
    """

    words: str
    space: BoxSpace
    corners: Callable[[np.ndarray], np.ndarray]
    fix: str

    @property
    def in_pixels(self) -> bool:
        """Whether the numbers mean pixels, so that they can be read without the image's size."""
        return self.space is BoxSpace.PIXEL

    def to_pixels(self, boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Corners (n, 4) in pixels of images whose (n, 2) width and height are ``sizes``."""
        if self.space is BoxSpace.PADDED_SQUARE:
            side = sizes.max(1, keepdims=True)
            return self.corners(boxes) * side - np.tile((side - sizes) // 2, 2)
        unit = {BoxSpace.PIXEL: np.ones_like(sizes), BoxSpace.NORM1: sizes, BoxSpace.NORM1000: sizes / 1000}[self.space]
        return self.corners(boxes) * np.tile(unit, 2)


def _xywh(b: np.ndarray) -> np.ndarray:
    return np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], 1)


def _centred(b: np.ndarray) -> np.ndarray:
    return np.concatenate([b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], 1)


def _same(b: np.ndarray) -> np.ndarray:
    return b


_SCALE = "multiply x by width{0} and y by height{0}"
#: name -> form; the likeliest first, as a message names the first that explains every box
FORMS: dict[str, BoxForm] = {
    "xyxy": BoxForm("x1, y1, x2, y2 in pixels", BoxSpace.PIXEL, _same, ""),
    "xyxy_norm1": BoxForm("fractions of the image (0-1)", BoxSpace.NORM1, _same, _SCALE.format("")),
    "xyxy_square1": BoxForm(
        "fractions of the image padded to a square (0-1, LLaVA)",
        BoxSpace.PADDED_SQUARE,
        _same,
        "multiply by the longer side and take half of what was padded from x or y",
    ),
    "xywh_norm1": BoxForm(
        "fractions x, y, w, h (0-1)", BoxSpace.NORM1, _xywh, _SCALE.format("") + ", then add w and h"
    ),
    "cxcywh_norm1": BoxForm(
        "fractions cx, cy, w, h (0-1, YOLO)",
        BoxSpace.NORM1,
        _centred,
        _SCALE.format("") + ", then cx -+ w/2, cy -+ h/2",
    ),
    "xywh": BoxForm("x, y, w, h in pixels (COCO)", BoxSpace.PIXEL, _xywh, "write [x, y, x + w, y + h]"),
    "yxyx": BoxForm("y1, x1, y2, x2", BoxSpace.PIXEL, lambda b: b[:, [1, 0, 3, 2]], "swap x and y"),
    "cxcywh": BoxForm(
        "cx, cy, w, h in pixels", BoxSpace.PIXEL, _centred, "write [cx - w/2, cy - h/2, cx + w/2, cy + h/2]"
    ),
    "xyxy_norm1000": BoxForm("thousandths of the image (0-1000)", BoxSpace.NORM1000, _same, _SCALE.format(" / 1000")),
    "xywh_norm1000": BoxForm(
        "thousandths x, y, w, h (0-1000)", BoxSpace.NORM1000, _xywh, _SCALE.format(" / 1000") + ", then add w and h"
    ),
}


def check_boxes(
    boxes: ArrayLike, sizes: ArrayLike, rows: Sequence[str], *, source: str, form: str = "xyxy", field: str = "bbox"
) -> None:
    """Refuse boxes that contradict the form they are read in.

    Parameters
    ----------
    boxes : array_like
        (n, 4) finite numbers as they stand in the file.
    sizes : array_like
        (n, 2) width and height of their images, in pixels.
    rows : sequence of n str
        Names of the rows, for the message: "line 7".
    source : str
        Name of the file or data set, for the message.
    form : str
        Name in :data:`FORMS`.
    field : str
        What the box is called there.

    Raises
    ------
    InputError
        A box has no area, or lies more than a pixel outside its image, or is smaller than a pixel in the image's
        first pixel; the message names the rows and, if one explains all of them, the likely form.

    Examples
    --------
    >>> check_boxes([[10, 20, 60, 80], [100, 90, 20, 30]], [[224, 224]] * 2, ["line 1", "line 2"], source="cats.jsonl")
    Traceback (most recent call last):
    biaslab.errors.InputError: cats.jsonl, line 2: bbox [100, 90, 20, 30] has no area, ...
    """
    boxes, sizes = np.asarray(boxes, float).reshape(-1, 4), np.asarray(sizes, float).reshape(-1, 2)
    stated = FORMS[form]
    bad = ~_possible(stated, boxes, sizes)
    if stated.space is BoxSpace.PIXEL:
        bad |= _below_a_pixel(boxes, sizes)
    if not bad.any():
        return
    first, *others = np.flatnonzero(bad).tolist()
    text = f"{source}, {rows[first]}: {field} {_numbers(boxes[first])} {_fault(stated, boxes[first], sizes[first])}"
    if others:
        listed = ", ".join(rows[i] for i in others[: _LISTED - 1])
        more = len(others) - len(others[: _LISTED - 1])
        text += f" (and {len(others)} more of {len(boxes)} rows are wrong: {listed}{', ...' if more else ''})"
    raise InputError(f"{text}; {field} is {stated.words}{_likely(boxes, sizes, bad, form)}")


def _possible(form: BoxForm, boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which boxes have an area and lie inside their image, but for a pixel."""
    corners = form.to_pixels(boxes, sizes)
    edges = np.tile(sizes, 2)
    inside = ((corners >= -OVERHANG - _TOLERANCE) & (corners <= edges + OVERHANG + _TOLERANCE)).all(1)
    cut = corners.clip(0, edges)
    return np.asarray(inside & (cut[:, 2:] > cut[:, :2]).all(1))


def _below_a_pixel(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which boxes are a part of a larger image's first pixel, or all of it in a file of nothing but first pixels."""
    first = np.asarray(((boxes >= 0) & (boxes <= 1)).all(1) & (sizes > 1).any(1))
    if len(boxes) >= _ENOUGH and first.all():
        return first
    return first & (boxes % 1 != 0).any(1)


def _fault(form: BoxForm, box: np.ndarray, size: np.ndarray) -> str:
    width, height = (f"{v:.10g}" for v in size)
    x0, y0, x1, y1 = form.to_pixels(box[None], size[None])[0]
    if not (x1 > x0 and y1 > y0):
        return f"has no area, in an image of {width}x{height}"
    if _possible(form, box[None], size[None])[0]:
        return f"is no larger than the first pixel of its {width}x{height} image"
    return f"lies outside its {width}x{height} image"


def _likely(boxes: np.ndarray, sizes: np.ndarray, bad: Any, stated: str) -> str:
    """Name the first other form that explains every row; where few rows are bad, they alone may be fractions.

    Pixels of an image of less than 1000 are possible as thousandths too, so a few bad rows are no evidence.
    """
    others = {name: form for name, form in FORMS.items() if name != stated}
    if bad.sum() >= _SHARE * len(bad) or len(bad) < _ENOUGH:
        rows, they = slice(None), "it looks" if len(bad) == 1 else "they look"
    else:
        others = {name: form for name, form in others.items() if form.space in _FRACTIONS}
        rows, they = bad, "it looks" if bad.sum() == 1 else "these look"
    for form in others.values():
        if form.space is BoxSpace.NORM1000 and _by_chance_in_pixels(sizes[~bad]) < _UNLIKELY:
            continue
        if _explains(form, boxes[rows], sizes[rows]):
            return f"; {they} like {form.words}: {form.fix}"
    return f": correct or remove {'it' if bad.sum() == 1 else 'them'}"


def _by_chance_in_pixels(sizes: np.ndarray) -> float:
    """Probability that boxes in thousandths of these images end inside them if read as pixels."""
    return float(np.prod(np.minimum(sizes / 1000, 1)))


def _explains(form: BoxForm, boxes: np.ndarray, sizes: np.ndarray) -> bool:
    if form.space in _FRACTIONS and (boxes > 1.01).any():
        return False
    if form.space is BoxSpace.PIXEL and _below_a_pixel(boxes, sizes).any():
        return False
    return bool(_possible(form, boxes, sizes).all())


def warn_if_unlikely(boxes: ArrayLike, sizes: ArrayLike, *, source: str, form: str = "xyxy") -> None:
    """Warn where every box is possible, and every one in another form too, as one honest file in a million would be.

    Parameters
    ----------
    boxes, sizes, source, form
        As for :func:`check_boxes`, which has accepted them.
    """
    boxes, sizes = np.asarray(boxes, float).reshape(-1, 4), np.asarray(sizes, float).reshape(-1, 2)
    quarter = 0.25 ** len(boxes)
    chances = {
        # every box has its centre in the upper left quarter; none reaches beyond 1000 pixels
        "xyxy": {"xywh": quarter, "xyxy_norm1000": float(np.prod(np.minimum(1000 / sizes, 1)))},
        "xywh": {"xyxy": quarter},  # every box is wider and higher than its distance from the edges
    }
    chance = chances.get(form, {})
    for name, by_chance in chance.items():
        other = FORMS[name]
        if by_chance < _CHANCE and _possible(other, boxes, sizes).all():
            warnings.warn(
                f"{source}: all {len(boxes)} boxes would also be possible as {other.words}; if they are, "
                f"{other.fix or 'say so: box=xyxy:COLUMN in --columns'}",
                stacklevel=2,
            )
            return


def _numbers(box: np.ndarray) -> str:
    return f"[{', '.join(f'{v:.5g}' for v in box)}]"
