"""Tables that hold images, and data sets of the hub: through the library `datasets` (`pip install biaslab[data]`).

Tables are memory-mapped: images are read from disk one by one, as they are asked for.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from biaslab.datasets.annotation_table import AnnotationTable
from biaslab.errors import InputError

__all__ = ["SAVED", "HubPicture", "hub_table", "is_hub_dataset", "open_csv", "open_hub", "open_parquet"]

SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` writes into a folder
_REFERENCE = 64  # characters up to which an image in base64 is the index of the row that holds it (VLMEvalKit)


@dataclass(frozen=True)
class HubPicture:
    """The image of one row; a plain object, so that samples can go to other processes.

    Attributes
    ----------
    data : datasets.Dataset
    places : mapping
        Row by index, where images in base64 may refer to other rows.
    row : int
    column : str
    """

    data: Any
    places: Mapping[str, int]
    row: int
    column: str

    @property
    def name(self) -> str:
        """Row and column, for messages."""
        return f"row {self.row + 1} ({self.column})"

    def digest(self) -> str:
        """Name the image by its content, where the data name no file: rows of one image share it."""
        found = self.find()
        content = found.read_bytes() if isinstance(found, Path) else found
        return hashlib.sha256(content).hexdigest()

    def find(self) -> Path | bytes:
        """Return the image's file, or its path where the table holds that."""
        value = self.data[self.row][self.column]
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
            if isinstance(value, str):
                return Path(value)
        if isinstance(value, str):
            return self._decoded(value)
        if not isinstance(value, bytes) or not value:
            raise InputError(f"{self.name} holds no image")
        return value

    def _decoded(self, text: str) -> bytes:
        if len(text) <= _REFERENCE:
            row = self.places.get(text, self.row)
            if row == self.row:
                raise InputError(f"{self.name} refers to a row {text!r} that is not there")
            return self._decoded(self.data[row][self.column])
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise InputError(f"{self.name} is no base64: correct it") from None


def is_hub_dataset(value: Any) -> bool:
    """Whether a value is a data set of the library, or a dict of its splits; the library is not imported for it."""
    return type(value).__module__.split(".")[0] == "datasets" and hasattr(value, "column_names")


def open_hub(name: str, split: str | None, revision: str | None = None) -> Any:
    """Open a data set of the hub, a folder laid out as one, or a pattern of ``hf://`` files.

    Raises
    ------
    InputError
        There is none of this name, here or on the hub, or no such split; the message names the fix.
    """
    datasets = _library()
    with _worded(name):
        if name.startswith("hf://"):
            return datasets.Dataset.from_parquet(name)
        saved = any((Path(name) / file).is_file() for file in SAVED)
        found = datasets.load_from_disk(name) if saved else datasets.load_dataset(name, revision=revision)
    return one_split(found, split, name)


def open_parquet(path: Path) -> Any:
    """Open a Parquet file."""
    datasets = _library()
    with _worded(str(path), "is no Parquet file that can be read"):
        return datasets.Dataset.from_parquet(str(path))


def open_csv(path: Path, separator: str) -> Any:
    """Open a CSV or TSV; every value is text."""
    import pandas as pd

    datasets = _library()
    with _worded(str(path)):
        names = pd.read_csv(path, sep=separator, nrows=0).columns
        text = datasets.Features({name: datasets.Value("large_string") for name in names})
        return datasets.Dataset.from_csv(str(path), sep=separator, features=text, keep_default_na=False, chunksize=200)


def one_split(found: Any, split: str | None, name: str) -> Any:
    """Choose a split of a data set; one that has a single split needs none named."""
    if not isinstance(found, dict):
        return found
    if split is None and len(found) == 1:
        return next(iter(found.values()))
    if split not in found:
        said = "has several splits" if split is None else f"has no split {split!r}"
        raise InputError(f"{name} {said}: choose one of {', '.join(found)} as split (--split)")
    return found[split]


def hub_table(data: Any, source: str, path: Path | None = None, pictures: str | None = None) -> AnnotationTable:
    """Make a table of a data set: the rows without images, which are read when they are asked for.

    Parameters
    ----------
    data : datasets.Dataset
    source : str
        For messages.
    path : Path, optional
        Of its file.
    pictures : str, optional
        A column of images that the data set does not declare as such (base64).
    """
    datasets = _library()
    data = data.with_format(None)  # the user's may give tensors
    columns = tuple(data.column_names)
    held = [name for name, feature in data.features.items() if isinstance(feature, datasets.Image)]
    for name in held:
        data = data.cast_column(name, datasets.Image(decode=False))
    left_out = [*{*held, *([pictures] if pictures in columns else [])}]
    light = data.remove_columns(left_out)
    rows = [(index, f"row {index + 1}", row) for index, row in enumerate(light)]
    if not rows:
        raise InputError(f"{source} has no rows")
    places = (
        {str(row["index"]): i for i, _, row in reversed(rows)} if pictures is not None and "index" in columns else {}
    )
    return AnnotationTable(source, path, rows, partial(HubPicture, data, places))


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise InputError(
            "tables of Parquet, images inside tables and data sets of the hub are read by the library datasets: "
            "pip install 'biaslab[data]'"
        ) from None
    return datasets


@contextmanager
def _worded(name: str, problem: str = "cannot be opened") -> Iterator[None]:
    """Turn whatever the library raises into one line, and keep its progress bars to itself."""
    from datasets.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of arrow, fsspec, the hub, of a dozen types
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        fix = ""
        if "/" in name and not Path(name).exists() and not name.startswith("hf://"):
            fix = f": check its name, or fetch it where there is a network: hf download {name} --repo-type dataset"
        raise InputError(f"{name} {problem} ({reason}){fix}") from None
    finally:
        if shown:
            logging.enable_progress_bar()
