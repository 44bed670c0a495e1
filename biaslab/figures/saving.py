"""Every figure as PDF for the paper, PNG for the eye, CSV for whoever wants the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from biaslab._util.files import atomic_write, writing_to
from biaslab._util.tables import write_table
from biaslab._util.watermark import note_of
from biaslab.errors import InputError
from biaslab.figures.styling import style

__all__ = ["png_bytes", "save"]


def save(display: Any, path: str | Path, *, close: bool = False) -> list[Path]:
    """Write ``path.pdf``, ``path.png`` (300 dpi) and ``path.csv`` (what is drawn).

    Parameters
    ----------
    display : Display
        It is plotted first if it was not. One whose data come from a rehearsal carries its note in the corner and in a
        column of the CSV.
    path : str or Path
        Without extension; one of .pdf, .png, .csv is dropped. Missing folders are made.
    close : bool
        Release the figure afterwards; set it when writing many.

    Returns
    -------
    list of Path
        The three files.

    Raises
    ------
    InputError
        ``display`` has nothing to draw.
    RunFolderError
        The place cannot be written.

    Examples
    --------
    >>> import matplotlib as mpl, pandas as pd
    >>> mpl.use("Agg")
    >>> from tempfile import TemporaryDirectory
    >>> from biaslab.figures import AurocDisplay
    >>> display = AurocDisplay.from_table(pd.DataFrame({"layer": [0, 1], "score": "raw", "auroc": [0.5, 0.7]}))
    >>> with TemporaryDirectory() as folder:
    ...     [file.name for file in save(display, f"{folder}/auroc", close=True)]
    ['auroc.pdf', 'auroc.png', 'auroc.csv']
    """
    if not hasattr(display, "plot") or not isinstance(getattr(display, "data", None), pd.DataFrame):
        raise InputError(f"{type(display).__name__} is not a Display: make one with its from_...() method")
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".pdf", ".png", ".csv") else path
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in ("pdf", "png", "csv")]
    with style():
        if getattr(display, "figure_", None) is None:
            display.plot()
        figure, note = display.figure_, note_of(display.data)
        # no date inside: the same figure is the same file
        metadata = ({"CreationDate": None, "Subject": note}, {"Comment": note} if note else None)
        try:
            with _settled(figure), _stamped(figure, note):
                frame, drawn = _frame(figure), (BytesIO(), BytesIO())
                for file, buffer, facts in zip(files, drawn, metadata, strict=False):  # a file is whole or not there
                    figure.savefig(buffer, format=file.suffix[1:], bbox_inches=frame, metadata=facts)
        finally:
            if close:
                plt.close(figure)
    with writing_to(f"the figure {stem}"):
        stem.parent.mkdir(parents=True, exist_ok=True)
        for file, buffer in zip(files, drawn, strict=False):
            atomic_write(file, buffer.getvalue())
        write_table(display.data, files[2], display.data)
    return files


def png_bytes(figure: Figure, note: str | None) -> bytes:
    """Draw a figure as PNG at its own resolution, framed and stamped as :func:`save` does."""
    buffer = BytesIO()
    with style(), _settled(figure), _stamped(figure, note):
        figure.savefig(buffer, format="png", dpi="figure", bbox_inches=_frame(figure))
    return buffer.getvalue()


@contextmanager
def _settled(figure: Figure) -> Iterator[None]:
    """Lay the figure out and hold it so: a layout engine moves axes at every draw, out of a frame taken before.

    The engine is taken off, not replaced by its placeholder, for which every file would be drawn twice.
    """
    engine = figure.get_layout_engine()
    figure.draw_without_rendering()
    with plt.rc_context({"figure.autolayout": False, "figure.constrained_layout.use": False}):
        figure.set_layout_engine(None)  # an engine that the settings name would come in its place
    try:
        yield
    finally:
        if engine is not None:
            figure.set_layout_engine(engine)


@contextmanager
def _stamped(figure: Figure, note: str | None) -> Iterator[None]:
    """Write the note in grey above the upper right corner, where nothing is drawn, while the figure is written."""
    text = None if note is None else figure.text(1.0, 1.0, note, ha="right", va="bottom", fontsize=6, color="0.55")
    try:
        yield
    finally:
        if text is not None:
            text.remove()


def _frame(figure: Figure) -> Bbox:
    """Frame the full width, so that the figure is printed at the size its text was set for, and the height as drawn."""
    drawn = figure.get_tightbbox()
    return Bbox([[min(0.0, drawn.x0), drawn.y0 - 0.02], [max(figure.get_figwidth(), drawn.x1), drawn.y1 + 0.02]])
