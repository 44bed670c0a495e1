"""Cards: accounts in Markdown that begin with a title and, where they come from a rehearsal, say so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from biaslab._util.watermark import note_of

__all__ = ["card_text"]


def card_text(title: str, provenance: Any, lines: Iterable[str]) -> str:
    """Markdown with a heading, the mark of a rehearsal, and the lines.

    Parameters
    ----------
    title : of the card, without "#".
    provenance : where the numbers come from: settings, a model or its name.
    lines : what follows.
    """
    note = note_of(provenance)
    stamp = [f"**{note.capitalize()}: the numbers mean nothing.**", ""] if note else []
    return "\n".join([f"# {title}".rstrip(), "", *stamp, *lines])
