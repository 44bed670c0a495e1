"""Questions with several right answers, such as those of VQA's annotators: ``answers`` is a list of texts.

::

    {"image": "000000397133.jpg", "question": "What is the man holding?", "answers": ["pizza", "a pizza"]}
"""

from __future__ import annotations

from biaslab.datasets.reader import register_reader
from biaslab.datasets.readers.vqa import VQA


@register_reader
class VQAAnswers(VQA):
    """``image, question, answers``; any of the answers is right."""

    name = "vqa-answers"
    what = "a table of questions with several answers"
    columns = ("image", "question", "answers")
    answer = "answers"
