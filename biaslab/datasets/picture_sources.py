"""Images from wherever a user has them: a folder, an archive, a data set of referring expressions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from biaslab._util.text import printable
from biaslab.core.picture_files import suffixes
from biaslab.datasets.archives import ArchivePicture, archive_pictures, is_archive
from biaslab.datasets.base import Dataset
from biaslab.datasets.data_root import find_path
from biaslab.datasets.image_sources import find_images
from biaslab.datasets.loading import load_dataset
from biaslab.datasets.opening import is_hub_folder, looks_like_hub, refer_file
from biaslab.datasets.sample import Sample
from biaslab.errors import InputError

__all__ = ["PictureSource"]


@dataclass(frozen=True)
class PictureSource:
    """What a user names as the source of images; nothing is read before it is asked for.

    Parameters
    ----------
    source : str or Path
        A folder of images, a single one, a .zip or .tar of them (read without unpacking), or any data set that
        `biaslab.load_dataset` opens.
    data_root : Path, optional
        Folder below which a relative source is looked up too.
    split, columns, images : optional
        Of a data set, as for `biaslab.load_dataset`.
    """

    source: str | Path
    data_root: Path | None = None
    split: str | None = None
    columns: str | None = None
    images: str | Path | None = None

    @cached_property
    def path(self) -> Path | None:
        """Where it lies; None where nothing of this name is on this machine."""
        return find_path(self.source, self.data_root)

    @cached_property
    def is_dataset(self) -> bool:
        """Whether it is a data set, and no folder or archive of images."""
        path = self.path
        if path is None:
            return looks_like_hub(str(self.source))
        if path.is_dir():
            return is_hub_folder(path) or refer_file(path) != path
        return path.suffix.lower() not in suffixes() and not is_archive(path)

    def dataset(self) -> Dataset:
        """Open the data set."""
        options = {"split": self.split, "columns": self.columns, "images": self.images}
        return load_dataset(self.source, data_root=self.data_root, **options)

    def expressions(self, n: int | None = None) -> dict[str, list[Sample]]:
        """List a data set's samples image by image, each expression of an image once.

        Parameters
        ----------
        n : int, optional
            The first images only.

        Returns
        -------
        dict
            Image id -> samples, both in the order of the data set.
        """
        found: dict[str, dict[str, Sample]] = {}
        for sample in self.dataset():
            found.setdefault(sample.image_id, {}).setdefault(sample.expression, sample)
        return {image_id: list(samples.values()) for image_id, samples in islice(found.items(), n)}

    def check_options(self) -> None:
        """Refuse, of a folder or archive of images, what only data sets have."""
        given = [name for name in ("split", "columns", "images") if getattr(self, name) is not None]
        if given and not self.is_dataset:
            raise InputError(f"{self.source} is no data set: leave {', '.join(given)} out")

    def below(self, picture: Any) -> str:
        """Name an image of a folder or archive by its path in there."""
        if isinstance(picture, ArchivePicture):
            return printable(picture.member)
        path = self.path or Path(self.source)
        return printable(picture.relative_to(path).as_posix() if path.is_dir() else picture.name)

    def pictures(self, n: int | None = None) -> Sequence[Any]:
        """List the images, each once: paths, images in archives, or the first sample of each image.

        Parameters
        ----------
        n : int, optional
            The first ones only.

        Raises
        ------
        InputError
            There are none.
        """
        if self.is_dataset:
            return [samples[0] for samples in self.expressions(n).values()]
        self.check_options()
        path = self.path or Path(self.source)
        if is_archive(path):
            found = archive_pictures(path)
            if not found:
                raise InputError(f"no image in {path}: give an archive of JPEG, PNG or other images")
            return found[:n]
        return find_images(path, n=n)
