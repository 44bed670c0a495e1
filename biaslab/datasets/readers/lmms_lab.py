"""``lmms-lab/RefCOCO``, ``RefCOCOplus`` and ``RefCOCOg`` of the hub, the data of lmms-eval, images included.

A row is an object, with all its expressions; each becomes a sample::

    {"question_id": "...", "image": <image>, "question": "Please carefully observe ...", "answer": ["left bowl", ...],
     "segmentation": [...], "bbox": [x, y, w, h], "iscrowd": 0, "file_name": "COCO_train2014_000000581857_16.jpg"}

``question`` asks for a caption of the box, as lmms-eval uses the set, and is not read.
"""

from __future__ import annotations

from collections.abc import Iterable

from biaslab.datasets.annotation_rows import Row
from biaslab.datasets.reader import Reader, Referral, register_reader


@register_reader
class LmmsLab(Reader):
    """``question_id, image, answer, bbox, file_name``; x, y, w, h in pixels; sizes from the images."""

    name = "lmms-lab"
    what = "a RefCOCO table of lmms-lab"
    columns = ("question_id", "image", "answer", "bbox", "file_name")
    box_form = "xywh"
    image = "file_name"
    expression = "answer"
    several = True
    pictures = "image"
    stored = True

    def referrals(self, row: Row) -> Iterable[Referral]:
        """List the expressions of the object."""
        if not isinstance(row["answer"], (list, tuple)):
            raise ValueError("answer is not a list of expressions")
        for sentence in row["answer"]:
            yield Referral(row["file_name"], sentence, row["bbox"])
