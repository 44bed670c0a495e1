"""RefCOCO, RefCOCO+ and RefCOCOg in the jsonl form of the InternVL and Qwen-VL evaluations.

One row per expression, the convention of the published tables::

    {"image": "coco/train2014/COCO_train2014_000000000009.jpg", "sent": "left bowl",
     "bbox": [x1, y1, x2, y2], "width": 640, "height": 480}

``bbox`` is in pixels of the original image; width and height say whether of the upright image or of the stored one
(`biaslab.datasets.row_image`).
"""

from __future__ import annotations

from biaslab.datasets.reader import Reader, register_reader


@register_reader
class RefCocoJsonl(Reader):
    """``image, sent, bbox, width, height``; corners in pixels."""

    name = "refcoco-jsonl"
    what = "a RefCOCO jsonl"
    columns = ("image", "sent", "bbox", "width", "height")
    expression = "sent"
