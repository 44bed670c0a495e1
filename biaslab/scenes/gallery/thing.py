"""One object of an image of the gallery."""

from __future__ import annotations

import math
from dataclasses import dataclass

from biaslab.core.boxes import Box


@dataclass(frozen=True)
class Thing:
    """An object of an image.

    Attributes
    ----------
    name : str
        One English word; ``"sign"`` for the sign.
    size : {"small", "big"} or None
        The size word that fits it; None between the two, where people would differ.
    colour : str or None
        The colour word that fits it, of objects that come in several colours.
    box : Box
        Tight box of what is visible of it, pixels.
    picture_size : (int, int)
        Width and height of the image.
    style : str
        The set that it is drawn in.

    Examples
    --------
    >>> from biaslab.core.boxes import Box
    >>> from biaslab.scenes.gallery import Thing
    >>> thing = Thing("car", "small", "red", Box(0, 100, 50, 150), (400, 200), "noto")
    >>> thing.centre, thing.object_size, round(thing.share_of_side, 3)
    ((0.0625, 0.625), 'small', 0.177)
    """

    name: str
    size: str | None
    colour: str | None
    box: Box
    picture_size: tuple[int, int]
    style: str

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the box in fractions of the image."""
        x, y = self.box.center
        return x / self.picture_size[0], y / self.picture_size[1]

    @property
    def share_of_side(self) -> float:
        """Long side of the box over the side of a square as large as the image."""
        return max(self.box.width, self.box.height) / math.sqrt(self.picture_size[0] * self.picture_size[1])

    @property
    def object_size(self) -> str:
        """Size in the table of results, small, medium or large: below 5 %, 5 to 12 %, above 12 % of the image."""
        share = self.box.area / (self.picture_size[0] * self.picture_size[1])
        return "small" if share < 0.05 else "medium" if share < 0.12 else "large"
