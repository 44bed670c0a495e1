"""Whether a model's answers are boxes, in the coordinate space in which its family reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from biaslab.core.boxes import Box
from biaslab.diagnostics.box_readings import FORMS, READINGS, SPACES, four_numbers
from biaslab.errors import InputError
from biaslab.stats.hit_rate import hit_rate
from biaslab.stats.paired_hits import from_sums, paired_hits
from biaslab.stats.resampling import Interval, sum_by_image

if TYPE_CHECKING:
    from biaslab.core.boxes import BoxSpace
    from biaslab.datasets.sample import Sample
    from biaslab.models.grounding import Grounding

__all__ = ["AnswerCheck", "answer_check"]

_HIT = 0.5
_CONFIDENCE = 1 - 2 * 0.05 / len(READINGS)  # one-sided at 5 %, and one of all readings is looked for
_PARSED = 0.9  # of the answers: with fewer, accuracies are those of the form and not of the model


@dataclass(frozen=True)
class AnswerCheck:
    """What a model answered to expressions with known boxes, and in which reading that is right.

    Attributes
    ----------
    answers : DataFrame
        One row per expression: id, image, expression, answer, iou, parsed, truncated, numbers (whether it holds four).
    readings : DataFrame
        One row per way to read the numbers (`READINGS`): space, form, name, hits, n, accuracy, accuracy_lo,
        accuracy_hi, iou (mean), gain, gain_lo, gain_hi (of the mean IoU over the family's own reading, paired;
        one-sided 5 % over all readings together), is_own (the very same boxes)
        and is_right_at_all (more hits than boxes at random may have).
    own : str
        The family's own reading, in words.
    accuracy, parsed : Interval
        Acc@0.5 as the family reads the answers, and the share of answers with a box; 95 %, over images.
    holds : bool or None
        Whether the answers are boxes in the family's own reading; None where there is too little to tell.
    verdict : str
        The same in words.
    """

    answers: pd.DataFrame
    readings: pd.DataFrame
    own: str
    accuracy: Interval
    parsed: Interval
    holds: bool | None
    verdict: str

    def grid(self) -> pd.DataFrame:
        """Hits of every reading: a row per space, a column per order of the numbers."""
        grid = self.readings.pivot(index="space", columns="form", values="hits").loc[list(SPACES), list(FORMS)]
        return grid.rename(index=SPACES, columns=FORMS).rename_axis(index="read as", columns=None).reset_index()


def answer_check(
    samples: Sequence[Sample], found: Sequence[Grounding], resized: Sequence[tuple[int, int]], space: BoxSpace
) -> AnswerCheck:
    """Read every answer in every space and order of numbers, and say in which it is right.

    A reading is named instead of the family's own only where the interval of their difference in mean IoU allows it:
    paired by expression, over images, one-sided at 5 % for all readings together (Bonferroni). Nothing changes how
    answers are read.

    Parameters
    ----------
    samples : sequence of Sample
        Expressions with their boxes, of two images or more.
    found : sequence of Grounding
        The answers, read by the family.
    resized : sequence of (width, height)
        Size of each image as the model saw it.
    space : BoxSpace
        The family's.

    Returns
    -------
    AnswerCheck

    Raises
    ------
    InputError
        Fewer than two images.

    Examples
    --------
    Answers in thousandths that are read as pixels:

    >>> from biaslab.core.boxes import BoxSpace
    >>> from biaslab.diagnostics.answer_check import answer_check
    >>> from biaslab.diagnostics.check_pictures import check_samples
    >>> from biaslab.models.grounding import Grounding
    >>> samples, found = check_samples(), []
    >>> for s in samples:
    ...     x, y = 1000 / s.width, 1000 / s.height
    ...     numbers = [round(v * f) for v, f in zip(s.box.as_tuple(), (x, y, x, y))]
    ...     box = BoxSpace.PIXEL.read(numbers, size=(s.width, s.height))
    ...     found.append(Grounding(str(numbers), box, box is not None))
    >>> check = answer_check(samples, found, [(s.width, s.height) for s in samples], BoxSpace.PIXEL)
    >>> check.verdict  # doctest: +ELLIPSIS
    "answers fit 0-1000 (43 of 43); read as pixels of the image, as this family's adapter does, ..."
    """
    images = [sample.image_id for sample in samples]
    if len(set(images)) < 2:
        raise InputError("a check needs expressions on two images or more")
    numbers = [four_numbers(answer.text) for answer in found]
    own = np.array([_iou(a.box, s) for a, s in zip(found, samples, strict=True)])
    columns, same = [], []
    for reading in READINGS:
        boxes = [
            None if values is None else reading.box(values, size=(s.width, s.height), resized=r)
            for values, s, r in zip(numbers, samples, resized, strict=True)
        ]
        columns.append([_iou(box, s) for box, s in zip(boxes, samples, strict=True)])
        same.append(
            any(a.parsed for a in found) and all(_equal(a.box, box) for a, box in zip(found, boxes, strict=True))
        )
    readings = _table(np.array(columns).T, own, images).assign(is_own=same)
    parsed = np.array([answer.parsed for answer in found], float)
    answers = pd.DataFrame({
        "id": [s.id for s in samples], "image": images, "expression": [s.expression for s in samples],
        "answer": [a.text for a in found],
        "iou": own, "parsed": parsed.astype(bool), "truncated": [a.truncated for a in found],
        "numbers": [values is not None for values in numbers],
    })  # fmt: skip
    shares = hit_rate(_hits(own), images), hit_rate(parsed, images)
    holds, verdict = _judge(answers, readings, _hits(own), images, SPACES[space.value], shares[1])
    return AnswerCheck(answers, readings, SPACES[space.value], *shares, holds, verdict)


def _table(ious: np.ndarray, own: np.ndarray, images: Sequence[str]) -> pd.DataFrame:
    """Summarise the IoUs (n, readings) of every reading, and what they gain over the family's own (n,)."""
    hits = _hits(ious)
    rates = hit_rate(hits, images)
    sums, _ = sum_by_image(ious - own[:, None], images)
    counts, _ = sum_by_image(np.ones((len(ious), 1)), images)
    gains = [from_sums(column, counts[:, 0], _CONFIDENCE) for column in sums.T]
    return pd.DataFrame({
        "space": [r.space for r in READINGS], "form": [r.form for r in READINGS], "name": [str(r) for r in READINGS],
        "hits": hits.sum(0).astype(int), "n": len(hits),
        "accuracy": rates.value, "accuracy_lo": rates.lo, "accuracy_hi": rates.hi, "iou": ious.mean(0),
        "gain": [g.value for g in gains], "gain_lo": [g.lo for g in gains], "gain_hi": [g.hi for g in gains],
        "is_right_at_all": [_is_right_at_all(column, images) for column in hits.T],
    })  # fmt: skip


