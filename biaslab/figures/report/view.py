"""The viewer alone, in a notebook: a frame that holds all it shows, so that it survives saving and conversion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from biaslab._util.files import atomic_write, writing_to
from biaslab._util.output_place import check_output_file
from biaslab._util.watermark import note_of
from biaslab.figures.report.page import Block, Page, Section, render

__all__ = ["View"]


class View:
    """Something to look at: shown where it is the last value of a notebook's cell.

    Parameters
    ----------
    data : dict
        Of `biaslab.figures.report.viewer_data`.
    title : str
    model : object
        Where it comes from: the frame of a rehearsal says so.
    height : int
        Of the frame, in pixels.
    notes : sequence of str
        Sentences above the viewer.

    Attributes
    ----------
    html : str
        The whole page.
    """

    def __init__(
        self,
        data: Mapping[str, Any],
        title: str,
        *,
        model: Any = None,
        height: int = 760,
        notes: Sequence[str] = (),
    ) -> None:
        note = note_of(model)
        blocks = [Block("text", f"{note.capitalize()}: the numbers mean nothing.")] if note else []
        blocks += [Block("sentences", list(notes))] if notes else []
        section = Section("samples", "", [*blocks, Block("viewer")])
        self.title, self.height = title, height
        self.n = len(data["samples"])
        self.html = render(Page(title=title, sections=[section], data=dict(data), kind="view"))

    def save(self, path: str | Path) -> Path:
        """Write the page to a file, which opens in any browser.

        Parameters
        ----------
        path : str or Path

        Returns
        -------
        Path

        Raises
        ------
        InputError, RunFolderError
            The place cannot be written.
        """
        file = check_output_file(path, suffix=".html")
        with writing_to(file):
            atomic_write(file, self.html)
        return file

    def _repr_html_(self) -> str:
        # srcdoc: nothing lies beside the notebook; sandboxed: the page cannot reach the notebook around it
        return (
            f'<iframe srcdoc="{escape(self.html)}" title="{escape(self.title)}" width="100%" height="{self.height}" '
            'style="border: 0" sandbox="allow-scripts allow-downloads"></iframe>'
        )

    def __repr__(self) -> str:
        title = " ".join(self.title.split())  # an expression may be of several lines
        return f"<View: {title}, {self.n} sample{'' if self.n == 1 else 's'}>"
