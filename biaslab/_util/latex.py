"""Text that goes into LaTeX tables."""

from __future__ import annotations

__all__ = ["escape"]

# the replacements of pandas' Styler, which escapes cells and indices but no captions; all at once, so that none is
# escaped again, and with {} where Styler has a space, so that the space after a character stays
_SPECIAL = str.maketrans(
    {char: f"\\{char}" for char in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)


def escape(text: str) -> str:
    r"""Escape text so that LaTeX's special characters stand for themselves.

    Parameters
    ----------
    text : str
        Plain text.

    Returns
    -------
    str
        LaTeX.

    Examples
    --------
    >>> from biaslab._util.latex import escape
    >>> print(escape("keep_10%"))
    keep\_10\%
    """
    return text.translate(_SPECIAL)
