"""Referring expressions read from annotations of any form: each row held against what its reader states."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cached_property

from biaslab._util.text import printable
from biaslab.datasets.annotation_rows import TableRow
from biaslab.datasets.annotation_table import AnnotationTable
from biaslab.datasets.base import ShownDataset, content_hash
from biaslab.datasets.picture_places import PicturePlaces
from biaslab.datasets.reader import Reader
from biaslab.datasets.releases import release_of
from biaslab.datasets.row_samples import RowSamples
from biaslab.datasets.sample import Sample
from biaslab.errors import InputError

__all__ = ["ReferringExpressions"]

logger = logging.getLogger(__name__)


class ReferringExpressions(ShownDataset):
    """The expressions of a table, one sample each; `biaslab.load_dataset` opens it.

    Parameters
    ----------
    table : AnnotationTable
    reader : Reader
        What its columns mean.
    places : PicturePlaces
        Where images are looked for.
    split : str, optional
        Of a table that holds several.
    label : str, optional
        What the split is called where the table is one; default: by its file.
    name : str, optional
        In result tables; default: the reader's.
    recipe : dict, optional
        What ``load_dataset(name, ...)`` needs to find the same data.

    Attributes
    ----------
    name, split : str
        In result tables.
    box_form : str
        Form of the boxes in the file, in `biaslab.datasets.box_forms.FORMS`.

    Raises
    ------
    InputError
        A row that lacks a field, has no expression, or a box that contradicts the reader's form; the message names the
        row. A missing or damaged image is no error here, unless the box cannot be read without it: it becomes one when
        the sample's image is asked for, so that a run can count it.

    Examples
    --------
    >>> import json
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import biaslab as bl
    >>> from biaslab.datasets import ReferringExpressions
    >>> row = {"image": "a.png", "sent": "left bowl", "bbox": [10, 20, 50, 60], "width": 64, "height": 64}
    >>> with TemporaryDirectory() as folder:
    ...     bl.scenes.scene("test", 0).image.resize((64, 64)).save(Path(folder, "a.png"))
    ...     written = Path(folder, "refcoco_val.jsonl").write_text(json.dumps(row))
    ...     data = bl.load_dataset(f"{folder}/refcoco_val.jsonl", images=folder)
    >>> isinstance(data, ReferringExpressions)
    True
    >>> [(sample.expression, sample.box.as_tuple()) for sample in data]
    [('left bowl', (10.0, 20.0, 50.0, 60.0))]
    """

    def __init__(
        self,
        table: AnnotationTable,
        reader: Reader,
        places: PicturePlaces,
        *,
        split: str | None = None,
        label: str | None = None,
        name: str | None = None,
        recipe: dict[str, str] | None = None,
    ) -> None:
        self.recipe, self.box_form, self.path = recipe or {}, reader.box_form, table.path
        rows = _of_split(reader, table, split)
        own_name, own_label = reader.title(table.path, split or label)
        self.name, self.split = name or own_name, printable(own_label)
        release = release_of(self.name, self.split)
        samples = RowSamples(table, reader, places, self.split, stored=reader.stored or release is not None)
        self._samples = samples.read(reader.complete(rows, table.path))
        self.unit = "question" if reader.asks else "expression"
        if release is not None:
            found = len(rows) if release.unit == "rows" else len(self)
            if found != release.count:
                logger.warning(
                    "%s has %d %s, the published split %d: accuracies differ from the published ones",
                    table.source, found, release.unit, release.count,
                )  # fmt: skip
            elif release.note:
                logger.warning("%s, split %s: %s", self.name, self.split, release.note)
            self.split += f" ({release.note})" if release.note else ""

    @cached_property
    def hash(self) -> str:
        """Hash of the ids, expressions and boxes."""
        return content_hash(self)

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]


def _of_split(reader: Reader, table: AnnotationTable, split: str | None) -> list[TableRow]:
    """Choose the rows of a split; a table of one split has no other."""
    splits = [reader.split_of(row) for _, _, row in table.rows[:1]]
    if not splits or splits[0] is None:
        return table.rows
    of = [reader.split_of(row) for _, _, row in table.rows]
    names = list(dict.fromkeys(map(str, of)))
    if split is None and len(names) == 1:
        return table.rows
    if split not in names:
        said = "holds several splits" if split is None else f"has no split {split!r}"
        raise InputError(f"{table.source} {said}: choose one of {', '.join(names)} as split (--split)")
    return [row for row, name in zip(table.rows, of, strict=True) if name == split]
