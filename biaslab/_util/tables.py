"""The one way into a table file, CSV or LaTeX: what comes from a rehearsal says so in both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from biaslab._util.files import atomic_write
from biaslab._util.watermark import note_of, with_note

__all__ = ["csv_text", "latex_table", "write_table"]


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


def latex_table(
    frame: pd.DataFrame, provenance: Any, *, caption: str, columns: str, label: str | None = None, index: bool = True
) -> str:
    r"""Write a booktabs ``table``, centred at the top of a page; needs ``\usepackage{booktabs}``.

    Parameters
    ----------
    frame : DataFrame
        Cells, headings and index as LaTeX: raw text goes through :func:`biaslab._util.latex.escape` before.
    provenance : Any
        What :func:`~biaslab._util.watermark.is_rehearsal` takes; a rehearsal's table begins with a comment that says
        so.
    caption : str
        LaTeX.
    columns : str
        Of ``tabular``, such as "lcc".
    label : str, optional
        For ``\ref``.
    index : bool
        Whether the index is printed.

    Returns
    -------
    str
        LaTeX.
    """
    style = frame.style if index else frame.style.hide(axis="index")
    note = note_of(frame) or note_of(provenance)
    return (f"% {note}: these numbers mean nothing\n" if note else "") + style.to_latex(
        hrules=True, position="t", position_float="centering", caption=caption, label=label, column_format=columns,
        multirow_align="naive",
    )  # fmt: skip


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
        Text of :func:`latex_table`.

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
