"""The report of a folder that ``probe`` or an atlas has written: its card, figures and tables in one file."""

from __future__ import annotations

import base64
from pathlib import Path

from markupsafe import Markup

from biaslab.errors import RunFolderError
from biaslab.figures.report.cards import card_html
from biaslab.figures.report.page import Block, Page, Section
from biaslab.figures.report.tables import data_link

__all__ = ["folder_page", "is_measured"]

_CARD = "card.md"
_TYPES = {".csv": "text/csv", ".tex": "application/x-tex"}


def is_measured(folder: str | Path) -> bool:
    """Whether a folder holds a probe or an atlas: a card, and no run of ``evaluate``."""
    return (Path(folder) / _CARD).is_file() and not (Path(folder) / "run.json").exists()


def folder_page(folder: Path) -> Page:
    """Put together the report of a probe or an atlas; every sentence is its card's.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    Page

    Raises
    ------
    RunFolderError
        The card cannot be read.
    """
    try:
        text = (folder / _CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(
            f"{folder / _CARD} cannot be read ({error}): run the command that wrote it again"
        ) from None
    title = next((line[2:].strip() for line in text.splitlines() if line[:1] == "#" and line[1:2] == " "), folder.name)
    drawn = [(path.stem, _embedded(path)) for path in sorted([*folder.glob("*.png"), *folder.glob("figures/*.png")])]
    links = [
        data_link(path.name, path.read_text(encoding="utf-8", errors="replace"), _TYPES[path.suffix])
        for path in sorted([*folder.glob("*.csv"), *folder.glob("tables/*")])
        if path.suffix in _TYPES
    ]
    file = folder / "profile.md"  # of an atlas of a profile
    profile = [Block("card", card_html(file.read_text(encoding="utf-8")))] if file.is_file() else []
    return Page(
        title=title,
        sections=[
            Section("found", "What was found", [Block("card", card_html(text))]),
            Section("figures", "Figures", [Block("figures", drawn)] if drawn else []),
            Section("profile", "Profile", profile),
            Section("tables", "Tables", [Block("links", links)] if links else []),
        ],
        note="Rehearsal, random weights" if "**Rehearsal, random weights" in text else None,
    )


def _embedded(path: Path) -> Markup:
    address = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
    return Markup('<img alt="{}" src="{}">').format(path.stem, address)
