"""Questions with short answers, as most question data sets are exported: a row is a question.

::

    {"image": "000000397133.jpg", "question": "What is the man holding?", "answer": "pizza", "category": "object"}

``category`` may be missing; ``bbox`` (corners in pixels), where it is known where the answer can be seen, too.
"""

from __future__ import annotations

from collections.abc import Iterable

from biaslab.datasets.annotation_rows import Row
from biaslab.datasets.reader import Reader, Referral, register_reader


@register_reader
class VQA(Reader):
    """``image, question, answer``; sizes from the images, where width and height are missing."""

    name = "vqa"
    what = "a table of questions"
    columns = ("image", "question", "answer")
    expression = "question"
    pictures = "image"
    asks = True

    def referrals(self, row: Row) -> Iterable[Referral]:
        """Take the question of a row."""
        told = {name: row.get(name) for name in ("width", "height", "orientation", "category")}
        yield Referral(row.get("image"), row["question"], row.get("bbox"), answers=row[self.answer], **told)
