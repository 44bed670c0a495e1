"""The mark of a rehearsal: a run with a model's true geometry and random weights, whose numbers mean nothing.

Whatever is written by one says so, and is never mixed with real work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "NOTE", "PREFIX", "REVISION", "is_rehearsal", "latex_note", "mark", "note_of", "noted", "rehearsal_name",
]  # fmt: skip

#: in every file and figure
NOTE = "rehearsal, random weights"
#: of a rehearsal's model name and revision, which go into all provenance
PREFIX, REVISION = "rehearsal of ", "rehearsal"


def rehearsal_name(model: str) -> str:
    """Name of the rehearsal of a model."""
    return f"{PREFIX}{model}"


def is_rehearsal(where: Any) -> bool:
    """Whether a model name, a provenance or settings dict, or anything with a ``name`` is a rehearsal's."""
    if isinstance(where, Mapping):
        model = where.get("model", where.get("name"))
        return bool(where.get("rehearsal")) or is_rehearsal(model)
    if isinstance(where, str):
        return where.startswith(PREFIX)
    return is_rehearsal(getattr(where, "name", "") or "") if where is not None else False


def mark(frame: pd.DataFrame, where: Any) -> pd.DataFrame:
    """The same table; if it comes from a rehearsal, with a mark that travels with it into figures and files."""
    if is_rehearsal(where):
        frame.attrs["note"] = NOTE
    return frame


def note_of(frame: pd.DataFrame) -> str | None:
    """The mark of a table, or None."""
    return frame.attrs.get("note")


def noted(frame: pd.DataFrame) -> pd.DataFrame:
    """A table as it is written to a CSV: with its mark as a column, which every reader keeps."""
    note = note_of(frame)
    return frame if note is None else frame.assign(note=note)


def latex_note(where: Any) -> str:
    """A LaTeX comment line that marks a rehearsal's table (settings, or a marked one); empty for real ones."""
    note = is_rehearsal(where) if isinstance(where, Mapping) else note_of(where)
    return f"% {NOTE}: these numbers mean nothing\n" if note else ""
