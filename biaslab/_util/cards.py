"""Cards: accounts in Markdown that begin with a title and, where they come from a rehearsal, say so."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from biaslab._util.watermark import note_of

__all__ = ["card_text", "table_lines"]


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


def table_lines(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    r"""Write a Markdown table.

    Parameters
    ----------
    head : sequence of str
        A name per column; may be empty.
    rows : iterable of sequences
        A value per column: text as it is, None as "-", others as JSON.

    Returns
    -------
    list of str
        Lines.

    Examples
    --------
    >>> from biaslab._util.cards import table_lines
    >>> table_lines(["layer", "kept"], [[3, "a|b"], [4, None]])
    ['| layer | kept |', '|---|---|', '| 3 | a\\|b |', '| 4 | - |']
    """
    first = f"| {' | '.join(head)} |" if any(head) else "|" + " |" * len(head)
    return [first, "|" + "---|" * len(head), *(f"| {' | '.join(map(_cell, row))} |" for row in rows)]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value)
    return " ".join(text.split()).replace("|", "\\|")
