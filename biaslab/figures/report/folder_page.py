"""The report of a folder that ``probe`` or an atlas has written: its card, figures, tables and origin in one file."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from biaslab.errors import RunFolderError
from biaslab.evaluation.provenance_file import PROVENANCE_FILE
from biaslab.figures.report.cards import card_html
from biaslab.figures.report.page import Block, Page, Section
from biaslab.figures.report.tables import data_link

__all__ = ["folder_page", "is_measured"]

_CARD = "card.md"
_LONG = 400  # characters of a setting on the page
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
        The card or the provenance cannot be read.
    """
    text = _read(folder / _CARD)
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
            Section("provenance", "Provenance", _provenance(folder / PROVENANCE_FILE)),
        ],
        note="Rehearsal, random weights" if "**Rehearsal, random weights" in text else None,
    )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, why: Any) -> RunFolderError:
    return RunFolderError(f"{file} cannot be read ({why}): run the command that wrote it again")


def _provenance(file: Path) -> list[Block]:
    """Say where the numbers come from, as the report of a run does."""
    if not file.is_file():
        text = f"The folder has no {file.name}: an earlier version wrote it, and the same command writes one now."
        return [Block("text", text)]
    record = _read(file)
    try:
        known = json.loads(record)
        facts = [*_facts("", known["settings"]), ("made", str(known["created"]))]
        own = {k: v for k, v in (known["profile"] or {}).items() if known["settings"].get(k) != v}
        facts += _facts("profile: ", own)
        facts += [(f"version of {name}", str(value)) for name, value in known["environment"].items()]
        command, cited = known["command"], str(known["bibtex"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(file, " ".join(str(error).split()) or type(error).__name__) from None
    made = Block("text", "Made in Python: no command line is known.")
    return [
        Block("facts", facts),
        made if command is None else Block("code", str(command), "Command"),
        Block("code", cited, "Works to cite"),
        Block("links", [data_link("citations.bib", cited, "application/x-bibtex"),
                        data_link(file.name, record, "application/json")]),
    ]  # fmt: skip


def _facts(before: str, settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List settings as text; what is long is whole in the file itself."""
    texts = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in settings.items()}
    return [(f"{before}{k}", v if len(v) <= _LONG else f"{v[:_LONG]}...") for k, v in texts.items()]


def _embedded(path: Path) -> Markup:
    """Embed a figure as lossless WebP: the same pixels in less than half the bytes, and a report stays fit to send."""
    file, kind = io.BytesIO(), "webp"
    try:
        with Image.open(path) as figure:
            figure.save(file, "WEBP", lossless=True)
    except (OSError, ValueError):  # longer than the 16,383 pixels of the format, or no figure at all
        file, kind = io.BytesIO(path.read_bytes()), "png"
    address = f"data:image/{kind};base64," + base64.b64encode(file.getvalue()).decode("ascii")
    return Markup('<img alt="{}" src="{}">').format(path.stem, address)
