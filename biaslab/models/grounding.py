"""The answer to a grounding prompt."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from biaslab.core.boxes import Box

if TYPE_CHECKING:
    from biaslab.models.encoded import Encoded
    from biaslab.models.family import Family

__all__ = ["MAX_NEW_TOKENS", "Grounding", "read_boxes", "warn_cut"]

#: default limit of an answer: models that repeat the expression before the box need 53 tokens for one of 28 words
MAX_NEW_TOKENS = 128


@dataclass(frozen=True)
class Grounding:
    """Answer to "where is it".

    Attributes
    ----------
    text : str
        The raw answer.
    box : Box or None
        Its box in pixels of the original image.
    parsed : bool
        Whether it held one.
    truncated : bool
        Whether it was cut at the limit of new tokens, without an end token; False where nobody looked.
        A whole box before the cut counts: a model's first box is its answer, whatever would have followed.

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.models import Grounding
    >>> from biaslab.scenes import scene
    >>> vlm, image = bl.load("grounder"), scene("test", 0).image
    >>> encoded = vlm.encode_grounding([image, image], ["sheep", "cat"])
    >>> for grounding in vlm.groundings(encoded, ["[[500, 250, 750, 500]]", "There is none."]):
    ...     print(grounding.box, grounding.parsed)
    Box(x0=112.0, y0=56.0, x1=168.0, y1=112.0) True
    None False
    >>> grounding == Grounding("There is none.", None, False)
    True
    """

    text: str
    box: Box | None
    parsed: bool
    truncated: bool = False


def read_boxes(
    family: Family, encoded: Encoded, answers: Sequence[str], truncated: Sequence[bool] | None = None
) -> list[Grounding]:
    """Read the boxes out of answers; see `VLM.groundings`."""
    cut = [False] * len(answers) if truncated is None else truncated
    read = zip(answers, cut, encoded.layouts, encoded.resized, strict=True)
    boxes = [(text, end, family.parse_box(text, layout.size, resized)) for text, end, layout, resized in read]
    return [Grounding(text, box, box is not None, end) for text, end, box in boxes]


def warn_cut(cut: Sequence[bool], limit: int, when: str = "") -> None:
    """Warn, in one line, of answers that were cut at the limit of new tokens."""
    if not any(cut):
        return
    what = "the answer was" if len(cut) == 1 else f"{sum(cut)} of {len(cut)} answers were"
    words = f"{what} cut at {limit} new tokens {when}".rstrip()
    warnings.warn(f"{words}: raise max_new_tokens", stacklevel=3)
