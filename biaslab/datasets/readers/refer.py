"""The original release, REFER: ``refs(unc).p`` (or ``umd``, ``google``) beside COCO's ``instances.json``.

A pickle of a list of objects, each with its expressions::

    {"sent_ids": [0, 1, 2], "file_name": "COCO_train2014_000000581857_16.jpg", "ann_id": 1719310, "ref_id": 0,
     "image_id": 581857, "split": "train", "category_id": 1,
     "sentences": [{"tokens": [...], "raw": "THE LADY WITH THE BLUE SHIRT", "sent_id": 0, "sent": "the lady ..."}]}

The box is that of the annotation ``ann_id``, x, y, w, h. gRefCOCO (``grefs(unc).json``), whose expressions have no, one
or several targets, is refused: where there is more than one target, Acc@0.5 is another measure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from biaslab.datasets.annotation_rows import Row, TableRow
from biaslab.datasets.reader import Reader, Referral, register_reader
from biaslab.errors import InputError

INSTANCES = "instances.json"


@register_reader
class Refer(Reader):
    """``sentences, ann_id, ref_id, image_id, file_name, split``; x, y, w, h in pixels, from ``instances.json``."""

    name = "refer"
    what = "references of REFER"
    columns = ("sentences", "ann_id", "ref_id", "image_id", "file_name", "split")
    box_form = "xywh"
    image = "file_name"
    expression = "sentences"
    several = True
    stored = True

    def referrals(self, row: Row) -> Iterable[Referral]:
        """List the expressions of the object."""
        for sentence in row["sentences"]:
            yield Referral(row["file_name"], sentence["sent"], row["bbox"], row["width"], row["height"])

    def split_of(self, row: Row) -> str | None:
        """Return the field ``split``: train, val, testA, testB, test."""
        return row["split"]

    def title(self, path: Path | None, split: str | None) -> tuple[str, str]:
        """Name the data set by its folder and its division: "refcoco (unc)"."""
        by = None if path is None else re.search(r"\((\w+)\)", path.stem)
        if path is None or by is None:
            return self.name, split or ""
        return f"{path.absolute().parent.name} ({by[1]})", split or ""

    def complete(self, rows: list[TableRow], path: Path | None) -> list[TableRow]:
        """Add each object's box and its image's size."""
        if path is None:
            raise InputError(f"references of REFER are read from their file, beside {INSTANCES}")
        listed = [where for _, where, row in rows if row.get("no_target") or isinstance(row["ann_id"], list)]
        if listed:
            raise InputError(
                f"{path}, {listed[0]}: an expression with no target or several, as in gRefCOCO ({len(listed)} of "
                f"{len(rows)} rows); biaslab measures expressions with one target: use RefCOCO, or leave them out"
            )
        boxes, sizes = _instances(path.with_name(INSTANCES))
        found = []
        for index, where, row in rows:
            if row["ann_id"] not in boxes or row["image_id"] not in sizes:
                raise InputError(f"{path}, {where}: {INSTANCES} beside it has no annotation {row['ann_id']} of it")
            width, height = sizes[row["image_id"]]
            found.append((index, where, {**row, "bbox": boxes[row["ann_id"]], "width": width, "height": height}))
        return found


def _instances(path: Path) -> tuple[dict[int, list[float]], dict[int, tuple[int, int]]]:
    """Boxes by annotation, and sizes by image."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        boxes = {annotation["id"]: annotation["bbox"] for annotation in value["annotations"]}
        return boxes, {image["id"]: (image["width"], image["height"]) for image in value["images"]}
    except OSError as error:
        raise InputError(
            f"references of REFER need the boxes of {path} ({error.strerror}): put the release's {INSTANCES} there"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no COCO annotation file ({type(error).__name__}: {error})") from None
