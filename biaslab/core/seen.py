"""An image that a model has been shown, for whoever draws over it afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from biaslab.core.layout import TokenLayout

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["SeenImage"]


@dataclass(frozen=True, eq=False, repr=False)
class SeenImage:
    """Where the tokens of an image lie, and the image as long as somebody else holds it.

    Parameters
    ----------
    layout : TokenLayout
    prompt : int
        Its prompt in the batch.
    columns : (first, last + 1)
        Its columns among the visual tokens of that prompt.
    reference : weak reference, or None
        Of the image: what captured attention holds on to must not keep images in memory.
    """

    layout: TokenLayout
    prompt: int
    columns: tuple[int, int]
    reference: Callable[[], Image | None] | None = None

    @property
    def image(self) -> Image | None:
        """The image; None where nobody holds it any more."""
        return None if self.reference is None else self.reference()

    def __repr__(self) -> str:
        return f"SeenImage({self.layout.key}, prompt={self.prompt})"
