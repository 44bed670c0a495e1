"""Rows of annotations, what their columns mean, and the images that some of them hold themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from biaslab.datasets.annotation_rows import TableRow, not_rows
from biaslab.datasets.columns import HINT, ColumnReader
from biaslab.datasets.file_kinds import PLAIN, listed, object_kind
from biaslab.datasets.reader import Reader, nearest, recognise
from biaslab.datasets.row_image import RowPicture
from biaslab.errors import InputError

__all__ = ["AnnotationTable", "HeldPicture", "choose_reader"]


class HeldPicture(RowPicture, Protocol):
    """An image that lies in the table itself."""

    def digest(self) -> str:
        """Name it by its content."""
        ...


@dataclass(frozen=True)
class AnnotationTable:
    """What a file, a data set of the hub or one in memory holds.

    Attributes
    ----------
    source : str
        For messages.
    path : Path or None
        Of its file.
    rows : list of (index, where, row)
        Without the images.
    picture : callable or None
        Index of a row -> its image, where the rows hold them.
    """

    source: str
    path: Path | None
    rows: list[TableRow]
    picture: Callable[[int, str], HeldPicture] | None = None


def choose_reader(
    columns: tuple[str, ...], source: str, asked: str | None = None, where: str = "line 1", row: object = None
) -> Reader:
    """Choose the reader of a table: by what the user says of its columns, else by the columns alone.

    Parameters
    ----------
    columns : tuple of str
        Of the table.
    source, where : str
        Names of the table and of its first row.
    asked : str, optional
        As for :class:`~biaslab.datasets.columns.ColumnReader`.
    row : dict, optional
        The first row, which may show that the file is something else.

    Raises
    ------
    InputError
        No reader knows these columns; the message says which come nearest, and what to write.
    """
    if asked is not None:
        chosen = ColumnReader(asked)
        chosen.check(columns, source)
        return chosen
    if (known := recognise(columns)) is not None:
        return known
    if isinstance(row, dict) and not (kind := object_kind(row)).startswith(PLAIN):
        raise not_rows(source, kind)
    near = nearest(columns)
    missing = [column for column in near.columns if column not in columns]
    names = f"field{'s' * (len(missing) > 1)} {', '.join(missing)}"
    raise InputError(
        f"{source}, {where} has no {names}: it has {listed(columns)}; {near.what} has {', '.join(near.columns)}; if it "
        f"is another table, {HINT}"
    )
