"""RefCOCO, RefCOCO+ and RefCOCOg in the jsonl form of the InternVL and Qwen-VL evaluations.

One row per expression, the convention of the published tables::

    {"image": "coco/train2014/COCO_train2014_000000000009.jpg", "sent": "left bowl",
     "bbox": [x1, y1, x2, y2], "width": 640, "height": 480}

``bbox`` is in pixels of the original image. Images are opened only when asked for.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from PIL import Image

from biaslab.core.boxes import Box
from biaslab.core.images import load_image
from biaslab.datasets.base import content_hash, register
from biaslab.datasets.data_root import VARIABLE, find_file, find_folder, not_there, places
from biaslab.datasets.sample import Sample, object_size
from biaslab.errors import InputError

logger = logging.getLogger(__name__)

# Expressions per published split: a file of another size does not give the published accuracy.
PUBLISHED_SIZES = {
    "refcoco_val": 10_834,
    "refcoco_testA": 5_657,
    "refcoco_testB": 5_095,
    "refcoco+_val": 10_758,
    "refcoco+_testA": 5_726,
    "refcoco+_testB": 4_889,
    "refcocog_val": 4_896,
    "refcocog_test": 9_602,
}


@register("refcoco-jsonl")
class RefCocoJsonl:
    """Expressions of one jsonl file.

    Parameters
    ----------
    path : str or Path
        The jsonl file; its stem (``refcoco_val``) names the split.
    images : str or Path, optional
        Folder the rows' ``image`` paths are relative to, and the only one where images are looked for; default:
        the folder of the jsonl file, then ``data_root``. An image is also found there by its bare file name, or
        without the ``data/`` that the paths of some files begin with.
    name : str
        Name in result tables.
    data_root : str or Path, optional
        Folder below which a relative ``path`` or ``images`` is looked up too.

    Raises
    ------
    InputError
        If the file is missing, or a row is no JSON, lacks a field, has an empty expression or a box without
        area; the message names the line. A missing or damaged image is no error here: it becomes one when
        the sample's image is asked for, so that a run can count it.

    Examples
    --------
    >>> import tempfile
    >>> row = {"image": "a.png", "sent": "left cat", "bbox": [0, 0, 32, 24], "width": 64, "height": 48}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "cats_val.jsonl"
    ...     _ = file.write_text(json.dumps(row))
    ...     Image.new("RGB", (64, 48)).save(Path(folder) / "a.png")
    ...     data = RefCocoJsonl(file)
    ...     data.split, data[0].id, data[0].object_size, data[0].image().size
    ('cats_val', 'cats_val-000000', 'large', (64, 48))
    """

    def __init__(
        self,
        path: str | Path,
        *,
        images: str | Path | None = None,
        name: str = "refcoco-jsonl",
        data_root: str | Path | None = None,
    ) -> None:
        root = None if data_root is None else Path(data_root)
        self.path = find_file(path, root) or Path(path)
        if images is None:
            self._where = {"images": self.path.parent} if root is None else {"data_root": root}
            self._folders = (self.path.parent, *([] if root is None else [root]))
        else:
            self._where = {"images": find_folder(images, root) or Path(images)}
            self._folders = tuple(places(images, root))
        self.name, self.split = name, self.path.stem
        try:
            lines = self.path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {self.path} ({error}): pass a RefCOCO jsonl file") from error
        self._samples = [self._sample(i, line) for i, line in enumerate(lines) if line.strip()]
        if not self._samples:
            raise InputError(f"{self.path} has no rows: pass a RefCOCO jsonl file")
        expected = PUBLISHED_SIZES.get(self.split)
        if expected not in (None, len(self)):
            logger.warning(
                "%s has %d expressions, the published split %d: accuracies differ from the published ones",
                self.path,
                len(self),
                expected,
            )

    @property
    def recipe(self) -> dict[str, str]:
        """What ``load_dataset("refcoco-jsonl", ...)`` needs to find the same data."""
        return {key: str(value.absolute()) for key, value in {"path": self.path, **self._where}.items()}

    @cached_property
    def hash(self) -> str:
        """Hash of the ids, expressions and boxes."""
        return content_hash(self)

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]

    def _sample(self, index: int, line: str) -> Sample:
        where = f"{self.path}, line {index + 1}"
        try:
            row = json.loads(line)
            image, sentence = row["image"], row["sent"]
            width, height = int(row["width"]), int(row["height"])
            box = Box(*(float(v) for v in row["bbox"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{where}: not a row of image, sent, bbox [x1, y1, x2, y2], width, height ({error!r})"
            ) from error
        if not isinstance(image, str) or not isinstance(sentence, str) or not sentence.strip():
            raise InputError(f"{where}: image and sent must be non-empty texts")
        if not (box.x1 > box.x0 and box.y1 > box.y0 and width > 0 and height > 0):
            raise InputError(f"{where}: box {row['bbox']} has no area; bbox is [x1, y1, x2, y2] in pixels")
        return Sample(
            id=f"{self.split}-{index:06d}",
            image_id=image,
            expression=sentence.strip(),
            box=box,
            expression_type="",
            object_size=object_size(box, width, height),
            width=width,
            height=height,
            loader=_ImageFile(self._folders, image, (width, height)),
        )


@dataclass(frozen=True)
class _ImageFile:
    """Opens a row's image; a plain object, not a closure, so that samples can go to other processes."""

    folders: tuple[Path, ...]
    image: str
    size: tuple[int, int]

    def __call__(self) -> Image.Image:
        path = self._path()
        image = load_image(path)
        if image.size != self.size:
            raise InputError(
                f"image {path} is {image.width}x{image.height}, its row says "
                f"{self.size[0]}x{self.size[1]}: the box would not fit; use the original picture"
            )
        return image

    def _path(self) -> Path:
        names = (self.image, self.image.removeprefix("data/"), PurePosixPath(self.image).name)
        choices = [folder / name for folder in self.folders for name in names]
        path = next((path for path in choices if path.is_file()), None)
        if path is None:
            fix = f"name its folder as images (--image-root) or data_root (--data-root, {VARIABLE})"
            raise not_there(f"image not found: {self.image}", choices, fix)
        return path
