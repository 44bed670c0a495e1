"""RefCOCO, RefCOCO+ and RefCOCOg in the jsonl form of the InternVL and Qwen-VL evaluations.

One row per expression, the convention of the published tables::

    {"image": "coco/train2014/COCO_train2014_000000000009.jpg", "sent": "left bowl",
     "bbox": [x1, y1, x2, y2], "width": 640, "height": 480}

``bbox`` is in pixels of the original image; width and height say whether of the upright picture or of the stored one
(`biaslab.datasets.row_image`). Images are opened only when asked for.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from biaslab._util.text import printable, why_unreadable
from biaslab.core.boxes import Box
from biaslab.datasets.annotation_rows import Row, read_rows
from biaslab.datasets.base import content_hash, register
from biaslab.datasets.box_forms import check_boxes, warn_if_unlikely
from biaslab.datasets.data_root import find_file, find_folder, places
from biaslab.datasets.row_image import ORIENTATIONS, RowImage
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


FIELDS = ("image", "sent", "bbox", "width", "height")
_WHAT = "a RefCOCO jsonl"


@register("refcoco-jsonl")
class RefCocoJsonl:
    """Expressions of one jsonl file, or of a JSON array of the same rows.

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
        If the file is missing or something else, or a row is no JSON, lacks a field, has an empty expression or a box
        that contradicts ``[x1, y1, x2, y2]`` in pixels (`biaslab.datasets.box_forms`; one pixel over the edge is cut
        off); the message names the line. A missing or damaged image is no error here: it becomes one when the sample's
        image is asked for, so that a run can count it.

    Examples
    --------
    >>> import json
    >>> import tempfile
    >>> from PIL import Image
    >>> row = {"image": "a.png", "sent": "left cat", "bbox": [0, 0, 32, 24], "width": 64, "height": 48}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "cats_val.jsonl"
    ...     _ = file.write_text(json.dumps(row))
    ...     Image.new("RGB", (64, 48)).save(Path(folder) / "a.png")
    ...     data = RefCocoJsonl(file)
    ...     data.split, data[0].id, data[0].object_size, data[0].image().size
    ('cats_val', 'cats_val-000000', 'large', (64, 48))
    """

    #: form of the numbers of ``bbox``, in `biaslab.datasets.box_forms.FORMS`
    box_form: ClassVar[str] = "xyxy"

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
        self.name, self.split = name, printable(self.path.stem)
        self._samples = self._read()
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

    def _read(self) -> list[Sample]:
        rows = list(read_rows(self.path, fields=FIELDS, what=_WHAT))
        parsed = [_parsed(row, f"{self.path}, {where}") for _, where, row in rows]
        boxes, sizes = [box for _, box in parsed], [size for size, _ in parsed]
        check_boxes(boxes, sizes, [where for _, where, _ in rows], source=str(self.path), form=self.box_form)
        warn_if_unlikely(boxes, sizes, source=str(self.path), form=self.box_form)
        return [self._sample(i, row, *made) for (i, _, row), made in zip(rows, parsed, strict=True)]

    def _sample(self, index: int, row: Row, size: tuple[int, int], numbers: list[float]) -> Sample:
        box = Box(*numbers).clip(size)
        orientation = row.get("orientation", "stored" if self.split in PUBLISHED_SIZES else None)
        return Sample(
            id=f"{self.split}-{index:06d}",
            image_id=printable(row["image"]),
            expression=row["sent"].strip(),
            box=box,
            expression_type="",
            object_size=object_size(box, *size),
            width=size[0],
            height=size[1],
            loader=RowImage(self._folders, row["image"], size, orientation),
        )


def _parsed(row: Row, where: str) -> tuple[tuple[int, int], list[float]]:
    """Size and box of a row, its texts checked."""
    for field in ("image", "sent"):
        value = row[field]
        if not isinstance(value, str) or not value.strip():
            raise InputError(
                f"{where}: {field} is {'empty' if value == '' else _shown(value)}, not a text that says something"
            )
    if why := why_unreadable(row["sent"]):
        raise InputError(f"{where}: sent {why}")
    try:
        os.fsencode(row["image"])
    except UnicodeEncodeError:
        raise InputError(
            f"{where}: image holds half a character ({_shown(row['image'])}): no file has that name"
        ) from None
    if (orientation := row.get("orientation")) not in (None, *ORIENTATIONS):
        raise InputError(
            f"{where}: orientation is {_shown(orientation)}: write {' or '.join(ORIENTATIONS)}, or leave it out"
        )
    sizes = [_number(row[field], field, where) for field in ("width", "height")]
    for field, size in zip(("width", "height"), sizes, strict=True):
        if size < 1 or size % 1:
            raise InputError(f"{where}: {field} is {_shown(row[field])}, not a whole number of pixels above 0")
    box = row["bbox"]
    if not isinstance(box, list):
        raise InputError(f"{where}: bbox is {_shown(box)}, not a list [x1, y1, x2, y2]")
    if len(box) != 4:
        raise InputError(f"{where}: bbox has {len(box)} number{'s' * (len(box) != 1)}, not 4 ([x1, y1, x2, y2])")
    return (int(sizes[0]), int(sizes[1])), [_number(value, "bbox", where) for value in box]


def _number(value: Any, field: str, where: str) -> float:
    """Read a finite number, which may be written as a text."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: {field} holds {_shown(value)}, which is no finite number")
    return number


def _shown(value: Any) -> str:
    """Write a value of a row as its file does, shortened."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
