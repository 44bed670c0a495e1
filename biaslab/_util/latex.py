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
    """Text in which LaTeX's special characters stand for themselves."""
    return text.translate(_SPECIAL)
