"""Rows of an annotation file: JSON lines, a JSON array, a COCO object, CSV or TSV, a REFER pickle.

What cannot be read names file and line. Parquet and tables with images in them are `hub_tables`' business.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from biaslab.datasets.coco_object import coco_rows, is_captioned
from biaslab.datasets.delimited import is_delimited, read_delimited
from biaslab.datasets.file_kinds import binary_kind, is_pickle, object_kind, text_kind
from biaslab.datasets.plain_pickle import read_plain_pickle
from biaslab.errors import InputError

__all__ = ["EXPECTED", "Row", "TableRow", "not_rows", "read_rows"]

Row = dict[str, Any]
#: index (from 0) of a row's line or entry, its name ("line 3", "entry 3", "row 3"), the row
TableRow = tuple[int, str, Row]
EXPECTED = "rows of referring expressions (such as a JSON object per line with image, sent, bbox, width, height)"
_BOMS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def read_rows(path: Path) -> Iterator[TableRow]:
    """Read the rows of a file, whatever their columns.

    A byte order mark is passed over, lines end at line feeds alone (a text may hold U+2028), blank ones are left out.

    Parameters
    ----------
    path : Path
        JSON lines, a JSON array of objects, a COCO object with captions (MDETR), CSV or TSV with a header, a pickle of
        plain containers (REFER).

    Yields
    ------
    index : int
        Of the row's line (of its entry in an array), from 0.
    where : str
        Its name: "line 3", "entry 3", "row 3".
    row : dict

    Raises
    ------
    InputError
        The file is something else (named as what it is) or cannot be read; one line, with file and line.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "cats.jsonl"
    ...     _ = file.write_text('[{"image": "a.png", "sent": "left cat"}]')
    ...     list(read_rows(file))
    [(0, 'entry 1', {'image': 'a.png', 'sent': 'left cat'})]
    """
    content = _content(path)
    if is_pickle(path, content[:512]):
        found = _entries(read_plain_pickle(path, content))
    else:
        text = _text(path, content)
        if text.lstrip().startswith("["):
            found = _array(path, text)
        elif is_delimited(path, text):
            found = read_delimited(path, text)
        else:
            found = _lines(path, text)
    index = None
    for index, where, row in found:
        if not isinstance(row, dict):
            raise InputError(f"{path}, {where} is {_json_type(row)}, not an object: {path.name} is to be {EXPECTED}")
        yield index, where, row
    if index is None:
        raise InputError(f"{path} has no rows: pass {EXPECTED}")


def not_rows(path: Path | str, kind: str) -> InputError:
    """Word the error for a file of another kind; a fix of its own stands behind a colon in ``kind``."""
    name, _, fix = kind.partition(": ")
    return InputError(f"{path} is {name}, not {EXPECTED}: {fix or 'convert it'}")


def _content(path: Path) -> bytes:
    if path.is_dir():
        raise InputError(f"{path} is a folder, not {EXPECTED}: give the annotation file, and its images as images")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): pass {EXPECTED}") from error
    if not content.strip():
        raise InputError(f"{path} has no rows: pass {EXPECTED}")
    return content


def _text(path: Path, content: bytes) -> str:
    for mark, name in _BOMS:
        if content.startswith(mark):
            raise InputError(f"{path} is {name} text, not UTF-8: save it as UTF-8 (iconv -f {name} -t UTF-8)")
    if (kind := binary_kind(path, content[:512])) is not None:
        raise not_rows(path, kind)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise InputError(
            f"{path}, line {line} is not UTF-8 (byte 0x{byte:02X}): save the file as UTF-8, for example with "
            "iconv -f LATIN1 -t UTF-8"
        ) from None


def _lines(path: Path, text: str) -> Iterator[tuple[int, str, Any]]:
    for index, line in enumerate(text.split("\n")):
        if not line.strip():
            continue
        where = f"line {index + 1}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            whole = _whole(text)
            if is_captioned(whole):
                yield from coco_rows(path, whole)
                return
            kind = text_kind(text) if whole is None else object_kind(whole) if isinstance(whole, dict) else None
            if kind is not None:
                raise not_rows(path, kind) from None
            reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise InputError(f"{path}, {where} is no JSON ({reason}): correct or remove it") from None
        if is_captioned(row):
            yield from coco_rows(path, row)
            return
        yield index, where, row


def _array(path: Path, text: str) -> Iterator[tuple[int, str, Any]]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise InputError(f"{path}, line 1 is a list, not an object: {path.name} is to be {EXPECTED}") from None
        raise InputError(f"{path}, line {error.lineno} is no JSON ({error.msg}): correct the file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({error}): correct the file") from None
    return _entries(rows)


def _entries(rows: list[Any]) -> Iterator[tuple[int, str, Any]]:
    return ((index, f"entry {index + 1}", row) for index, row in enumerate(rows))


def _whole(text: str) -> Any:
    """Parse the whole of a file whose first line is no JSON; None where it is none either."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    names = {list: "a list", str: "a text", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), f"a {type(value).__name__}")
