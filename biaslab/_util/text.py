"""Text that may hold what UTF-8 cannot: bytes of a file name that are no UTF-8, half an emoji out of JSON."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["as_written", "first_line", "last_part", "printable", "why_unreadable"]


def as_written(value: Any) -> str:
    """Write a value of a row as a JSON file does, shortened to 60 characters.

    Examples
    --------
    >>> as_written(None), as_written(["a"]), as_written("a" * 99)[-5:]
    ('null', '["a"]', 'aa...')
    """
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:60]}..."


def first_line(error: Exception) -> str:
    r"""Return the first line of an error's words, with the next where it only introduces that.

    Examples
    --------
    >>> first_line(ValueError("wrong:\n  the rank\n  and more")), first_line(KeyError())
    ('wrong: the rank', 'KeyError')
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in (lines[:2] if lines[0].endswith(":") else lines[:1]))


def last_part(name: str) -> str:
    """Return the last part of a path or hub id, by which titles call a model or a data set.

    Examples
    --------
    >>> last_part("OpenGVLab/InternVL2_5-8B-hf"), last_part("runs/model/"), last_part("grounder")
    ('InternVL2_5-8B-hf', 'model', 'grounder')
    """
    return name.rstrip("/").rsplit("/", 1)[-1]


def printable(text: str) -> str:
    r"""Write what UTF-8 cannot encode as an escape, so that a name can be logged, hashed, drawn and put into tables.

    Parameters
    ----------
    text : str
        As the operating system or JSON gave it.

    Returns
    -------
    str
        The same where it is proper Unicode.

    Examples
    --------
    >>> printable("caf\udce9.png"), printable("café.png")
    ('caf\\udce9.png', 'café.png')
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def why_unreadable(text: str) -> str | None:
    r"""Say why a tokenizer cannot read a string, and what to do about it; None of proper text.

    Examples
    --------
    >>> why_unreadable("half of it: \ud83d")
    'holds half a character (\\ud83d): write the whole emoji, or none'
    >>> why_unreadable("cat\0"), why_unreadable("café \N{GRINNING FACE}")
    ('holds a NUL character (\\x00): remove it', None)
    """
    half = next((character for character in text if "\ud800" <= character <= "\udfff"), None)
    if half is not None and "\udc80" <= half <= "\udcff":  # how Python keeps a byte that it could not decode
        return (
            f"holds a byte that is no UTF-8 ({printable(half)}): set the terminal to UTF-8, or decode it as what it is"
        )
    if half is not None:
        return f"holds half a character ({printable(half)}): write the whole emoji, or none"
    return "holds a NUL character (\\x00): remove it" if "\0" in text else None
