"""CSV and TSV tables without images in them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from biaslab.datasets.file_kinds import text_kind
from biaslab.errors import InputError

__all__ = ["is_delimited", "read_delimited", "separator"]

_SUFFIXES = {".tsv": "\t", ".csv": ","}


def is_delimited(path: Path, text: str) -> bool:
    """Whether a text is a table: by its suffix, or a header and a row with the same separators."""
    if text.lstrip().startswith(("{", "[", "<")):
        return False
    return path.suffix.lower() in _SUFFIXES or (text_kind(text) or "").startswith(("a TSV", "a CSV"))


def separator(path: Path, header: str) -> str:
    """Tell the separator from the header: a tab, else a comma or a semicolon, whichever there are more of."""
    if "\t" in header:
        return "\t"
    if "," in header or ";" in header:
        return ";" if header.count(";") > header.count(",") else ","
    return _SUFFIXES.get(path.suffix.lower(), ",")


def read_delimited(path: Path, text: str) -> Iterator[tuple[int, str, Any]]:
    """Read the rows of a CSV or TSV with a header; every value is text.

    Raises
    ------
    InputError
        A row with more fields than the header, or no rows.
    """
    import pandas as pd

    sep = separator(path, text.split("\n", 1)[0])
    try:
        frame = pd.read_csv(io.StringIO(text), sep=sep, dtype=str, keep_default_na=False, index_col=False)
    except (ValueError, pd.errors.ParserError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read as a table ({reason}): correct it") from None
    if frame.empty:
        raise InputError(f"{path} has no rows below its header")
    return ((index, f"row {index + 1}", row) for index, row in enumerate(frame.to_dict("records")))
