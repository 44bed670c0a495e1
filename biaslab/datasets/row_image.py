"""The image of a row of a data set, and which way up its box means it.

Boxes of COCO and of many tools are in pixels of the image as it is *stored*; browsers, and annotators who work in
them, see it *upright*, as its EXIF orientation says. A row tells by its width and height which one is meant:

- They fit the upright image alone: the image is upright.
- They fit the stored image alone (COCO's convention): the image stays as it is stored, though it lies on its side,
  and the box fits.
- They fit both (the orientation mirrors the image or turns it upside down, or it is square), or the row has none: it
  may say ``"orientation": "stored"`` or ``"upright"``; forms whose images are COCO's, and the published splits of
  RefCOCO, mean the stored one. Any other sample is an error without verdict, as its box could be anywhere.
- They fit neither: an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from biaslab.core.images import image_orientation, image_size, load_image
from biaslab.core.picture_files import as_stored
from biaslab.errors import InputError

__all__ = ["ORIENTATIONS", "RowImage", "RowPicture", "stated_size"]

ORIENTATIONS = ("stored", "upright")


class RowPicture(Protocol):
    """A row's image, found when it is asked for."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    def find(self) -> Path | bytes:
        """Return the path of its file, or the file's content; an InputError where there is none."""
        ...


@dataclass(frozen=True)
class RowImage:
    """Opens a row's image; a plain object, not a closure, so that samples can go to other processes.

    Parameters
    ----------
    picture : RowPicture
        Where it is.
    size : (width, height), optional
        The row's, in pixels; None where it does not say.
    orientation : {"stored", "upright"}, optional
        Which way up the row means it, where its size does not tell.
    """

    picture: RowPicture
    size: tuple[int, int] | None
    orientation: str | None = None

    def __call__(self) -> Image.Image:
        """Open the image, the way up that the row means."""
        found = self.picture.find()
        image = load_image(found)
        tag = image_orientation(found)
        return as_stored(image, tag) if self._is_stored(found, image.size, tag) else image

    def check(self) -> None:
        """Refuse, from the header alone, what calling would refuse for its size or orientation."""
        found = self.picture.find()
        self._is_stored(found, image_size(found), image_orientation(found))

    def _is_stored(self, found: Path | bytes, upright: tuple[int, int], tag: int) -> bool:
        """Whether the box is in pixels of the stored image."""
        name = found if isinstance(found, Path) else self.picture.name
        stored = upright[::-1] if tag >= 5 else upright
        fits = {"upright": self.size in (None, upright), "stored": self.size in (None, stored)}
        if self.size is not None and not any(fits.values()):
            raise InputError(
                f"image {name} is {upright[0]}x{upright[1]}, its row says {self.size[0]}x{self.size[1]}: the box would "
                "not fit; use the original image"
            )
        if tag == 1:
            return False
        if all(fits.values()) and self.orientation is None:
            which = "has no size" if self.size is None else "'s size fits it upright and as it is stored"
            raise InputError(
                f"image {name} has EXIF orientation {tag}, and its row{' ' * (self.size is None)}{which}: "
                'write "orientation": "upright" or "stored" into the row, or save the image upright'
            )
        return self.orientation == "stored" if all(fits.values()) else fits["stored"]


def stated_size(picture: RowPicture, orientation: str | None) -> tuple[int, int]:
    """Read the size that the box of a row without one refers to, from the image's header.

    Raises
    ------
    InputError
        No such image, or it cannot be read.
    """
    found = picture.find()
    size = image_size(found)
    return size[::-1] if orientation == "stored" and image_orientation(found) >= 5 else size
