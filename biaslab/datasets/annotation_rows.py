"""Rows of an annotation file: JSON lines, or a JSON array of them; what cannot be read names file and line."""

from __future__ import annotations

import codecs
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from biaslab.datasets.file_kinds import PLAIN, binary_kind, listed, object_kind, text_kind
from biaslab.errors import InputError

__all__ = ["Row", "read_rows"]

Row = dict[str, Any]
_BOMS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def read_rows(path: Path, *, fields: Collection[str], what: str) -> Iterator[tuple[int, str, Row]]:
    """Read the rows of a JSON-lines file, or of a JSON array.

    A byte order mark is passed over, lines end at line feeds alone (a text may hold U+2028), blank ones are left out.

    Parameters
    ----------
    path : Path
        The file.
    fields : collection of str
        Those that every row has.
    what : str
        What the file should be, for messages: "a RefCOCO jsonl".

    Yields
    ------
    index : int
        Of the row's line (of its entry in an array), from 0.
    where : str
        Its name: "line 3" or "entry 3".
    row : dict
        With all of ``fields``.

    Raises
    ------
    InputError
        The file is something else (named as what it is), cannot be read, or a row lacks a field; one line, with the
        file, the line, the fields found and those expected.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "cats.jsonl"
    ...     _ = file.write_text('[{"image": "a.png", "sent": "left cat"}]')
    ...     list(read_rows(file, fields=("image", "sent"), what="cats"))
    [(0, 'entry 1', {'image': 'a.png', 'sent': 'left cat'})]
    """
    expected = f"{what} (a JSON object per line with {', '.join(fields)})"
    text = _text(path, expected)
    found = _array(path, text, expected) if text.lstrip().startswith("[") else _lines(path, text, expected)
    for index, where, row in found:
        if not isinstance(row, dict):
            raise InputError(f"{path}, {where} is {_json_type(row)}, not an object: {path.name} is to be {expected}")
        if missing := [field for field in fields if field not in row]:
            names = f"field{'s' * (len(missing) > 1)} {', '.join(missing)}"
            if not (kind := object_kind(row)).startswith(PLAIN):
                raise InputError(f"{path} is {_not(kind, expected)}")
            raise InputError(f"{path}, {where} has no {names}: it has {listed(row)}; {what} has {', '.join(fields)}")
        yield index, where, row


def _text(path: Path, expected: str) -> str:
    if path.is_dir():
        raise InputError(f"{path} is a folder, not {expected}: give the annotation file, and its pictures as images")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): pass {expected}") from error
    if not content.strip():
        raise InputError(f"{path} has no rows: pass {expected}")
    for mark, name in _BOMS:
        if content.startswith(mark):
            raise InputError(f"{path} is {name} text, not UTF-8: save it as UTF-8 (iconv -f {name} -t UTF-8)")
    if (kind := binary_kind(path, content[:512])) is not None:
        raise InputError(f"{path} is {_not(kind, expected)}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise InputError(
            f"{path}, line {line} is not UTF-8 (byte 0x{byte:02X}): save the file as UTF-8, for example with "
            "iconv -f LATIN1 -t UTF-8"
        ) from None


def _lines(path: Path, text: str, expected: str) -> Iterator[tuple[int, str, Any]]:
    for index, line in enumerate(text.split("\n")):
        if not line.strip():
            continue
        where = f"line {index + 1}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if (kind := _whole(text)) is not None:
                raise InputError(f"{path} is {_not(kind, expected)}") from None
            reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise InputError(f"{path}, {where} is no JSON ({reason}): correct or remove it") from None
        yield index, where, row


def _array(path: Path, text: str, expected: str) -> Iterator[tuple[int, str, Any]]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise InputError(f"{path}, line 1 is a list, not an object: {path.name} is to be {expected}") from None
        raise InputError(f"{path}, line {error.lineno} is no JSON ({error.msg}): correct the file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({error}): correct the file") from None
    if not rows:
        raise InputError(f"{path} has no rows: pass {expected}")
    return ((index, f"entry {index + 1}", row) for index, row in enumerate(rows))


def _whole(text: str) -> str | None:
    """Name a file whose first line is no JSON by the whole of it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text_kind(text)
    return object_kind(value) if isinstance(value, dict) else None


def _not(kind: str, expected: str) -> str:
    name, _, fix = kind.partition(": ")
    return f"{name}, not {expected}: {fix or 'convert it'}"


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    return {list: "a list", str: "a text", int: "a number", float: "a number", type(None): "null"}[type(value)]
