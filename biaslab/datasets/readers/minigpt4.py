"""RefCOCO as MiniGPT-v2 evaluates it: ``refcoco_val.json``, ``refcoco+_testA.json`` ...

::

    [{"img_id": "COCO_train2014_000000515716_1", "sents": "the man in red", "bbox": [x, y, w, h],
      "height": 480, "width": 640}]

``img_id`` is the image's name without a suffix, with the number of an expression behind it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from biaslab.datasets.annotation_rows import Row
from biaslab.datasets.reader import Reader, Referral, register_reader

_COCO = re.compile(r"(COCO_(?:train|val)2014_\d{12})(?:_\d+)*")


@register_reader
class MiniGpt4(Reader):
    """``img_id, sents, bbox, height, width``; x, y, w, h in pixels."""

    name = "minigpt4"
    what = "a MiniGPT-4 json"
    columns = ("img_id", "sents", "bbox", "height", "width")
    box_form = "xywh"
    image = "img_id"
    expression = "sents"
    several = True
    stored = True

    def referrals(self, row: Row) -> Iterable[Referral]:
        """List the expressions: ``sents`` is a text, or a list of them."""
        sentences = row["sents"] if isinstance(row["sents"], list) else [row["sents"]]
        for sentence in sentences:
            yield Referral(_file(row["img_id"]), sentence, row["bbox"], row["width"], row["height"])


def _file(name: Any) -> Any:
    found = _COCO.fullmatch(name) if isinstance(name, str) else None
    if found is not None:
        return f"{found[1]}.jpg"
    return f"{name}.jpg" if isinstance(name, str) and "." not in name else name
