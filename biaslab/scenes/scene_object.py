"""One object of a scene."""

from __future__ import annotations

from dataclasses import dataclass

from biaslab.core.boxes import Box
from biaslab.scenes.backgrounds import CANVAS


@dataclass(frozen=True)
class SceneObject:
    """An object of a scene; `box` is the tight box of what is visible of it, in pixels."""

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
        """small, medium or large: below 5 %, 5 to 12 %, above 12 % of the canvas."""
        share = self.box.area / CANVAS**2
        return "small" if share < 0.05 else "medium" if share < 0.12 else "large"
