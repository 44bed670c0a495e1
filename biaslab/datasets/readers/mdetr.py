"""MDETR's pre-processed annotations: ``finetune_refcoco_val.json``, ``finetune_refcoco+_testA.json`` ...

One JSON object as COCO's, in which every *expression* has an entry of its own among the images, with its words as
``caption``, and one annotation, the target, in x, y, w, h::

    {"images": [{"file_name": "COCO_train2014_000000581857.jpg", "height": 640, "width": 427, "id": 0,
                 "original_id": 581857, "caption": "the lady with the blue shirt", "dataset_name": "refcoco", ...}],
     "annotations": [{"image_id": 0, "bbox": [103.93, 299.99, 134.22, 177.42], "id": 0, "tokens_positive": ..., ...}]}
"""

from __future__ import annotations

from collections.abc import Iterable

from biaslab.datasets.annotation_rows import Row
from biaslab.datasets.reader import Reader, Referral, register_reader


@register_reader
class Mdetr(Reader):
    """Images with ``caption``, ``file_name``, ``height``, ``width`` and their annotations; x, y, w, h in pixels."""

    name = "mdetr"
    what = "an MDETR annotation file"
    columns = ("file_name", "height", "width", "caption", "annotations")
    box_form = "xywh"
    image = "file_name"
    expression = "caption"
    stored = True

    def referrals(self, row: Row) -> Iterable[Referral]:
        """One expression an image entry; ``annotations`` are those of the entry."""
        targets = row["annotations"]
        if len(targets) != 1:
            raise ValueError(f"the expression has {len(targets) or 'no'} target{'s' * (len(targets) > 1)}, not one")
        yield Referral(row["file_name"], row["caption"], targets[0].get("bbox"), row["width"], row["height"])
