"""Cards: accounts in Markdown that begin with a title and, where they come from a rehearsal, say so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from biaslab._util.watermark import note_of

__all__ = ["card_text"]


def card_text(title: str, provenance: Any, lines: Iterable[str]) -> str:
    """Write Markdown with a heading, the mark of a rehearsal, and the lines.

    Parameters
    ----------
    title : str
        Of the card, without "#".
    provenance : Any
        Where the numbers come from: settings, a model or its name.
    lines : iterable of str
        The text below.

    Returns
    -------
    str
        Markdown.

    Examples
    --------
    >>> from biaslab._util.cards import card_text
    >>> print(card_text("Profile", "rehearsal of a/model", ["Mean attention."]))
    # Profile
    <BLANKLINE>
    **Rehearsal, random weights: the numbers mean nothing.**
    <BLANKLINE>
    Mean attention.
    """
    note = note_of(provenance)
    stamp = [f"**{note.capitalize()}: the numbers mean nothing.**", ""] if note else []
    return "\n".join([f"# {title}".rstrip(), "", *stamp, *lines])
