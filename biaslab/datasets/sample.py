"""One referring expression with its picture and its target box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from PIL import Image

from biaslab.core.boxes import Box

SIZE_CLASSES = ("small", "medium", "large")


@dataclass(frozen=True)
class Sample:
    """A referring expression: find ``box`` in ``image()`` from ``expression``.

    Parameters
    ----------
    id
        Unique in its data set and stable between runs (resuming and per-sample seeds rest on it).
    image_id
        Samples with the same image id share a picture: the unit of the bootstrap.
    expression
        The words, without any prompt.
    box
        Target in pixels of the original image.
    kind
        Kind of the expression (``attribute``, ``location``, ``relation``); empty when the data do not say.
    size_class
        ``small``, ``medium`` or ``large``, by the target's share of the image.
    width, height
        Size of the original image in pixels.
    loader
        Returns the picture (RGB); called anew each time, so nothing is held in memory.
    """

    id: str
    image_id: str
    expression: str
    box: Box
    kind: str
    size_class: str
    width: int
    height: int
    loader: Callable[[], Image.Image] = field(repr=False, compare=False)

    def image(self) -> Image.Image:
        """The picture, RGB. Raises :class:`~biaslab.errors.InputError` when it cannot be read."""
        return self.loader()


def size_class(box: Box, width: float, height: float, edges: tuple[float, float] = (0.05, 0.12)) -> str:
    """``small`` / ``medium`` / ``large`` by the box's share of the image: below, between and from the edges.

    RefCOCO's targets cover about 10 % of their image in the median; COCO's absolute pixel areas would call
    nearly all of them large. The default edges are those of the procedural scenes.
    """
    share = box.area / (width * height)
    return SIZE_CLASSES[(share >= edges[0]) + (share >= edges[1])]
