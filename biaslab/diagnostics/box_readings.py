"""One answer, read in every coordinate space and every order of its four numbers.

For diagnosis alone: a model's answers are read in the space of its family, which is never guessed from the numbers
(:class:`biaslab.core.boxes.BoxSpace`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from biaslab.core.boxes import Box, BoxSpace, find_box

__all__ = ["FORMS", "READINGS", "SPACES", "Reading", "four_numbers"]

Size = tuple[float, float]
_LOCATIONS = re.compile(r"<loc(\d{1,4})>\s*<loc(\d{1,4})>\s*<loc(\d{1,4})>\s*<loc(\d{1,4})>")
_NUMBER = r"(-?\d+(?:\.\d+)?)"
_ANY_FOUR = re.compile(rf"{_NUMBER}[^\d]{{1,12}}?{_NUMBER}[^\d]{{1,12}}?{_NUMBER}[^\d]{{1,12}}?{_NUMBER}")

#: space -> what it is called
SPACES = {
    "pixel": "pixels of the image",
    "resized": "pixels of the resized image",
    "norm1000": "0-1000",
    "norm1": "0-1",
    "norm100": "0-100",
    "norm1024": "0-1024",
    "padded_square": "0-1 of the padded square",
    "padded_square_pixel": "pixels of the padded square",
    "padded_square_1000": "0-1000 of the padded square",
}
#: order of the numbers -> what it is called
FORMS = {
    "xyxy": "x0, y0, x1, y1",
    "yxyx": "y before x",
    "xywh": "x, y, width, height",
    "cxcywh": "centre, width, height",
}
#: space -> the `BoxSpace` that it is, in steps of its unit; what is not here is one itself
_SCALED = {
    "norm100": (BoxSpace.NORM1, 100.0),
    "norm1024": (BoxSpace.NORM1, 1024.0),
    "padded_square_1000": (BoxSpace.PADDED_SQUARE, 1000.0),
}


def four_numbers(text: str) -> tuple[float, float, float, float] | None:
    """Find the first four numbers of an answer that can be a box, in whatever form.

    Parameters
    ----------
    text : str

    Returns
    -------
    tuple of 4 floats, or None
        As they are written.

    Examples
    --------
    >>> from biaslab.diagnostics.box_readings import four_numbers
    >>> four_numbers("It is at (12,30),(80,95)."), four_numbers("<loc0100><loc0200><loc0300><loc0400> cup")
    ((12.0, 30.0, 80.0, 95.0), (100.0, 200.0, 300.0, 400.0))
    >>> four_numbers("x0=12, y0=30, x1=80, y1=95"), four_numbers("There are 2 cups.")
    ((12.0, 30.0, 80.0, 95.0), None)
    """
    if (found := find_box(text, corners=True)) is not None:
        return found
    # names such as x0 hold digits that are none of the box's numbers
    match = _LOCATIONS.search(text) or _ANY_FOUR.search(re.sub(r"[A-Za-z_]+\d*\s*[=:]", " ", text))
    if match is None:
        return None
    x0, y0, x1, y1 = (float(group) for group in match.groups())
    return x0, y0, x1, y1


@dataclass(frozen=True)
class Reading:
    """A way to read four numbers as a box.

    Attributes
    ----------
    space : str
        One of `SPACES`.
    form : str
        One of `FORMS`.

    Examples
    --------
    >>> from biaslab.diagnostics.box_readings import Reading
    >>> Reading("norm1000", "yxyx").box((250, 500, 750, 1000), size=(640, 480))
    Box(x0=320.0, y0=120.0, x1=640.0, y1=360.0)
    >>> Reading("norm1", "xyxy").box((250, 500, 750, 1000), size=(640, 480)) is None
    True
    >>> print(Reading("norm1000", "yxyx"))
    0-1000, y before x
    """

    space: str
    form: str

    def __str__(self) -> str:
        return SPACES[self.space] + ("" if self.form == "xyxy" else f", {FORMS[self.form]}")

    @property
    def is_plain(self) -> bool:
        """Whether it is one of `BoxSpace`, with the corners' x before y."""
        return self.form == "xyxy" and self.space in {each.value for each in BoxSpace}

    def box(self, values: Sequence[float], *, size: Size, resized: Size | None = None) -> Box | None:
        """Read the numbers; as `BoxSpace.read`, numbers far outside the space are no box.

        Parameters
        ----------
        values : sequence of 4 floats
            As an answer has them.
        size : (width, height)
            Of the image, pixels.
        resized : (width, height), optional
            Of the image as the model saw it.

        Returns
        -------
        Box or None
            In pixels of the image.
        """
        space, steps = _space(self.space, size)
        return space.read([value / steps for value in _corners(values, self.form)], size=size, resized=resized or size)


#: all of them; what models are known to answer in first
READINGS = tuple(Reading(space, form) for form in FORMS for space in SPACES)


def _corners(values: Sequence[float], form: str) -> tuple[float, float, float, float]:
    a, b, c, d = (float(value) for value in values)
    if form == "xywh":
        return a, b, a + c, b + d
    if form == "cxcywh":
        return a - c / 2, b - d / 2, a + c / 2, b + d / 2
    return (a, b, c, d) if form == "xyxy" else (b, a, d, c)


def _space(name: str, size: Size) -> tuple[BoxSpace, float]:
    if name == "padded_square_pixel":
        return BoxSpace.PADDED_SQUARE, float(max(size))
    return _SCALED[name] if name in _SCALED else (BoxSpace(name), 1.0)
