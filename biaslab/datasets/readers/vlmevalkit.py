"""RefCOCO as VLMEvalKit has it: ``RefCOCO.tsv``, one table of all eight splits, images in base64.

Columns ``index, image, question, answer, category``: ``answer`` is the box, ``[x1, y1, x2, y2]`` in fractions of the
image, ``category`` the split ("RefCOCO testA"), ``question`` the prompt or the expression. An ``image`` of at most 64
characters is the index of the row that holds the image.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from biaslab.datasets.annotation_rows import Row
from biaslab.datasets.prompts import expression_in
from biaslab.datasets.reader import Reader, Referral, register_reader


@register_reader
class VlmEvalKit(Reader):
    """``index, image, question, answer, category``; corners in fractions; sizes from the images."""

    name = "vlmevalkit"
    what = "a RefCOCO TSV of VLMEvalKit"
    columns = ("index", "image", "question", "answer", "category")
    box_form = "xyxy_norm1"
    expression = "question"
    box = "answer"
    pictures = "image"
    stored = True

    def referrals(self, row: Row) -> Iterable[Referral]:
        """One expression a row."""
        question = row["question"]
        expression = expression_in(question) if isinstance(question, str) else question
        if expression is None:
            raise ValueError(
                "question asks for a box in words that are not known: name a column that holds the expression with "
                "--columns image=base64:image,expression=...,box=xyxy_norm1:answer"
            )
        yield Referral(None, expression, row["answer"])

    def split_of(self, row: Row) -> str | None:
        """Return the category: "RefCOCO testA"."""
        return str(row["category"])

    def title(self, path: Path | None, split: str | None) -> tuple[str, str]:
        """``vlmevalkit``, and the category as the published splits are written: "refcoco_testA"."""
        return self.name, (split or "").replace("RefCOCO", "refcoco").replace(" ", "_")
