"""``samples.parquet``: the lines of a complete run as columns, written once; the logs stay the truth.

It is read in place of the logs where they are what it was made of: the same files of the same sizes that were not
touched since, or else (a copied folder) of the same content. Anything else, a run that has grown included, is passed
over, and the file is written anew when the run is complete again. It needs pyarrow (the extra ``biaslab[data]``);
without it there is no such file, and the logs are read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from biaslab._util.files import atomic_write
from biaslab._util.jsonl import parse_line
from biaslab._util.watermark import note_of
from biaslab.evaluation.sample_log import current_record, log_files
from biaslab.evaluation.schema import LINE_FIELDS, record_key
from biaslab.evaluation.verdicts import TEXTS, VERDICT_COLUMNS, configuration_columns, typed_column

__all__ = ["PARQUET_FILE", "read_store", "write_store"]

PARQUET_FILE = "samples.parquet"
logger = logging.getLogger(__name__)
_VERSION = 1
_ROWS = 1 << 16  # of a row group
_BLOCK = 1 << 26  # bytes of a log that are searched for line ends at a time


def write_store(folder: str | Path, run: dict[str, Any], verdicts: pd.DataFrame) -> Path | None:
    """Write the lines of a complete run, sorted by sample and configuration.

    Parameters
    ----------
    folder : str or Path
        The run folder.
    run : dict
        Content of its ``run.json``.
    verdicts : DataFrame
        Of :func:`~biaslab.evaluation.verdicts.read_verdicts`, from the logs as they are now.

    Returns
    -------
    Path or None
        None without pyarrow, where the logs have grown since, and where a line holds what a column cannot.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    if find_spec("pyarrow") is None or not {"log", "line"} <= set(verdicts):
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder, note = Path(folder), note_of(run["identity"]["model"])
    logs = log_files(folder)
    if {path.name: path.stat().st_size for path in logs} != verdicts.attrs.get("log_sizes"):
        return None
    made_of = {"version": _VERSION, "keys": _keys(run), "logs": {path.name: _state(path, digest=True) for path in logs}}
    schema = _schema(pa, note is not None).with_metadata({"biaslab": json.dumps(made_of)})

    def write(path: Path) -> None:
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            config = verdicts["key"].cat.codes.to_numpy()
            for rows, lines in _sorted_lines(logs, verdicts):
                columns = {name: [line.get(name) for line in lines] for name in LINE_FIELDS}
                columns["info"] = [None if v is None else json.dumps(v, ensure_ascii=False) for v in columns["info"]]
                columns["configuration"] = config[rows]
                if note is not None:
                    columns["note"] = [note] * len(lines)
                arrays = [pa.array(columns[part.name], type=part.type) for part in schema]
                writer.write_table(pa.table(arrays, schema=schema))

    try:
        return atomic_write(folder / PARQUET_FILE, write)
    except (UnicodeEncodeError, pa.ArrowException) as error:  # half a surrogate pair, a number of another kind
        logger.debug("%s is not written: %s", PARQUET_FILE, error)
        return None


def read_store(
    folder: str | Path, run: dict[str, Any], columns: Sequence[str] = VERDICT_COLUMNS
) -> pd.DataFrame | None:
    """Read verdicts from ``samples.parquet``, or tell that it does not hold what the logs do.

    Parameters
    ----------
    folder : str or Path
        The run folder.
    run : dict
        Content of its ``run.json``.
    columns : sequence of str
        Of `VERDICT_COLUMNS`; ``key`` comes with them.

    Returns
    -------
    DataFrame or None
        As of :func:`~biaslab.evaluation.verdicts.read_verdicts`, in its order; None where there is no file to be
        trusted, or no pyarrow to read it.
    """
    path = Path(folder) / PARQUET_FILE
    if not path.is_file() or find_spec("pyarrow") is None:
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts, configs = [name for name in columns if name in TEXTS], run["identity"]["configurations"]
    try:
        if not _is_current(pq.read_schema(path).metadata, Path(folder), run):
            return None
        own = set(configuration_columns(configs, np.empty(0, int)))
        names = [name for name in columns if name not in own]
        table = pq.read_table(path, columns=["configuration", *names], read_dictionary=texts, use_threads=False)
    except (OSError, ValueError, KeyError, pa.ArrowException):  # damaged, or of another version: the logs are there
        return None
    config = table["configuration"].to_numpy()
    found = configuration_columns(configs, config)
    for name in names:
        found[name] = _text(table[name]) if name in texts else _number(name, table[name])
        table = table.drop_columns([name])  # or everything is held twice
    found["key"] = pd.Categorical.from_codes(config, categories=pd.Index(_keys(run), dtype=object))
    return pd.DataFrame({name: found[name] for name in (*columns, "key")}, copy=False)


