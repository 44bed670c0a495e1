"""What a file is that is no data set: named as what it is, by its first bytes, and never unpacked or unpickled."""

from __future__ import annotations

import csv
import io
import re
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from biaslab.core.picture_files import suffixes

__all__ = ["PLAIN", "binary_kind", "is_pickle", "listed", "object_kind", "text_kind"]

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\x1f\x8b", "a gzip file: unpack it (gunzip) and pass what is in it"),
    (b"BZh", "a bzip2 file: unpack it and pass what is in it"),
    (b"\xfd7zXZ", "an xz file: unpack it and pass what is in it"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file: unpack it and pass what is in it"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it and pass what is in it"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"GIF8", "an image"),
    (b"II*\0", "an image"),
    (b"MM\0*", "an image"),
    (b"version https://git-lfs", "the pointer of a Git LFS file, not its content: run git lfs pull"),
)
# protocols 2 to 5 begin with their number; 0 and 1 (Python 2, as REFER's refs(unc).p) with a mark, a list or a dict
_PICKLE = re.compile(rb"\x80[\x02-\x05]|\(?[ld]p\d+\r?\n|[\]}]q\0|\(?c\w+[\w.]*\n\w+\n")
PLAIN = "one JSON object"
_SEPARATORS = {"\t": "a TSV", ",": "a CSV", ";": "a CSV"}


def is_pickle(path: Path, head: bytes) -> bool:
    r"""Whether a file is a Python pickle, by its first bytes or its suffix.

    Examples
    --------
    >>> is_pickle(Path("refs(unc).p"), b"(lp0\n(dp1\nS'sent_ids'\n"), is_pickle(Path("rows.p"), b'{"image": "a.png"}')
    (True, False)
    """
    if path.suffix.lower() in (".pt", ".pth") and head[:2] == b"PK":
        return False
    named = path.suffix.lower() in (".p", ".pkl", ".pickle", ".pt", ".pth") and head[:1] not in (b"{", b"[")
    return bool(_PICKLE.match(head)) or named


def binary_kind(path: Path, head: bytes) -> str | None:
    r"""Name a file that holds no text, by its first bytes; None for what may be text.

    Parameters
    ----------
    path : Path
        Of the file; only the directory of an archive is read.
    head : bytes
        Its first 512 bytes or more.

    Returns
    -------
    str or None
        "a Parquet file", and a fix behind a colon where there is an own one.

    Examples
    --------
    >>> binary_kind(Path("a.npy"), b"\x93NUMPY\x01")
    'a numpy array'
    >>> binary_kind(Path("rows.jsonl"), b'{"image": "a.png"}') is None
    True
    """
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _archive("a ZIP archive", path, lambda: zipfile.ZipFile(path), lambda z: z.namelist())
    if head[257:262] == b"ustar":
        return _archive("a tar archive", path, lambda: tarfile.open(path), lambda t: [t.next().name])
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "an image"
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    return "an image" if path.suffix.lower() in suffixes() else None


def text_kind(text: str) -> str | None:
    r"""Name a text that is no JSON; None where nothing is known.

    Examples
    --------
    >>> text_kind("image\tsent\n1.jpg\tleft cat\n")
    'a TSV with the columns image, sent'
    """
    start = text.lstrip()[:200].lower()
    if start.startswith(("<!doctype html", "<html")):
        return "an HTML page (a download that failed?)"
    if start.startswith("<"):
        return "an XML file"
    lines = [line for line in text[:100_000].split("\n") if line.strip()][:2]
    for separator, name in _SEPARATORS.items():
        if len(lines) == 2 and all(separator in line for line in lines):
            header, row = csv.reader(io.StringIO("\n".join(lines).replace("\r", "")), delimiter=separator)
            if len(header) == len(row):
                return f"{name} with the columns {listed(header)}"
    return None


def object_kind(value: Mapping[str, Any]) -> str:
    """Name a JSON object that is not a row, by its fields.

    Examples
    --------
    >>> object_kind({"images": [], "annotations": [], "categories": []})
    'a COCO annotation file (fields images, annotations, categories)'
    """
    fields = f"(field{'s' * (len(value) != 1)} {listed(value)})"
    if {"images", "annotations"} <= set(value):
        parts = [part[0] for part in (value["images"], value["annotations"]) if isinstance(part, list) and part]
        keys = {key for part in parts if isinstance(part, dict) for key in part}
        if keys & {"tokens_positive", "tokens_negative", "dataset_name"}:
            return f"an MDETR annotation file {fields}"
        return f"a COCO annotation file {fields}"
    if {"shapes", "imagePath"} <= set(value):
        return f"a LabelMe annotation file {fields}"
    return f"{PLAIN} {fields}"


def listed(names: Any, most: int = 8) -> str:
    """Write names as a list that stays short."""
    names = [" ".join(str(name).split())[:40] or '""' for name in names]
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "") or "none"


def _archive(kind: str, path: Path, open_it: Any, members: Any) -> str:
    try:
        with open_it() as archive:
            kind += f" ({listed(members(archive), 3)})"
    except Exception:  # damaged: what it is is known all the same
        pass
    return f"{kind}: unpack it and pass what is in it"
