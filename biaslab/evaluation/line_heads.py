"""Which lines a run has: sample, configuration and error, read from the beginning of each line alone.

Resuming asks for nothing else, and a line is 900 bytes. A line that does not begin as this version writes it is read
whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from biaslab._util.jsonl import parse_line
from biaslab.errors import RunFolderError
from biaslab.evaluation.line_store import read_store
from biaslab.evaluation.sample_log import current_record, log_files
from biaslab.evaluation.schema import KEY_FIELDS, record_key
from biaslab.evaluation.verdicts import latest

__all__ = ["read_heads"]

_TEXT = rb'"[^"\\]*"'
_HEAD = re.compile(
    rb'\{"index": \d+, "id": "([^"\\]*)", "sample_hash": (?:null|' + _TEXT + rb'), "image_id": ' + _TEXT
    + rb', "expression_type": ' + _TEXT + rb', "object_size": ' + _TEXT
    + rb', ("method": ' + _TEXT + rb', "options_hash": ' + _TEXT + rb', "profile_hash": ' + _TEXT
    + rb', "keep": [0-9.e+-]+, "layer": (?:null|\d+)), "seed": -?\d+, "target": \[[^\]]*\], '
    + rb'"error": (null|"(?:[^"\\]|\\.)*"), '
)  # fmt: skip
_START = b'{"index": '


def read_heads(folder: str | Path, run: dict[str, Any]) -> pd.DataFrame:
    """Read which sample was run under which configuration, and which of these runs failed.

    Parameters
    ----------
    folder : str or Path
        The run folder.
    run : dict
        Content of its ``run.json``; lines of other configurations are left out.

    Returns
    -------
    DataFrame
        ``id``, ``key`` and ``error`` (missing where there is a verdict), each sample and configuration once, as
        categoricals, in no order.

    Raises
    ------
    RunFolderError
        A log is damaged.
    """
    stored = read_store(folder, run, ("id", "error"))
    if stored is not None:
        return stored
    keys = [record_key(config) for config in run["identity"]["configurations"]]
    order = {key: i for i, key in enumerate(keys)}
    ids, errors, config_of = _Numbers(), _Numbers(), _Configurations(order)
    rows: list[int] = []
    for path in log_files(folder):
        for name, config, error in _heads(path):
            if (code := config_of[config]) >= 0:
                rows += (ids[name], code, -1 if error == b"null" else errors[error])
    codes = np.array(rows, np.int64).reshape(-1, 3)
    codes = codes[latest(codes[:, 0], codes[:, 1], codes[:, 2] < 0, len(keys))]
    texts = {
        "id": [name.decode("utf-8", "surrogatepass") for name in ids],
        "key": keys,
        "error": [json.loads(text) for text in errors],
    }
    return pd.DataFrame({
        name: pd.Categorical.from_codes(codes[:, i], categories=pd.Index(values, dtype=object))
        for i, (name, values) in enumerate(texts.items())
    })  # fmt: skip


class _Numbers(dict):
    def __missing__(self, name: bytes) -> int:
        self[name] = number = len(self)
        return number


class _Configurations(dict):
    """Number of a configuration from its fields as a line has them; -1 for one that is not of the run."""

    def __init__(self, order: dict[str, int]) -> None:
        super().__init__()
        self.order = order

    def __missing__(self, fields: bytes) -> int:
        self[fields] = number = self.order.get(record_key(json.loads(b"{%b}" % fields)), -1)
        return number


def _heads(path: Path) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Id, fields of the configuration and error of every line; a torn or damaged last one is left out."""
    match, damaged = _HEAD.match, None
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            if damaged is not None:
                raise RunFolderError(f"{path}, line {damaged} is no sample record: delete that line and run again")
            head = match(line)
            # the second: two lines that a torn one made one
            if head and line.endswith(b"}\n") and line.find(_START, 1) < 0:
                yield head.groups()  # type: ignore[misc]
                continue
            record = parse_line(line)
            if record is None:
                damaged = number
                continue
            record = current_record(record, path, number)
            config = json.dumps({name: record[name] for name in KEY_FIELDS})[1:-1].encode()
            name = str(record["id"]).encode("utf-8", "surrogatepass")
            yield name, config, json.dumps(record["error"]).encode()