def _text(column: Any) -> pd.Categorical:
    whole = column.unify_dictionaries().combine_chunks()
    codes = whole.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return pd.Categorical.from_codes(codes, categories=pd.Index(whole.dictionary.to_pylist(), dtype=object))


def _number(name: str, column: Any) -> Any:
    import pyarrow as pa

    return typed_column(name, column.cast(pa.float64()).to_numpy())


def _schema(pa: Any, stamped: bool) -> Any:
    kinds = {
        **dict.fromkeys(("index", "seed", "layer", "tokens", "tokens_kept", "batch"), pa.int64()),
        **dict.fromkeys(("hit", "parsed", "truncated"), pa.bool_()),
        **dict.fromkeys(("target", "box"), pa.list_(pa.float64())),
        **dict.fromkeys(
            ("id", "sample_hash", "image_id", "expression_type", "object_size", "method", "options_hash",
             "profile_hash", "error", "answer", "info", "kept"), pa.string(),
        ),
    }  # fmt: skip
    fields = [(name, kinds.get(name, pa.float64())) for name in LINE_FIELDS]
    return pa.schema([*fields, ("configuration", pa.int16()), *([("note", pa.string())] if stamped else [])])


def _keys(run: dict[str, Any]) -> list[str]:
    return [record_key(config) for config in run["identity"]["configurations"]]


def _state(path: Path, *, digest: bool) -> dict[str, Any]:
    status = path.stat()
    state: dict[str, Any] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    if digest:
        with open(path, "rb") as file:
            state["digest"] = hashlib.file_digest(file, "blake2b").hexdigest()
    return state


def _is_current(metadata: dict[bytes, bytes] | None, folder: Path, run: dict[str, Any]) -> bool:
    """Whether the file was made of the logs as they are, for the configurations that the run has."""
    made_of = json.loads((metadata or {}).get(b"biaslab", b"{}"))
    if made_of.get("version") != _VERSION or made_of["keys"] != _keys(run):
        return False
    logs = {path.name: path for path in log_files(folder)}
    if set(logs) != set(made_of["logs"]):
        return False
    sizes = {name: _state(path, digest=False) for name, path in logs.items()}
    if any(sizes[name]["size"] != made_of["logs"][name]["size"] for name in logs):
        return False
    touched = [name for name in logs if sizes[name]["mtime_ns"] != made_of["logs"][name]["mtime_ns"]]
    return all(_state(logs[name], digest=True)["digest"] == made_of["logs"][name]["digest"] for name in touched)


def _sorted_lines(logs: Sequence[Path], verdicts: pd.DataFrame) -> Iterator[tuple[slice, list[dict[str, Any]]]]:
    """Read the lines of a table in its order, some at a time, each where its log holds it."""
    files = [open(path, "rb") for path in logs]  # noqa: SIM115
    maps = [mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if _size(file) else b"" for file in files]
    try:
        ends = [_line_ends(content) for content in maps]
        log, number = verdicts["log"].to_numpy(), verdicts["line"].to_numpy()
        for start in range(0, len(verdicts), _ROWS):
            rows, lines = slice(start, min(start + _ROWS, len(verdicts))), []
            for i, n in zip(log[rows].tolist(), number[rows].tolist(), strict=True):
                line = parse_line(maps[i][ends[i][n - 1] + 1 if n else 0 : ends[i][n]])
                lines.append(current_record(line or {}, logs[i], n + 1))
            yield rows, lines
    finally:
        for content in maps:
            if isinstance(content, mmap.mmap):
                content.close()
        for file in files:
            file.close()


def _size(file: Any) -> int:
    return Path(file.name).stat().st_size


def _line_ends(content: Any) -> np.ndarray:
    """Places of the line ends of a log."""
    found = [
        np.flatnonzero(np.frombuffer(content[start : start + _BLOCK], np.uint8) == ord("\n")) + start
        for start in range(0, len(content), _BLOCK)
    ]
    return np.concatenate(found) if found else np.empty(0, np.int64)
