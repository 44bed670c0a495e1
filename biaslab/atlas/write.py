"""The atlas on disk: figures, tables, the LaTeX table and the card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from biaslab._util.latex import escape
from biaslab._util.watermark import latex_note, noted
from biaslab.atlas.card import card
from biaslab.atlas.draw import displays
from biaslab.atlas.summary import cells
from biaslab.errors import RunFolderError
from biaslab.figures import save
from biaslab.profiles.file import card as profile_card

if TYPE_CHECKING:
    from biaslab.atlas.data import AtlasData

__all__ = ["summary_latex", "write"]

_HEADINGS = {"row eta2": r"$\eta^2$ row", "column eta2": r"$\eta^2$ column"}


def write(atlas: AtlasData, folder: Path) -> list[Path]:
    """Everything of an atlas into a folder; the files written.

    Raises
    ------
    RunFolderError
        The folder cannot be written.
    """
    files: list[Path] = []
    for name, display in displays(atlas).items():
        files += save(display, folder / "figures" / name, close=True)
    summary = atlas.summary()
    try:
        (folder / "tables").mkdir(parents=True, exist_ok=True)
        for name, table in {"summary": summary, **atlas.tables}.items():
            files.append(folder / "tables" / f"{name}.csv")
            noted(table).to_csv(files[-1], index=False)
        texts = {"tables/summary.tex": summary_latex(atlas, summary), "card.md": card(atlas)}
        if atlas.maps is None:  # what the profile was fitted on
            texts["profile.md"] = profile_card(atlas.profile)
        for name, text in texts.items():
            files.append(folder / name)
            files[-1].write_text(text, encoding="utf-8")
    except OSError as err:
        raise RunFolderError(f"{folder} cannot be written ({err.strerror or err}): choose another folder") from None
    return files


def summary_latex(atlas: AtlasData, summary: pd.DataFrame) -> str:
    r"""Booktabs ``table`` with a row per layer; needs ``\usepackage{booktabs}``."""
    frame = cells(summary).map(_small)
    frame.columns = [_HEADINGS.get(name, escape(name)) for name in frame.columns]
    n = sum(atlas.counts.values())
    caption = (
        f"Positional bias of {escape(str(atlas.about.get('model', 'the model')))} by decoder layer, n = {n} images, "
        f"with {100 * atlas.confidence:g}\\,\\% intervals. "
        "Explained: share of the variance of log attention on held-out images; images: number that gives a "
        "reliability of 0.9; border, thumbnail: attention over an even share."
    )
    return latex_note(summary) + frame.style.hide(axis="index").to_latex(
        hrules=True, position="t", position_float="centering", caption=caption, label="tab:atlas",
        column_format="l" + "c" * (len(frame.columns) - 1),
    )  # fmt: skip


def _small(text: str) -> str:
    """The interval in smaller type."""
    value, _, ends = text.partition(" ")
    return f"{value} {{\\scriptsize {ends}}}" if ends else value
