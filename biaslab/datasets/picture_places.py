"""Where the images of rows lie: folders and archives, under the names that data sets give them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from biaslab.datasets.archives import is_archive, member_names, read_member
from biaslab.datasets.coco_names import spellings
from biaslab.datasets.data_root import VARIABLE, not_there

__all__ = ["PicturePlaces", "PlacedPicture"]


@dataclass(frozen=True)
class PicturePlaces:
    """The folders and archives that images are looked for in, in this order."""

    roots: tuple[Path, ...]

    def find(self, name: str) -> Path | bytes:
        """Find an image: a file's path, or what an archive holds.

        Raises
        ------
        InputError
            It is in none of the places; the message names the first ones and the fix.
        """
        names = spellings(name)
        for root in self.roots:
            if is_archive(root):
                if (member := _member(root, names)) is not None:
                    return read_member(root, member)
            elif (path := next((root / spelt for spelt in names if (root / spelt).is_file()), None)) is not None:
                return path
        fix = f"name its folder or archive as images (--image-root) or data_root (--data-root, {VARIABLE})"
        raise not_there(f"image not found: {name}", [root / spelt for root in self.roots for spelt in names[:3]], fix)


@dataclass(frozen=True)
class PlacedPicture:
    """The image of a row that names its file."""

    places: PicturePlaces
    name: str

    def find(self) -> Path | bytes:
        """Return the file's path, or its content where it lies in an archive."""
        return self.places.find(self.name)


def _member(root: Path, names: list[str]) -> str | None:
    """Find a member by any of its spellings, itself or in the one folder that an archive may have around all."""
    members = member_names(root)
    top = f"{root.stem}{os.sep}".replace(os.sep, "/")
    return next((found for name in names for found in (name, top + name) if found in members), None)
