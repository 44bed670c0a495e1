"""Shikra's ``REC_refcoco_unc_val.jsonl`` and its like, which Ferret, LION and others evaluate on, too.

::

    {"img_path": "COCO_train2014_000000310289.jpg", "expression": "the giant doughnut",
     "bbox": [334.72, 298.08, 522.88, 450.24], "dataset_name": "refcocog", "height": 480, "width": 640}
"""

from __future__ import annotations

from biaslab.datasets.reader import Reader, register_reader


@register_reader
class Shikra(Reader):
    """``img_path, expression, bbox, height, width``; corners in pixels of COCO's stored images."""

    name = "shikra"
    what = "a Shikra REC jsonl"
    columns = ("img_path", "expression", "bbox", "height", "width")
    image = "img_path"
    stored = True
