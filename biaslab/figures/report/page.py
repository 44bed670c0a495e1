"""From the parts of a report to the text of its one file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from biaslab.profiles.provenance import version

__all__ = ["Block", "Page", "Section", "render"]


@dataclass(frozen=True)
class Block:
    """A part of a section.

    Attributes
    ----------
    kind : str
        ``"sentences"``, ``"text"``, ``"code"``, ``"figures"`` ((caption, drawing) pairs), ``"facts"`` ((name, value)
        pairs), ``"links"``, ``"table"`` (`biaslab.figures.report.tables.Table`), ``"card"`` (`Markup`) or
        ``"viewer"``.
    content : object
    title : str
    """

    kind: str
    content: Any = None
    title: str = ""


@dataclass(frozen=True)
class Section:
    """A section of a page: its anchor, heading and blocks."""

    id: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a report says.

    Attributes
    ----------
    title, subtitle : str
    sections : sequence of Section
        One without blocks is left out.
    data : dict, optional
        Of the viewer (:func:`biaslab.figures.report.viewer_data.viewer_data`).
    note : str, optional
        Mark of a rehearsal.
    kind : str
        ``"report"``, or ``"view"`` for the viewer alone.
    """

    title: str
    sections: Sequence[Section]
    subtitle: str = ""
    data: dict[str, Any] | None = None
    note: str | None = None
    kind: str = "report"


def render(page: Page) -> str:
    """Write a page as HTML.

    All text is escaped, and the page forbids the browser every request and every script but its own by a content
    security policy: what a data set or a model says is shown, never run.

    Parameters
    ----------
    page : Page

    Returns
    -------
    str
        HTML.

    Examples
    --------
    >>> from biaslab.figures.report.page import Block, Page, Section, render
    >>> html = render(Page(title="<b>", sections=[Section("found", "Found", [Block("sentences", ["a < b"])])]))
    >>> "<title>&lt;b&gt;</title>" in html, "<li>a &lt; b</li>" in html
    (True, True)
    """
    template = _environment().get_template("page.html.jinja")
    style, script = _source("report.css"), _source("viewer_drawing.js") + _source("viewer.js")
    return template.render(
        page=page.__class__(**{**page.__dict__, "sections": [s for s in page.sections if s.blocks]}),
        style=Markup(style),
        style_hash=_digest(style),
        script=Markup(script),
        script_hash=_digest(script),
        data=Markup(_json(page.data)),
        version=version(),
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("biaslab.figures.report", package_path="."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _source(name: str) -> str:
    return files("biaslab.figures.report").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _json(data: Any) -> str:
    """Write JSON that cannot end the script element around it, whatever its texts hold."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
