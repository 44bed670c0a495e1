"""What a model is asked for a sample: where an expression is, or its question."""

from __future__ import annotations

from typing import TYPE_CHECKING

from biaslab.datasets.question import Question
from biaslab.datasets.sample import Sample

if TYPE_CHECKING:
    from biaslab.models.family import Family

__all__ = ["prompt_of"]


def prompt_of(family: Family, sample: Sample) -> str:
    """Return the prompt of a sample, without chat template.

    Examples
    --------
    >>> import biaslab as bl
    >>> sample = next(iter(bl.load_dataset("scenes", n=1)))
    >>> prompt_of(bl.load("grounder").family, sample).split(": ")[1]
    '<ref>big elephant left of the sheep</ref>'
    """
    return sample.prompt if isinstance(sample, Question) else family.grounding_prompt(sample.expression)
