"""POPE's questions (``coco_pope_random.json`` and others): is there such an object, yes or no.

::

    {"question_id": 1, "image": "COCO_val2014_000000310196.jpg", "text": "Is there a snowboard in the image?", "label": "yes"}
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Iterable

from biaslab._util.text import as_written
from biaslab.datasets.annotation_rows import Row
from biaslab.datasets.reader import Reader, Referral, register_reader


@register_reader
class POPE(Reader):
    """``question_id, image, text, label``; sizes from the images."""

    name = "pope"
    what = "questions of POPE"
    columns = ("question_id", "image", "text", "label")
    expression = "text"
    answer = "label"
    asks = True

    def referrals(self, row: Row) -> Iterable[Referral]:
        """Take the question of a row."""
        if str(row["label"]).strip().lower() not in ("yes", "no"):
            raise ValueError(f"label is {as_written(row['label'])}: POPE's is yes or no")
        yield Referral(row["image"], row["text"], None, answers=row["label"], category=row.get("category"))
