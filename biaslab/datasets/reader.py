"""What a form of annotations is: known by its columns, with boxes of a stated form; one file each in `readers`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from biaslab._util.registry import Registry
from biaslab.datasets.annotation_rows import Row, TableRow

__all__ = ["READERS", "Reader", "Referral", "nearest", "recognise", "register_reader"]


@dataclass(frozen=True)
class Referral:
    """One expression of a row, as its file has it: nothing of it is checked yet.

    Attributes
    ----------
    image
        Path of the image; where the image is in the row itself, its name, or None.
    expression
        The words.
    box
        Four numbers of the reader's ``box_form``.
    width, height
        Of the image, in pixels; None where the file does not say.
    orientation
        "stored" or "upright", where the row says which way up its image is meant.
    answers, category
        Of a row that is a question: what is right, a text or a list of them, and its kind.

    Examples
    --------
    >>> Referral("a.jpg", "left bowl", [10, 20, 110, 90], width=640).box
    [10, 20, 110, 90]
    """

    image: Any
    expression: Any
    box: Any
    width: Any = None
    height: Any = None
    orientation: Any = None
    answers: Any = None
    category: Any = None


class Reader:
    """One form of annotations.

    Attributes
    ----------
    name : str
        Registered name; that of the data set in result tables, where `title` says nothing else.
    what : str
        In messages: "a RefCOCO jsonl".
    columns : tuple of str
        Those that every row has: by them alone a file is recognised, never by its numbers.
    box_form : str
        What the numbers of a box are: a name in `biaslab.datasets.box_forms.FORMS`.
    image, expression, box, answer : str
        Names of these columns.
    several : bool
        Whether a row may hold several expressions; each becomes a sample.
    skips : bool
        Whether rows without an expression are passed over; elsewhere they are refused.
    pictures : str or None
        Column that holds the images themselves.
    stored : bool
        Whether boxes are in pixels of the images as they are stored, whatever their EXIF orientation (COCO's
        convention), where the row does not say it.
    asks : bool
        Whether rows are questions: their referrals have answers, and a box only where it is known where to look.

    Examples
    --------
    >>> class Corners(Reader):
    ...     name, what = "corners", "a table of corners"
    ...     columns, expression, box = ("image", "words", "corners"), "words", "corners"
    >>> reader = Corners()
    >>> reader.lacking(["image", "words"])
    ['corners']
    >>> [found] = reader.referrals({"image": "a.jpg", "words": "left bowl", "corners": [10, 20, 110, 90]})
    >>> found.expression, found.box
    ('left bowl', [10, 20, 110, 90])
    """

    def __repr__(self) -> str:
        return f"<reader of {self.what}>"

    name: ClassVar[str]
    what: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    box_form: ClassVar[str] = "xyxy"
    image: ClassVar[str] = "image"
    expression: ClassVar[str] = "expression"
    box: ClassVar[str] = "bbox"
    answer: ClassVar[str] = "answer"
    several: ClassVar[bool] = False
    skips: ClassVar[bool] = False
    pictures: ClassVar[str | None] = None
    stored: ClassVar[bool] = False
    asks: ClassVar[bool] = False

    @classmethod
    def matches(cls, columns: Collection[str]) -> bool:
        """Whether rows with these columns are of this form."""
        return set(cls.columns) <= set(columns)

    def lacking(self, columns: Collection[str]) -> list[str]:
        """List the columns that a row with these lacks; none where it is of this form."""
        return [] if self.matches(columns) else [column for column in self.columns if column not in columns]

    def referrals(self, row: Row) -> Iterable[Referral]:
        """List the expressions of a row; by default one, in the columns that the class names.

        Raises
        ------
        ValueError
            The row cannot be one of this form; in words that follow the row's name.
        """
        told = {name: row.get(name) for name in ("width", "height", "orientation")}
        yield Referral(row[self.image], row[self.expression], row[self.box], **told)

    def complete(self, rows: list[TableRow], path: Path | None) -> list[TableRow]:
        """Add to the rows what lies in other files beside ``path``; by default nothing."""
        return rows

    def split_of(self, row: Row) -> str | None:
        """Tell the split that a row belongs to; None where a file is one split."""
        return None

    def title(self, path: Path | None, split: str | None) -> tuple[str, str]:
        """Name the data set and its split, for result tables."""
        return self.name, split or ("" if path is None else path.stem)


#: name -> reader, one per form of annotations
READERS: Registry[type[Reader]] = Registry(
    "reader of annotations", package="biaslab.datasets.readers", group="biaslab.readers", alphabetical=True
)


def register_reader(reader: type[Reader]) -> type[Reader]:
    """Register a form of annotations by its ``name``: decorates the class.

    Parameters
    ----------
    reader : subclass of Reader

    Returns
    -------
    type
        The class.

    Examples
    --------
    >>> from biaslab.datasets import READERS, Reader
    >>> issubclass(READERS["refcoco-jsonl"], Reader)
    True
    >>> register_reader(type("Other", (Reader,), {"name": "refcoco-jsonl"}))
    Traceback (most recent call last):
    ...
    biaslab.errors.InputError: a reader of annotations named 'refcoco-jsonl' exists already: choose another name
    """
    return READERS.register(reader)


def recognise(columns: Collection[str]) -> Reader | None:
    """Find the reader whose columns these are; that with the most columns, where several would do.

    Examples
    --------
    >>> recognise(["img_path", "expression", "bbox", "dataset_name", "height", "width"]).name
    'shikra'
    >>> recognise(["a", "b"]) is None
    True
    """
    fitting = [reader for reader in READERS.values() if reader.matches(columns)]
    return max(fitting, key=lambda reader: len(reader.columns))() if fitting else None


def nearest(columns: Collection[str]) -> type[Reader]:
    """Find the reader that these columns come nearest to, for messages: RefCOCO's jsonl where none is near."""
    share = {
        reader: sum(column in columns for column in reader.columns) / len(reader.columns) for reader in READERS.values()
    }
    best = max(share, key=lambda reader: share[reader])
    return best if share[best] > 0.5 else READERS["refcoco-jsonl"]
