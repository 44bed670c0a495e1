"""From what a user names (a file, a folder, a data set of the hub or in memory) to its referring expressions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from biaslab.datasets.annotation_rows import read_rows
from biaslab.datasets.annotation_table import AnnotationTable, choose_reader
from biaslab.datasets.data_root import find_file, find_folder, places
from biaslab.datasets.delimited import is_delimited, separator
from biaslab.datasets.file_kinds import is_pickle
from biaslab.datasets.hub_tables import SAVED, hub_table, is_hub_dataset, one_split, open_csv, open_hub, open_parquet
from biaslab.datasets.picture_places import PicturePlaces
from biaslab.datasets.reader import Reader
from biaslab.datasets.referring import ReferringExpressions
from biaslab.errors import InputError

__all__ = ["is_hub_folder", "looks_like_hub", "open_annotations", "open_dataset", "refer_file"]


def open_annotations(
    path: str | Path,
    *,
    images: str | Path | None = None,
    data_root: str | Path | None = None,
    split: str | None = None,
    columns: str | None = None,
) -> ReferringExpressions:
    """Open a file of referring expressions, of any form that a reader knows.

    Parameters
    ----------
    path : str or Path
        The file. Its form is told by its columns, never by its numbers.
    images : str or Path, optional
        Folder, .zip or .tar of the images, and the only place where they are looked for; default: the folder of the
        file, then ``data_root``. An image is found by its path there, by its bare file name, and in COCO's folders
        and spellings (`biaslab.datasets.coco_names`).
    data_root : str or Path, optional
        Folder below which a relative ``path`` or ``images`` is looked up too.
    split : str, optional
        Of a file that holds several.
    columns : str, optional
        What the columns of any other table mean: ``"image=file,expression=text,box=xywh:bbox"``
        (:class:`biaslab.datasets.columns.ColumnReader`).

    Returns
    -------
    ReferringExpressions

    Raises
    ------
    InputError
        The file is missing or something else, or a row contradicts its form; the message names the row.

    Examples
    --------
    >>> import json
    >>> import tempfile
    >>> from PIL import Image
    >>> row = {"image": "a.png", "sent": "left cat", "bbox": [0, 0, 32, 24], "width": 64, "height": 48}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "cats_val.jsonl"
    ...     _ = file.write_text(json.dumps(row))
    ...     Image.new("RGB", (64, 48)).save(Path(folder) / "a.png")
    ...     data = open_annotations(file)
    ...     data.name, data.split, data[0].id, data[0].object_size, data[0].image().size
    ('refcoco-jsonl', 'cats_val', 'cats_val-000000', 'large', (64, 48))
    """
    root = None if data_root is None else Path(data_root)
    path = find_file(path, root) or Path(path)
    where, roots = _pictures(images, root, path.parent)
    table, reader = _table(path, columns)
    if split is not None and reader.split_of(table.rows[0][2]) is None:
        raise InputError(f"{path} is one split: leave split out, or pass the file of the split")
    said = {"split": split, "columns": columns}
    recipe = {key: str(value.absolute()) for key, value in {"path": path, **where}.items()}
    recipe |= {key: value for key, value in said.items() if value is not None}
    return ReferringExpressions(table, reader, PicturePlaces(roots), split=split, recipe=recipe)


def open_dataset(
    data: Any,
    *,
    split: str | None = None,
    images: str | Path | None = None,
    data_root: str | Path | None = None,
    columns: str | None = None,
    revision: str | None = None,
) -> ReferringExpressions:
    """Open a data set of the hub by its id, a folder laid out as one, ``hf://`` files, or a ``datasets.Dataset``.

    Parameters
    ----------
    data : str or datasets.Dataset
    split, images, data_root, columns
        As for :func:`open_annotations`.
    revision : str, optional
        Of a data set of the hub.

    Returns
    -------
    ReferringExpressions

    Raises
    ------
    InputError
        As :func:`open_annotations`.
    """
    if is_hub_dataset(data):
        name, found = None, one_split(data, split, "the data set")
        source = "the data set"
        split = split or (str(found.split) if found.split is not None else None)
    else:
        name = source = str(data)
        found = open_hub(name, split, revision)
        split = split or (str(found.split) if found.split is not None else None)
    root = None if data_root is None else Path(data_root)
    _, roots = _pictures(images, root, Path())
    reader = choose_reader(tuple(found.column_names), source, columns, "row 1")
    table = hub_table(found, source, pictures=reader.pictures)
    given = {"split": split, "columns": columns, "revision": revision, "images": images}
    recipe = {} if name is None else {key: str(value) for key, value in given.items() if value is not None}
    inner = split if split in {reader.split_of(row) for _, _, row in table.rows} else None
    return ReferringExpressions(table, reader, PicturePlaces(roots), split=inner, label=split, name=name, recipe=recipe)


def looks_like_hub(name: str) -> bool:
    """Whether a name is one of the hub: ``owner/name`` without a suffix of a file, or ``hf://``."""
    parts = name.split("/")
    return name.startswith("hf://") or (
        len(parts) == 2 and all(parts) and not name.startswith((".", "~")) and "." not in parts[1]
    )


def is_hub_folder(path: Path) -> bool:
    """Whether a folder is laid out as a data set of the hub, or was written by ``Dataset.save_to_disk``."""
    if not path.is_dir():
        return False
    saved = any((path / name).is_file() for name in SAVED)
    # not below: a folder of images may hold a hundred thousand files
    return saved or any(next(path.glob(pattern), None) is not None for pattern in ("*.parquet", "*/*.parquet"))


def refer_file(path: Path) -> Path:
    """Return the references in a folder of REFER's release (``refcoco/``); any other path is returned as it is.

    Raises
    ------
    InputError
        The folder holds several divisions.
    """
    found = sorted(path.glob("refs(*).p")) if path.is_dir() else []
    if len(found) > 1:
        raise InputError(f"{path} holds several divisions: give one of {', '.join(map(str, found))}")
    return found[0] if found else path


def _table(path: Path, columns: str | None) -> tuple[AnnotationTable, Reader]:
    """Read a file's rows, and find out what its columns mean; images inside a table stay on disk."""
    head = _head(path)
    if head[:4] == b"PAR1":
        data = open_parquet(path)
        reader = choose_reader(tuple(data.column_names), str(path), columns, "row 1")
        return hub_table(data, str(path), path, reader.pictures), reader
    if not is_pickle(path, head[:512]) and b"\0" not in head:
        text = head.decode("utf-8-sig", "replace")
        if is_delimited(path, text):
            header = text.split("\n", 1)[0].strip("\r")
            sep = separator(path, header)
            names = tuple(part.strip().strip('"') for part in header.split(sep))
            reader = choose_reader(names, str(path), columns, "row 1")
            if reader.pictures is not None:
                return hub_table(open_csv(path, sep), str(path), path, reader.pictures), reader
    rows = list(read_rows(path))
    _, where, first = rows[0]
    reader = choose_reader(tuple(first), str(path), columns, where, first)
    return AnnotationTable(str(path), path, rows), reader


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(100_000)
    except OSError:
        return b""  # read_rows words the error


def _pictures(images: str | Path | None, root: Path | None, folder: Path) -> tuple[dict[str, Path], tuple[Path, ...]]:
    """Where images are looked for, as the option that says so, and as folders and archives."""
    if images is None:
        where = {"images": folder} if root is None else {"data_root": root}
        return where, (folder, *([] if root is None else [root]))
    found = find_folder(images, root) or find_file(images, root) or Path(images)
    return {"images": found}, tuple(places(images, root))
