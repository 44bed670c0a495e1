"""One object of a scene."""

from __future__ import annotations

from dataclasses import dataclass

from biaslab.core.boxes import Box
from biaslab.scenes.backgrounds import CANVAS


@dataclass(frozen=True)
class SceneObject:
    """An object of a scene.

    Attributes
    ----------
    name : str
        One English word, such as "elephant".
    size : {"small", "big"}
        The size word that fits it.
    colour : str or None
        The colour word that fits it, of objects that come in several colours.
    box : Box
        Tight box of what is visible of it, pixels.

    Examples
    --------
    >>> from biaslab.core.boxes import Box
    >>> from biaslab.scenes import SceneObject
    >>> thing = SceneObject("car", "small", "red", Box(0, 112, 56, 168))
    >>> thing.centre, thing.object_size
    ((0.125, 0.625), 'medium')
    """

    name: str
    size: str
    colour: str | None
    box: Box

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the box in fractions of the canvas."""
        x, y = self.box.center
        return x / CANVAS, y / CANVAS

    @property
    def object_size(self) -> str:
        """Size in the table of results, small, medium or large: below 5 %, 5 to 12 %, above 12 % of the canvas."""
        share = self.box.area / CANVAS**2
        return "small" if share < 0.05 else "medium" if share < 0.12 else "large"
