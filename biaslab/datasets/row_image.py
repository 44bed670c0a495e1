"""The picture of a row of a data set: where it lies, and which way up its box means it.

Boxes of COCO and of many tools are in pixels of the picture as it is *stored*; browsers, and annotators who work in
them, see it *upright*, as its EXIF orientation says. A row tells by its width and height which one is meant:

- They fit the upright picture alone: the picture is upright.
- They fit the stored picture alone (COCO's convention): the picture stays as it is stored, though it lies on its side,
  and the box fits.
- They fit both (the orientation mirrors the picture or turns it upside down, or it is square): the row may say
  ``"orientation": "stored"`` or ``"upright"``; the published splits of RefCOCO, whose pictures are COCO's, are stored.
  Any other sample is an error without verdict, as its box could be anywhere.
- They fit neither: an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from biaslab.core.images import image_orientation, image_size, load_image
from biaslab.core.picture_files import as_stored
from biaslab.datasets.data_root import VARIABLE, not_there
from biaslab.errors import InputError

__all__ = ["ORIENTATIONS", "RowImage"]

ORIENTATIONS = ("stored", "upright")


@dataclass(frozen=True)
class RowImage:
    """Opens a row's image; a plain object, not a closure, so that samples can go to other processes.

    Parameters
    ----------
    folders : tuple of Path
        Where it is looked for.
    image : str
        The row's path.
    size : (width, height)
        The row's, in pixels.
    orientation : {"stored", "upright"}, optional
        Which way up the row means it, where its size does not tell.
    """

    folders: tuple[Path, ...]
    image: str
    size: tuple[int, int]
    orientation: str | None = None

    def __call__(self) -> Image.Image:
        """Open the image, the way up that the row means."""
        path = self.path()
        image = load_image(path)
        tag = image_orientation(path)
        return as_stored(image, tag) if self._is_stored(path, image.size, tag) else image

    def check(self) -> None:
        """Refuse, from the header alone, what calling would refuse for its size or orientation."""
        path = self.path()
        self._is_stored(path, image_size(path), image_orientation(path))

    def path(self) -> Path:
        """Find the file: by its path, without the ``data/`` that some files begin with, or by its bare name."""
        path = next((path for path in self._choices() if path.is_file()), None)
        if path is None:
            fix = f"name its folder as images (--image-root) or data_root (--data-root, {VARIABLE})"
            raise not_there(f"image not found: {self.image}", self._choices(), fix)
        return path

    def _choices(self) -> list[Path]:
        names = (self.image, self.image.removeprefix("data/"), PurePosixPath(self.image).name)
        return [folder / name for folder in self.folders for name in names]

    def _is_stored(self, path: Path, upright: tuple[int, int], tag: int) -> bool:
        """Whether the box is in pixels of the stored picture."""
        stored = upright[::-1] if tag >= 5 else upright
        fits = {"upright": upright == self.size, "stored": stored == self.size}
        if not any(fits.values()):
            raise InputError(
                f"image {path} is {upright[0]}x{upright[1]}, its row says {self.size[0]}x{self.size[1]}: the box would "
                "not fit; use the original picture"
            )
        if tag == 1:
            return False
        if all(fits.values()) and self.orientation is None:
            raise InputError(
                f"image {path} has EXIF orientation {tag}, and its row's size fits it upright and as it is stored: "
                'write "orientation": "upright" or "stored" into the row, or save the picture upright'
            )
        return self.orientation == "stored" if all(fits.values()) else fits["stored"]
