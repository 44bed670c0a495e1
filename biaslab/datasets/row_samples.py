"""Samples of annotation rows: each row held against what its reader states, and named where it contradicts it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from biaslab._util.text import as_written, printable, why_unreadable
from biaslab.core.boxes import Box
from biaslab.datasets.annotation_rows import TableRow
from biaslab.datasets.annotation_table import AnnotationTable
from biaslab.datasets.answer_values import category_of, right_answers
from biaslab.datasets.box_forms import FORMS, check_boxes, warn_if_unlikely
from biaslab.datasets.coco_names import image_id
from biaslab.datasets.file_kinds import listed
from biaslab.datasets.picture_places import PicturePlaces, PlacedPicture
from biaslab.datasets.question import Question
from biaslab.datasets.reader import Reader, Referral
from biaslab.datasets.row_image import ORIENTATIONS, RowImage, RowPicture, stated_size
from biaslab.datasets.sample import Sample, object_size
from biaslab.errors import InputError

__all__ = ["RowSamples"]

_NUMBERS = re.compile(r"\s*[\[(]?\s*(\S+?)\s*[,\s]\s*(\S+?)\s*[,\s]\s*(\S+?)\s*[,\s]\s*([^\s\])]+)\s*[\])]?\s*")


@dataclass
class RowSamples:
    """Turns the rows of a table into samples.

    Parameters
    ----------
    table : AnnotationTable
    reader : Reader
        What its columns mean.
    places : PicturePlaces
        Where images are looked for.
    stem : str
        What the ids of the samples begin with.
    stored : bool
        Whether boxes mean images as they are stored, where a row does not say it.
    """

    table: AnnotationTable
    reader: Reader
    places: PicturePlaces
    stem: str
    stored: bool
    _sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    _unnamed: dict[str, int] = field(default_factory=dict)  # images without a name, by their content

    def read(self, rows: list[TableRow]) -> list[Sample]:
        """Make the samples.

        Raises
        ------
        InputError
            The first row that cannot be what the reader says, by its name, and the fix.
        """
        found = list(self._referrals(rows))
        if not found:
            raise InputError(f"{self.table.source} holds no expression with a box")
        entries = [self._entry(*one) for one in found]
        if self.reader.asks:
            return self._questions(entries)
        return list(self._expressions(entries))

    def _questions(self, entries: list[_Entry]) -> list[Sample]:
        """Make questions; of some it is known where to look."""
        seen = iter(self._expressions([entry for entry in entries if entry.box]))
        return [entry.question(next(seen).box if entry.box else None) for entry in entries]

    def _expressions(self, entries: list[_Entry]) -> Iterator[Sample]:
        """Make referring expressions, their boxes held against the form."""
        if not entries:
            return
        source, form = self.table.source, self.reader.box_form
        numbers, sizes = [e.box for e in entries], [e.size for e in entries]
        check_boxes(numbers, sizes, [e.where for e in entries], source=source, form=form, field=self.reader.box)
        warn_if_unlikely(numbers, sizes, source=source, form=form)
        corners = FORMS[form].to_pixels(np.asarray(numbers, float), np.asarray(sizes, float)).tolist()
        yield from (entry.sample(Box(*box)) for entry, box in zip(entries, corners, strict=True))

    def _referrals(self, rows: list[TableRow]) -> Iterator[tuple[TableRow, int, Referral]]:
        reader = self.reader
        for row in rows:
            where = f"{self.table.source}, {row[1]}"
            held = {reader.pictures} if self.table.picture and reader.pictures else set()
            if missing := reader.lacking(row[2].keys() | held):
                raise InputError(
                    f"{where} has no field{'s' * (len(missing) > 1)} {', '.join(missing)}: it has {listed(row[2])}; "
                    f"{reader.what} has {', '.join(reader.columns)}; a file holds rows of one form: split it by form"
                )
            try:
                referrals = list(reader.referrals(row[2]))
            except ValueError as error:
                raise InputError(f"{where}: {error}") from None
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                raise InputError(f"{where} is no row of {reader.what} ({type(error).__name__}: {error})") from None
            if not referrals and not reader.skips:
                raise InputError(f"{where}: {reader.expression} holds no expression")
            for number, referral in enumerate(referrals):
                yield row, number, referral

    def _entry(self, row: TableRow, number: int, referral: Referral) -> _Entry:
        reader, where = self.reader, f"{self.table.source}, {row[1]}"
        expression = _text(referral.expression, reader.expression, where)
        if why := why_unreadable(expression):
            raise InputError(f"{where}: {reader.expression} {why}")
        if referral.orientation not in (None, *ORIENTATIONS):
            raise InputError(
                f"{where}: orientation is {as_written(referral.orientation)}: write {' or '.join(ORIENTATIONS)}, or "
                "leave it out"
            )
        orientation = referral.orientation or ("stored" if self.stored else None)
        picture, image = self._picture(row, referral, where)
        stated = _size(referral, where)
        no_evidence = reader.asks and (referral.box is None or len(referral.box) == 0)
        box = [] if no_evidence else _box(referral.box, reader.box, where)
        size = stated or self._size_of(picture, orientation, box, where)
        suffix = f"-{number}" if reader.several else ""
        return _Entry(
            where=row[1], id=f"{self.stem}-{row[0]:06d}{suffix}", image_id=printable(image_id(image)),
            expression=expression.strip(), box=box, size=size, loader=RowImage(picture, stated, orientation),
            answers=right_answers(referral.answers, reader.answer, where) if reader.asks else (),
            category=category_of(referral.category, where),
        )  # fmt: skip

    def _picture(self, row: TableRow, referral: Referral, where: str) -> tuple[RowPicture, str]:
        """Return the image of a row and its name."""
        reader, table = self.reader, self.table
        if reader.pictures is not None and table.picture is not None:
            held = table.picture(row[0], reader.pictures)
            if isinstance(referral.image, str) and referral.image:
                return held, referral.image
            number = self._unnamed.setdefault(held.digest(), len(self._unnamed))
            return held, f"image-{number:06d}"
        name = _text(referral.image, reader.image, where)
        try:
            os.fsencode(name)
        except UnicodeEncodeError:
            raise InputError(
                f"{where}: {reader.image} holds half a character ({as_written(name)}): no file has that name"
            ) from None
        return PlacedPicture(self.places, name), name

    def _size_of(self, picture: RowPicture, orientation: str | None, box: list[float], where: str) -> tuple[int, int]:
        """Read a size that the row does not have; without its image, pixels still tell where the box is."""
        try:
            if picture.name not in self._sizes:
                self._sizes[picture.name] = stated_size(picture, orientation)
            return self._sizes[picture.name]
        except InputError as error:
            if not box:
                return 1, 1  # the sample ends in the same error
            form = FORMS[self.reader.box_form]
            corners = form.corners(np.asarray([box], float))[0]
            if form.in_pixels and (corners[2:] >= 1).all():
                return math.ceil(corners[2]), math.ceil(corners[3])  # the sample ends in the same error
            raise InputError(f"{where} has no size of its image, which its box needs: {error}") from None


class _Entry:
    """One expression, checked but for its box."""

    def __init__(
        self, *, where: str, id: str, image_id: str, expression: str, box: list[float], size: tuple[int, int],
        loader: RowImage, answers: tuple[str, ...] = (), category: str = "",
    ) -> None:  # fmt: skip
        self.where, self.id, self.image_id, self.expression = where, id, image_id, expression
        self.box, self.size, self.loader = box, size, loader
        self.answers, self.category = answers, category

    def question(self, evidence: Box | None) -> Question:
        """Make the question."""
        return Question.about(
            self.loader, self.expression, self.answers, id=self.id, image_id=self.image_id, size=self.size,
            category=self.category, evidence=evidence,
        )  # fmt: skip

    def sample(self, corners: Box) -> Sample:
        """Make the sample; what lies up to a pixel over the edge is cut off."""
        box = corners.clip(self.size)
        return Sample(
            id=self.id, image_id=self.image_id, expression=self.expression, box=box, expression_type="",
            object_size=object_size(box, *self.size), width=self.size[0], height=self.size[1], loader=self.loader,
        )  # fmt: skip


def _text(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(
            f"{where}: {field} is {'empty' if value == '' else as_written(value)}, not a text that says something"
        )
    return value


def _size(referral: Referral, where: str) -> tuple[int, int] | None:
    values = (referral.width, referral.height)
    if values == (None, None):
        return None
    sizes = [_number(value, name, where) for value, name in zip(values, ("width", "height"), strict=True)]
    for name, size, value in zip(("width", "height"), sizes, values, strict=True):
        if size < 1 or size % 1:
            raise InputError(f"{where}: {name} is {as_written(value)}, not a whole number of pixels above 0")
    return int(sizes[0]), int(sizes[1])


def _box(value: Any, field: str, where: str) -> list[float]:
    """Read four numbers, a list of them or a text that is one."""
    if isinstance(value, str) and (found := _NUMBERS.fullmatch(value)) is not None:
        value = list(found.groups())
    if isinstance(value, (tuple, np.ndarray)):
        value = list(value)
    if value is None or value == []:
        raise InputError(f"{where}: {field} is {as_written(value)}: the expression has no target; leave it out")
    if not isinstance(value, list):
        raise InputError(f"{where}: {field} is {as_written(value)}, not a list [x1, y1, x2, y2]")
    if all(isinstance(inner, (list, tuple)) for inner in value):
        if len(value) != 1:
            raise InputError(f"{where}: {field} holds {len(value)} boxes: an expression has one target; leave it out")
        value = list(value[0])
    if len(value) != 4:
        raise InputError(f"{where}: {field} has {len(value)} number{'s' * (len(value) != 1)}, not 4 ([x1, y1, x2, y2])")
    return [_number(number, field, where) for number in value]


def _number(value: Any, field: str, where: str) -> float:
    """Read a finite number, which may be written as a text."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: {field} holds {as_written(value)}, which is no finite number")
    return number
