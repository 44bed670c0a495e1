"""One question with its image and the answers that are right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from biaslab.core.boxes import Box
from biaslab.datasets.sample import Sample
from biaslab.errors import InputError

__all__ = ["SHORT", "Question", "are_questions"]

#: what most models are asked for short answers with (LLaVA-1.5, section 3.1)
SHORT = "Answer the question using a single word or phrase."


@dataclass(frozen=True)
class Question(Sample):
    """A question about an image: :func:`biaslab.evaluate` holds the answer against ``answers``, not a box.

    It is a `Sample` whose ``expression`` is the question and whose ``expression_type`` is its category. Where no
    evidence is known ``box`` is the whole image and nothing is said of the target's tokens.

    Parameters
    ----------
    answers : tuple of str
        Any of them is right, after normalisation (:func:`biaslab.evaluation.question_answers.normalised`).
    instruction : str
        Behind the question, on a line of its own; empty for none.
    has_evidence : bool
        Whether ``box`` is where the answer can be seen.

    Examples
    --------
    >>> from PIL import Image
    >>> from functools import partial
    >>> white = partial(Image.new, "RGB", (64, 48), "white")
    >>> names = {"id": "q1", "image_id": "i1", "category": "random"}
    >>> question = Question.about(white, "Is there a cat?", "no", size=(64, 48), **names)
    >>> question.answers, question.expression_type, question.box
    (('no',), 'random', Box(x0=0.0, y0=0.0, x1=64.0, y1=48.0))
    >>> print(question.prompt)
    Is there a cat?
    Answer the question using a single word or phrase.
    """

    answers: tuple[str, ...] = ()
    instruction: str = SHORT
    has_evidence: bool = False

    @classmethod
    def about(
        cls,
        loader: Callable[[], Image.Image],
        question: str,
        answers: str | Sequence[str],
        *,
        id: str,
        image_id: str,
        size: tuple[int, int],
        category: str = "",
        evidence: Box | None = None,
        instruction: str = SHORT,
    ) -> Question:
        """Make a question.

        Parameters
        ----------
        loader : callable
            Returns the image (RGB).
        question : str
        answers : str or sequence of str
        id, image_id : str
            As of `Sample`.
        size : (width, height)
            Of the image, in pixels.
        category : str
        evidence : Box, optional
            Where the answer can be seen, in pixels.
        instruction : str

        Returns
        -------
        Question

        Raises
        ------
        InputError
            No answer.
        """
        answers = (answers,) if isinstance(answers, str) else tuple(answers)
        if not answers or not all(isinstance(answer, str) and answer.strip() for answer in answers):
            raise InputError(f"question {id}: its answer is {answers!r}, not a text that says something")
        whole = Box(0.0, 0.0, float(size[0]), float(size[1]))
        return cls(
            id=id, image_id=image_id, expression=question, box=evidence or whole,
            expression_type=category, object_size="", width=size[0], height=size[1], loader=loader, answers=answers,
            instruction=instruction, has_evidence=evidence is not None,
        )  # fmt: skip

    @property
    def has_target(self) -> bool:
        """Whether the answer's evidence is known."""
        return self.has_evidence

    @property
    def prompt(self) -> str:
        """What the model is asked, without any chat template."""
        return f"{self.expression}\n{self.instruction}" if self.instruction else self.expression


def are_questions(samples: Sequence[Sample]) -> bool:
    """Whether samples are questions, or referring expressions.

    Raises
    ------
    InputError
        Some are of one kind, some of the other.
    """
    n = sum(isinstance(sample, Question) for sample in samples)
    if 0 < n < len(samples):
        raise InputError(
            f"{n} of {len(samples)} samples are questions, the others referring expressions: evaluate them one after "
            "the other, their accuracies are not of one kind"
        )
    return n > 0
