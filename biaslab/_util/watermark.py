"""The mark of a rehearsal: a run with a model's true geometry and random weights, whose numbers mean nothing.

Whatever is written by one says so, and is never mixed with real work. Few need this module: tables, figures and cards
are stamped where they are written (``_util.tables``, ``figures.saving``, ``_util.cards``), all of which ask for the
provenance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NOTE", "PREFIX", "REVISION", "is_rehearsal", "note_of", "rehearsal_name", "stamp_table", "with_note"]

#: in every file and figure
NOTE = "rehearsal, random weights"
#: of a rehearsal's model name and revision, which go into all provenance
PREFIX, REVISION = "rehearsal of ", "rehearsal"


def rehearsal_name(model: str) -> str:
    """Name the rehearsal of a model."""
    return f"{PREFIX}{model}"


def is_rehearsal(provenance: Any) -> bool:
    """Tell whether something comes from a rehearsal.

    Parameters
    ----------
    provenance : Any
        Model name, settings dict, a stamped table, anything with a ``name`` (the model itself), or None.

    Returns
    -------
    bool
        Whether it carries the mark.

    Examples
    --------
    >>> from biaslab._util.watermark import is_rehearsal, rehearsal_name
    >>> is_rehearsal("grounder"), is_rehearsal({"model": rehearsal_name("internvl2.5")})
    (False, True)
    """
    if isinstance(provenance, Mapping):
        model = provenance.get("model", provenance.get("name"))
        return bool(provenance.get("rehearsal")) or is_rehearsal(model)
    if isinstance(provenance, str):
        return provenance.startswith(PREFIX)
    if isinstance(attrs := getattr(provenance, "attrs", None), Mapping):  # a table, which may have a column "name"
        return "note" in attrs
    return is_rehearsal(getattr(provenance, "name", "") or "") if provenance is not None else False


def note_of(provenance: Any) -> str | None:
    """Give the mark that belongs on what comes from there, or None."""
    return NOTE if is_rehearsal(provenance) else None


def stamp_table(frame: pd.DataFrame, provenance: Any) -> pd.DataFrame:
    """Stamp a table that comes from a rehearsal, in place: the mark travels with it into figures and files.

    Parameters
    ----------
    frame : DataFrame
        The numbers.
    provenance : Any
        What :func:`is_rehearsal` takes.

    Returns
    -------
    DataFrame
        The same table.
    """
    if is_rehearsal(provenance):
        frame.attrs["note"] = NOTE
    return frame


def with_note(frame: pd.DataFrame, provenance: Any = None) -> pd.DataFrame:
    """Give a table as it is written: the mark, its own or the provenance's, as a column, which every reader keeps."""
    note = note_of(frame) or note_of(provenance)
    return frame if note is None else frame.assign(note=note)
