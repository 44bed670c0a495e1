"""Single items and lists of them as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from biaslab._util.text import why_unreadable
from biaslab.errors import InputError

__all__ = ["paired"]


def paired(image: Any, text: str | Sequence[str]) -> tuple[list[Any], list[str], bool]:
    """Make equal lists of single items or lists, and say whether both were single.

    Raises
    ------
    InputError
        A text that is no string, or lists of unequal length.

    Examples
    --------
    >>> from biaslab.models.pairing import paired
    >>> paired("a.jpg", ["Where is the cat?", "Where is the dog?"])
    (['a.jpg', 'a.jpg'], ['Where is the cat?', 'Where is the dog?'], False)
    """
    texts: list[Any] = list(text) if isinstance(text, (list, tuple)) else [text]
    for item in texts:
        if not isinstance(item, str):
            raise InputError(f"a text must be a string, got {type(item).__name__}: give a string or a list of them")
        if why := why_unreadable(item):
            raise InputError(f"the text {why}")
    images = list(image) if isinstance(image, (list, tuple)) else [image]
    several_images, several_texts = isinstance(image, (list, tuple)), isinstance(text, (list, tuple))
    if several_texts and not several_images:
        images = images * len(texts)
    if several_images and not several_texts:
        texts = texts * len(images)
    if len(images) != len(texts):
        raise InputError(f"{len(images)} images for {len(texts)} texts: give as many of each, or a single one")
    return images, texts, not several_images and not several_texts
