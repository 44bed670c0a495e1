"""Text that goes into LaTeX tables."""

from __future__ import annotations

__all__ = ["escape"]


def escape(text: str) -> str:
    """Text with LaTeX's special characters escaped; a backslash becomes a slash."""
    for char in "\\&%$#_{}":
        text = text.replace(char, f"\\{char}" if char != "\\" else "/")
    return text
