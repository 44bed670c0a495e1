"""The answer to a grounding prompt."""

from __future__ import annotations

from dataclasses import dataclass

from biaslab.core.boxes import Box

__all__ = ["MAX_NEW_TOKENS", "Grounding"]

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
        Whether it was cut at the limit of new tokens, without an end token; known of pruned answers and evaluations.
        A whole box before the cut counts: a model's first box is its answer, whatever would have followed.

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.scenes import scene
    >>> vlm, image = bl.load("grounder"), scene("test", 0).image
    >>> encoded = vlm.encode_grounding([image, image], ["sheep", "cat"])
    >>> for grounding in vlm.groundings(encoded, ["[[500, 250, 750, 500]]", "There is none."]):
    ...     print(grounding.box, grounding.parsed)
    Box(x0=112.0, y0=56.0, x1=168.0, y1=112.0) True
    None False
    """

    text: str
    box: Box | None
    parsed: bool
    truncated: bool = False
