"""The one way into a table file, CSV or LaTeX: what comes from a rehearsal says so in both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from biaslab._util.files import atomic_write
from biaslab._util.watermark import with_note

__all__ = ["csv_text", "write_table"]


def csv_text(frame: pd.DataFrame, provenance: Any) -> str:
    """Write a table as CSV without its index; a rehearsal's has a column ``note``.

    Parameters
    ----------
    frame : DataFrame
        The numbers.
    provenance : Any
        What :func:`~biaslab._util.watermark.is_rehearsal` takes.

    Returns
    -------
    str
        CSV.

    Examples
    --------
    >>> import pandas as pd
    >>> from biaslab._util.tables import csv_text
    >>> print(csv_text(pd.DataFrame({"layer": [3]}), "rehearsal of a/model"), end="")
    layer,note
    3,"rehearsal, random weights"
    """
    return with_note(frame, provenance).to_csv(index=False)


def write_table(frame: pd.DataFrame, path: str | Path, provenance: Any, *, latex: str | None = None) -> list[Path]:
    """Write ``path.csv`` and, where its text is given, ``path.tex``; missing folders are made.

    Parameters
    ----------
    frame : DataFrame
        The numbers.
    path : str or Path
        With or without one of .csv, .tex.
    provenance : Any
        Where they come from: settings, a model or its name, or a table that is stamped.
    latex : str, optional
        Text of :func:`biaslab.figures.latex_table.latex_table`.

    Returns
    -------
    list of Path
        The CSV first.

    Raises
    ------
    OSError
        The place cannot be written.
    """
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".csv", ".tex") else path
    texts = {".csv": csv_text(frame, provenance), ".tex": latex}
    files = []
    stem.parent.mkdir(parents=True, exist_ok=True)
    for suffix, text in texts.items():
        if text is not None:
            files.append(stem.with_name(stem.name + suffix))
            # as bytes: the ends of a CSV's lines are as they should be
            atomic_write(files[-1], text.encode(errors="backslashreplace") if suffix == ".csv" else text)
    return files
