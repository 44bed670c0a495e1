"""Precision, recall and F1 of yes, and how often it is said, as POPE reports them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["YesNo"]


@dataclass(frozen=True)
class YesNo:
    """Counts over yes/no questions; an answer that says neither is a miss of what is right, and no yes.

    Attributes
    ----------
    hits, false_alarms, misses, n : int
        Yes where it is right, yes where it is not, right yeses that were not said, all questions.

    References
    ----------
    Li et al., Evaluating Object Hallucination in Large Vision-Language Models (POPE), EMNLP 2023, section 5.1.

    Examples
    --------
    >>> counts = YesNo.of([True, True, False, None], [True, False, True, True])
    >>> counts.precision, round(counts.recall, 3), counts.f1, counts.yes_share
    (0.5, 0.333, 0.4, 0.5)
    """

    hits: int
    false_alarms: int
    misses: int
    n: int

    @classmethod
    def of(cls, said: Sequence[bool | None], right: Sequence[bool]) -> YesNo:
        """Count what was said (None: neither) against what is right."""
        pairs = list(zip(said, right, strict=True))
        return cls(
            hits=sum(mine is True and truth for mine, truth in pairs),
            false_alarms=sum(mine is True and not truth for mine, truth in pairs),
            misses=sum(mine is not True and truth for mine, truth in pairs),
            n=len(pairs),
        )

    @property
    def precision(self) -> float:
        """Share of the yeses that are right; NaN without any."""
        return _ratio(self.hits, self.hits + self.false_alarms)

    @property
    def recall(self) -> float:
        """Share of the right yeses that were said; NaN without any."""
        return _ratio(self.hits, self.hits + self.misses)

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        return _ratio(2 * self.hits, 2 * self.hits + self.false_alarms + self.misses)

    @property
    def yes_share(self) -> float:
        """Share of all answers that are yes."""
        return _ratio(self.hits + self.false_alarms, self.n)


def _ratio(a: int, b: int) -> float:
    return a / b if b else float("nan")
