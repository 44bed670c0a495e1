"""Any table, with what its columns mean said by hand: ``image=file,expression=text,box=xywh:bbox``.

A table of questions: ``image=file,question=text,answer=label``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from biaslab.datasets.annotation_rows import Row
from biaslab.datasets.box_forms import FORMS
from biaslab.datasets.reader import Reader, Referral
from biaslab.errors import InputError

__all__ = ["ColumnReader", "HINT", "image_and_expression"]

HINT = (
    "say what its columns mean: --columns image=COLUMN,expression=COLUMN,box=FORM:COLUMN (of questions "
    "image=COLUMN,question=COLUMN,answer=COLUMN)"
)
_KEYS = ("image", "expression", "box", "question", "answer", "category", "width", "height", "split", "orientation")
_OF_QUESTIONS = ("question", "answer", "category")
_EXAMPLE = "image=file_name,expression=sentence,box=xywh:bbox"
_EXAMPLE_WITHOUT = "image=file_name,expression=sentence"
_EXAMPLE_OF_QUESTIONS = "image=file_name,question=text,answer=label"
_NEEDED_OF_QUESTIONS = ("image", "question", "answer")


class ColumnReader(Reader):
    """Reads the columns it is told to.

    Parameters
    ----------
    columns : str
        ``image=``, ``expression=`` and ``box=FORM:`` with the names of columns; optionally ``width=``, ``height=``,
        ``split=``, ``orientation=``. Of questions ``image=``, ``question=`` and ``answer=``, optionally ``category=``
        and ``box=``. FORM is a name in `biaslab.datasets.box_forms.FORMS`; a box in four columns is
        ``box=xyxy:x1+y1+x2+y2``. ``image=base64:COLUMN`` is a column of images in base64.

    Raises
    ------
    InputError
        Anything else; the message has an example.

    Examples
    --------
    >>> reader = ColumnReader("image=file,expression=text,box=xywh:x+y+w+h")
    >>> reader.box_form, reader.columns
    ('xywh', ('file', 'text', 'x', 'y', 'w', 'h'))
    >>> ColumnReader("image=file,question=text,answer=label").asks
    True
    """

    name = "table"
    what = "a table with these columns"

    def __init__(self, columns: str) -> None:
        self.mapping = columns
        asks = isinstance(columns, str) and any(part.strip().startswith("question=") for part in columns.split(","))
        given = _parsed(columns, _EXAMPLE_OF_QUESTIONS, _NEEDED_OF_QUESTIONS) if asks else _parsed(columns)
        if not asks and (others := [key for key in given if key in _OF_QUESTIONS]):
            raise InputError(f"--columns has {', '.join(others)} without question=: write {_EXAMPLE_OF_QUESTIONS}")
        if asks and "expression" in given:
            raise InputError("--columns takes expression= or question=: drop one")
        self._of = {key: column for key, column in given.items() if key != "box"}
        form, names = _box_columns(given["box"]) if "box" in given else ("xyxy", "")
        self._box = names.split("+") if names else []
        text = "question" if asks else "expression"
        in_row = self._of["image"].startswith("base64:")
        self._of["image"] = self._of["image"].removeprefix("base64:")
        # of this reader alone, where others state them for their class
        vars(self).update(
            box_form=form, image=self._of["image"], expression=self._of[text], box=names, asks=asks,
            answer=self._of.get("answer", "answer"),
            columns=(*dict.fromkeys([*self._of.values(), *self._box]),), pictures=self._of["image"] if in_row else None,
        )  # fmt: skip

    def check(self, columns: Collection[str], source: str) -> None:
        """Refuse a table that lacks one of the columns."""
        if missing := self.lacking(columns):
            names = ", ".join(map(str, columns))
            raise InputError(f"{source} has no column {', '.join(missing)}: it has {names}; correct --columns")

    def lacking(self, columns: Collection[str]) -> list[str]:
        """List the columns that are missing among these."""
        return [column for column in self.columns if column not in columns]

    def referrals(self, row: Row) -> Iterable[Referral]:
        """One expression a row."""
        box = row[self._box[0]] if len(self._box) == 1 else [row[column] for column in self._box] or None
        named = ("width", "height", "orientation", "category")
        told = {key: row[column] for key, column in self._of.items() if key in named}
        image = None if self.pictures else row[self._of["image"]]
        answers = row[self._of["answer"]] if self.asks else None
        yield Referral(image, row[self.expression], box, answers=answers, **told)

    def split_of(self, row: Row) -> str | None:
        """Return the column that ``split=`` names."""
        return str(row[self._of["split"]]) if "split" in self._of else None


def image_and_expression(columns: str) -> tuple[str, str]:
    """Read the two columns of a table without boxes.

    Raises
    ------
    InputError
        Anything but ``image=COLUMN,expression=COLUMN``.

    Examples
    --------
    >>> image_and_expression("image=photo,expression=says")
    ('photo', 'says')
    """
    given = _parsed(columns, _EXAMPLE_WITHOUT, needs=("image", "expression"))
    if others := [key for key in given if key not in ("image", "expression")]:
        raise InputError(f"captions have no {', '.join(others)}: write --columns {_EXAMPLE_WITHOUT}")
    return given["image"], given["expression"]


def _box_columns(given: str) -> tuple[str, str]:
    """Read the form of a box, and its columns."""
    form, _, names = given.partition(":")
    if form not in FORMS or not names:
        raise InputError(f"--columns box=FORM:COLUMN takes a form of {', '.join(FORMS)}; got box={given}")
    if len(names.split("+")) not in (1, 4):
        raise InputError(f"--columns box takes one column or four, joined by +; got box={given}")
    return form, names


def _parsed(
    text: Any, example: str = _EXAMPLE, needs: Collection[str] = ("image", "expression", "box")
) -> dict[str, str]:
    if not isinstance(text, str):
        raise InputError(f"columns is a text such as {example}, got {type(text).__name__}")
    given: dict[str, str] = {}
    for part in text.split(","):
        key, sep, column = (piece.strip() for piece in part.partition("="))
        if not sep or not column or key not in _KEYS:
            raise InputError(f"--columns takes {', '.join(_KEYS)}, such as {example}; got {part.strip()!r}")
        if key in given:
            raise InputError(f"--columns names {key} twice: drop one")
        given[key] = column
    if missing := [key for key in needs if key not in given]:
        raise InputError(f"--columns lacks {', '.join(missing)}: write, for example, {example}")
    if ("width" in given) != ("height" in given):
        raise InputError("--columns takes width and height together, or neither: the image has them, too")
    return given
