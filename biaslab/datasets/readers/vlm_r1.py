"""RefCOCO as VLM-R1 evaluates it: ``rec_jsons_processed/refcoco_val.json`` ...

::

    [{"image": "coco/train2014/COCO_train2014_000000581857.jpg", "normal_caption": "the lady with the blue shirt",
      "problem": "Please provide the bounding box ...: the lady with the blue shirt.", "solution": [x1, y1, x2, y2]}]

``normal_caption`` is the expression; files without it have the prompt in ``problem``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from biaslab.datasets.annotation_rows import Row
from biaslab.datasets.prompts import expression_in
from biaslab.datasets.reader import Reader, Referral, register_reader


@register_reader
class VlmR1(Reader):
    """``image, normal_caption`` (or ``problem``), ``solution``; corners in pixels; sizes from the images."""

    name = "vlm-r1"
    what = "a VLM-R1 json"
    columns = ("image", "problem", "solution")
    expression = "normal_caption"
    box = "solution"
    stored = True

    @classmethod
    def matches(cls, columns: Collection[str]) -> bool:
        """Whether there is an expression under either name."""
        return {"image", "solution"} <= set(columns) and bool({"normal_caption", "problem"} & set(columns))

    def referrals(self, row: Row) -> Iterable[Referral]:
        """One expression a row."""
        expression = row.get("normal_caption", row.get("problem"))
        if "normal_caption" not in row and isinstance(expression, str):
            expression = expression_in(expression)
            if expression is None:
                raise ValueError("problem is a prompt whose expression cannot be told: add a field normal_caption")
        yield Referral(row["image"], expression, row["solution"], row.get("width"), row.get("height"))
