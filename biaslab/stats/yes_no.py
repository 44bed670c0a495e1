"""Precision, recall and F1 of yes, and how often it is said, as POPE reports them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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

    @staticmethod
    def f1_parts(said: Sequence[bool | None], right: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
        """Split F1 into questions, for intervals: it is the sum of the first array over that of the second.

        Returns
        -------
        hit_twice, counted : (n,) arrays
            2 where yes was said and is right; how often an answer counts below the line: 2 for these, 1 for a false
            alarm or a miss, 0 where yes is neither said nor right.

        Examples
        --------
        >>> hit_twice, counted = YesNo.f1_parts([True, True, False, None], [True, False, True, True])
        >>> float(hit_twice.sum() / counted.sum())
        0.4
        """
        mine, truth = np.array([one is True for one in said]), np.asarray(right, bool)
        return 2.0 * (mine & truth), mine.astype(float) + truth

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
