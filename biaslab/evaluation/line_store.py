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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from operator import itemgetter
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
_CHUNK = 1 << 12  # lines that exist as tuples at a time
_GROUP = 16  # chunks of a row group
_pick = itemgetter(*LINE_FIELDS)
_COMPLETE, _EMPTY = frozenset(LINE_FIELDS), dict.fromkeys(LINE_FIELDS)  # lines of earlier versions have fewer
_BLOCK = 1 << 24  # bytes of a log that are searched for line ends at a time


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
        config, batches = verdicts["key"].cat.codes.to_numpy(), []
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for rows, lines in _sorted_lines(logs, verdicts):
                columns: dict[str, Any] = dict(zip(LINE_FIELDS, zip(*lines, strict=True), strict=True))
                columns |= {"configuration": config[rows], "note": [note] * len(lines)}
                arrays = [pa.array(columns[part.name], type=part.type) for part in schema]
                batches.append(pa.record_batch(arrays, schema=schema))
                if len(batches) == _GROUP or rows.stop == len(verdicts):
                    writer.write_table(pa.Table.from_batches(batches))
                    batches.clear()

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


def _sorted_lines(logs: Sequence[Path], verdicts: pd.DataFrame) -> Iterator[tuple[slice, list[tuple]]]:
    """Read the lines of a table in its order, some at a time, each where its log holds it: `LINE_FIELDS` of each."""
    ends = [np.append(-1, _line_ends(path)) for path in logs]
    log, number = verdicts["log"].to_numpy(), verdicts["line"].to_numpy()
    with ExitStack() as stack:
        files = [stack.enter_context(open(path, "rb")) for path in logs]
        for start in range(0, len(verdicts), _CHUNK):
            rows, lines = slice(start, min(start + _CHUNK, len(verdicts))), []
            for i, n in zip(log[rows].tolist(), number[rows].tolist(), strict=True):
                files[i].seek(ends[i][n] + 1)
                line = parse_line(files[i].read(ends[i][n + 1] - ends[i][n])) or {}
                if "expression_type" not in line:
                    line = current_record(line, logs[i], n + 1)
                if not line.keys() >= _COMPLETE:
                    line = _EMPTY | line
                if line["info"] is not None:
                    line["info"] = json.dumps(line["info"], ensure_ascii=False)
                lines.append(_pick(line))
            yield rows, lines


def _line_ends(path: Path) -> np.ndarray:
    """Places of the line ends of a log."""
    found, start = [np.empty(0, np.int64)], 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            found.append(np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + start)
            start += len(block)
    return np.concatenate(found)
