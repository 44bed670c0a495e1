"""Expressions that stand inside a prompt, as conversations and evaluation tables have them."""

from __future__ import annotations

import re

__all__ = ["expression_in"]

#: the wordings that data sets use; what is between is the expression
_PROMPTS = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        r"<ref>(.+?)</ref>",
        r"(?:this|the) sentence describes\s*:\s*(.+)",
        r"\[refer\]\s*(?:give me the location of|where is|from this image, tell me the location of)\s+(.+)",
        r"matches the description\s+[\"“](.+?)[\"”]",
        r"locate (.+?) in this image and output",
        r"provide the bounding box coordinates? (?:of|for)\s*:?\s+(?!the region)(.+)",
    )
)
_ASKS = re.compile(r"bounding box|bbox|coordinate|\[refer\]|locate every|output the", re.IGNORECASE)
_IMAGE = re.compile(r"<image>|<ImageHere>|<img>.*?</img>", re.IGNORECASE | re.DOTALL)


def expression_in(text: str) -> str | None:
    r"""Take the expression out of a question.

    Parameters
    ----------
    text : str
        A prompt of a known wording, or the bare expression.

    Returns
    -------
    str or None
        The expression; None for what asks for a box in words that are not known, of which any part could be the
        expression.

    Examples
    --------
    >>> expression_in("<image>\nPlease provide the bounding box of the region this sentence describes: red cup")
    'red cup'
    >>> expression_in("left cat"), expression_in("Give me the bbox: left cat")
    ('left cat', None)
    """
    text = _IMAGE.sub("", text).strip()
    for prompt in _PROMPTS:
        if (found := prompt.search(text)) is not None:
            return found.group(1).strip()
    return None if _ASKS.search(text) else text
