"""The atlas on disk: figures, tables, the LaTeX table, the card and where it all comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from biaslab._util.files import atomic_write, writing_to
from biaslab._util.latex import escape
from biaslab._util.number_text import count_text
from biaslab._util.tables import write_table
from biaslab.atlas.card import card
from biaslab.atlas.draw import make_displays
from biaslab.atlas.summary import text_cells
from biaslab.evaluation.provenance_file import write_provenance
from biaslab.figures import save
from biaslab.figures.display import model_name
from biaslab.figures.latex_table import latex_table
from biaslab.profiles.file import card as profile_card

if TYPE_CHECKING:
    from biaslab.atlas.data import AtlasData

__all__ = ["summary_latex", "write"]

_HEADINGS = {
    "explained, %": "explained,\n\\%", "row eta2": "$\\eta^2$\nrow", "column eta2": "$\\eta^2$\ncolumn",
    "probe slope": "probe\nslope", "AUROC gain": "AUROC\ngain", "frames' slope": "frames'\nslope",
    "map's factor": "map's\nfactor",
}  # fmt: skip


def write(atlas: AtlasData, folder: Path) -> list[Path]:
    """Write everything of an atlas into a folder.

    Parameters
    ----------
    atlas : AtlasData
        Its tables, figures and card.
    folder : Path
        Made where it is missing.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    RunFolderError
        The folder cannot be written.
    """
    files: list[Path] = []
    for name, display in make_displays(atlas).items():
        files += save(display, folder / "figures" / name, close=True)
    summary = atlas.summary()
    with writing_to(folder):
        for name, table in {"summary": summary, **atlas.tables}.items():
            latex = summary_latex(atlas, summary) if name == "summary" else None
            files += write_table(table, folder / "tables" / name, atlas.provenance, latex=latex)
        texts = {"card.md": card(atlas)}
        if atlas.maps is None:  # what the profile was fitted on
            texts["profile.md"] = profile_card(atlas.profile)
        for name, text in texts.items():
            files.append(folder / name)
            atomic_write(files[-1], text)
    files.append(write_provenance(folder, atlas.provenance, profile=atlas.profile))
    return files


def summary_latex(atlas: AtlasData, summary: pd.DataFrame) -> str:
    r"""Write a booktabs ``table`` with a row per layer; needs ``\usepackage{booktabs}``."""
    frame = text_cells(summary)
    model = model_name(atlas.provenance) or "the model"
    n = sum(atlas.counts.values())
    caption = (
        f"Positional bias of {escape(model)} by decoder layer, n = {count_text(n, 'image')}, with "
        f"{100 * atlas.confidence:g}\\,\\% intervals. "
        "Explained: share of the variance of log attention on held-out images; images: estimated number for a "
        "reliability of 0.9; border, thumbnail: attention relative to uniform attention."
    )
    headings = [_HEADINGS.get(name, escape(name)) for name in frame.columns]
    rows = [[_value_and_interval(text) for text in row] for row in frame.itertuples(index=False)]
    return latex_table(headings, rows, atlas.provenance, caption=caption, label="tab:atlas")


def _value_and_interval(text: str) -> tuple[str, str]:
    value, _, interval = text.partition(" ")
    return value, interval
