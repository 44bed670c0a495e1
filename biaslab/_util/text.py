"""Text that may hold what UTF-8 cannot: bytes of a file name that are no UTF-8, half an emoji out of JSON."""

from __future__ import annotations

__all__ = ["is_text", "printable"]


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


def is_text(text: str) -> bool:
    r"""Whether a string is proper Unicode, which a tokenizer can read.

    Examples
    --------
    >>> is_text("café \N{GRINNING FACE}"), is_text("half of it: \ud83d")
    (True, False)
    """
    return printable(text) == text