def _iou(box: Box | None, sample: Sample) -> float:
    return 0.0 if box is None else box.iou(sample.box)


def _hits(ious: np.ndarray) -> np.ndarray:
    return (ious >= _HIT).astype(float)


def _is_right_at_all(hits: np.ndarray, images: Sequence[str]) -> bool:
    """Whether the hits are more than a few of a few images, which boxes at random may have."""
    return bool(paired_hits(hits, np.zeros(len(hits)), images, confidence=_CONFIDENCE).lo > 0)


def _equal(a: Box | None, b: Box | None) -> bool:
    if a is None or b is None:
        return a is b
    return bool(np.allclose(a.as_tuple(), b.as_tuple(), atol=1e-6))


def _judge(
    answers: pd.DataFrame, readings: pd.DataFrame, own: np.ndarray, images: Sequence[str], space: str, parsed: Interval
) -> tuple[bool | None, str]:
    """Say what the intervals allow to say of the answers."""
    n, hits = len(own), int(own.sum())
    k = int(answers["parsed"].sum())
    plain = f"read as {space}, as this family's adapter does, {hits} of {n}"
    better = readings[(readings["gain_lo"] > 0) & (readings["hits"] > hits) & readings["is_right_at_all"]]
    if len(better):
        best = better.sort_values("iou", ascending=False, kind="stable").iloc[0]
        tied = [name for name in better.loc[better["hits"] >= best["hits"], "name"] if name != best["name"]]
        return False, f"answers fit {best['name']} ({best['hits']} of {n}){_also(tied)}; {plain}: {_FIX}"
    if parsed.hi < _PARSED:
        told = int((answers["numbers"] & ~answers["parsed"]).sum())
        example = answers.loc[~answers["parsed"], "answer"].iloc[0]
        cut = int((answers["truncated"] & ~answers["parsed"]).sum())
        return False, (
            f"{n - k} of {n} answers hold no box that this family's adapter can read"
            + (f" ({told} of them hold four numbers)" if told else "")
            + (f" ({cut} were cut: raise the limit of new tokens)" if cut else "")
            + f", such as {_short(example)}: the prompt, the chat template or the form of the boxes is not this model's"
        )
    if not _is_right_at_all(own, images):
        best = readings.sort_values("hits", ascending=False, kind="stable").iloc[0]
        most = max(hits, int(best["hits"]))
        name = space if most == hits else best["name"]
        return None, (
            f"too few answers are right in any reading to tell the space (at most {most} of {n}, as {name}): look at "
            "the answers, and whether the model can ground at all"
        )
    close = readings[(readings["gain_hi"] >= 0) & (readings["hits"] > 0) & ~readings["is_own"]]
    alike = f"; not told apart from: {'; '.join(close['name'])}" if len(close) else ""
    return True, f"answers fit {space} ({hits} of {n}), as this family's adapter reads them{alike}"


_FIX = "this checkpoint answers in another space than its family, or was asked in another way; no accuracy of it counts"


def _also(names: Sequence[str]) -> str:
    return f", and no less {'; '.join(names)}" if len(names) else ""


def _short(text: str, limit: int = 60) -> str:
    shown = repr(text)
    return shown if len(shown) <= limit else shown[: limit - 4] + "...'"
