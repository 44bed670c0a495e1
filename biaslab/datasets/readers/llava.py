r"""Conversations of LLaVA in which boxes are asked for, as in its fine-tuning mixture (``llava_v1_5_mix665k.json``).

::

    [{"id": "...", "image": "coco/train2017/000000033471.jpg", "conversations": [
        {"from": "human", "value": "<image>\nPlease provide the bounding box coordinate of the region this sentence "
                                   "describes: the bus on the left"},
        {"from": "gpt", "value": "[0.12, 0.31, 0.48, 0.92]"}]}]

A box is in fractions of the image padded to a centred square, as the model sees it. Turns that ask for something else
(a caption of a box, a question) are passed over; a conversation with none that asks for a box is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from biaslab.datasets.annotation_rows import Row
from biaslab.datasets.prompts import expression_in
from biaslab.datasets.reader import Reader, Referral, register_reader

_NUMBER = r"-?\d+(?:\.\d+)?"
_BOX = re.compile(rf"\[\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\]")


@register_reader
class Llava(Reader):
    """``image, conversations``; corners in fractions of the padded square; sizes from the images."""

    name = "llava"
    what = "conversations of LLaVA"
    columns = ("image", "conversations")
    box_form = "xyxy_square1"
    expression = "conversations"
    box = "conversations"
    several = True
    skips = True
    stored = True

    def referrals(self, row: Row) -> Iterable[Referral]:
        """List the turns that answer a question with one box."""
        for question, answer in pairwise(_turns(row["conversations"])):
            if question[0] != "human" or answer[0] != "gpt":
                continue
            boxes = _BOX.findall(answer[1])
            if not boxes or _BOX.search(question[1]):
                continue
            if "<box>" in answer[1]:
                raise ValueError(
                    "a box is in InternVL's words (<box>, thousandths), not in LLaVA's fractions: write rows "
                    "image, sent, bbox, width, height"
                )
            if len(boxes) > 1:
                raise ValueError(f"an answer holds {len(boxes)} boxes: an expression has one target; leave it out")
            expression = expression_in(question[1])
            if expression is None:
                raise ValueError(
                    "a question asks for a box in words that are not known: ask '... the region this sentence "
                    "describes: EXPRESSION'"
                )
            yield Referral(row["image"], expression, [float(number) for number in boxes[0]])


def _turns(conversation: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(conversation, (list, tuple)):
        raise ValueError("conversations is not a list of turns")
    for turn in conversation:
        if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("from", "value")):
            raise ValueError("a turn of conversations has no text under from and value")
        yield turn["from"], turn["value"]
