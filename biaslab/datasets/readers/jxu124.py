"""``jxu124/refcoco``, ``refcocoplus`` and ``refcocog`` of the hub: REFER's rows with COCO's, without images.

A row is an object, with all its expressions; each becomes a sample::

    {"sentences": [{"raw": ..., "sent": "left bowl", "sent_id": 0, "tokens": [...]}], "bbox": [x1, y1, x2, y2],
     "raw_anns": "{bbox: [x, y, w, h], ...}", "raw_image_info": "{height: 480, width: 640, ...}",
     "image_path": "coco/train2014/COCO_train2014_000000581857.jpg", "split": "testA", ...}

``bbox`` is held against COCO's own box in ``raw_anns``: a file in which they differ is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from biaslab.datasets.annotation_rows import Row
from biaslab.datasets.reader import Reader, Referral, register_reader

_PIXELS = 1.0  # bbox may be rounded


@register_reader
class Jxu124(Reader):
    """``sentences, bbox, raw_anns, raw_image_info, image_path, split``; corners in pixels."""

    name = "jxu124"
    what = "a RefCOCO table of jxu124"
    columns = ("sentences", "bbox", "raw_anns", "raw_image_info", "image_path", "split")
    image = "image_path"
    expression = "sentences"
    several = True
    stored = True

    def referrals(self, row: Row) -> Iterable[Referral]:
        """List the expressions of the object."""
        info, annotation = _parsed(row["raw_image_info"]), _parsed(row["raw_anns"])
        _check(row["bbox"], annotation.get("bbox"))
        for sentence in row["sentences"]:
            yield Referral(
                row["image_path"], sentence["sent"], row["bbox"], width=info.get("width"), height=info.get("height")
            )

    def split_of(self, row: Row) -> str | None:
        """Return the column ``split``."""
        return row["split"]


def _parsed(value: Any) -> Mapping[str, Any]:
    try:
        value = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError("raw_anns or raw_image_info is no JSON") from None
    return value if isinstance(value, Mapping) else {}


def _check(box: Any, xywh: Any) -> None:
    if xywh is None:
        return
    x, y, w, h = xywh
    if len(box) == 4 and any(abs(a - b) > _PIXELS for a, b in zip(box, (x, y, x + w, y + h), strict=True)):
        raise ValueError(f"bbox {list(box)} is not the box of raw_anns, x, y, w, h = {list(xywh)}: correct one of them")
