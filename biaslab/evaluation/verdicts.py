"""The verdicts of a run as columns: what statistics need of a line, 150 bytes instead of 6 KB."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from biaslab._util.jsonl import read_lines
from biaslab.errors import RunFolderError
from biaslab.evaluation.sample_log import current_record, log_files
from biaslab.evaluation.schema import KEY_FIELDS, LINE_FIELDS, record_key

__all__ = [
    "TEXTS",
    "VERDICT_COLUMNS",
    "LineTable",
    "configuration_columns",
    "latest",
    "read_verdicts",
    "typed_column",
    "verdicts_of",
]

#: categorical columns
TEXTS = ("id", "image_id", "expression_type", "object_size", "error")
_NAMES = ("method", "options_hash", "profile_hash")
_FLAGS = ("hit", "parsed", "truncated")
_COUNTS = ("tokens", "tokens_kept", "batch")
_NUMBERS = (
    "iou", "target_auroc", "target_kept", "prefill_ms", "decode_ms", "peak_mb",
    "tflops_vision", "tflops_projector", "tflops_decoder",
)  # fmt: skip
#: the fields of a line but texts, boxes and details
VERDICT_COLUMNS = tuple(
    name for name in LINE_FIELDS if name not in ("sample_hash", "target", "answer", "box", "info", "kept")
)
_READ = ("index", "seed", *TEXTS, *_FLAGS, *_COUNTS, *_NUMBERS)
_WHERE = ("log", "line")
_FIELDS = (*_READ, *KEY_FIELDS)
_pick = itemgetter(*_FIELDS)
_CHUNK = 1 << 12  # lines that exist as tuples at a time


def read_verdicts(folder: str | Path, run: dict[str, Any]) -> pd.DataFrame:
    """Read the verdicts of a run folder from its logs, in the order of the data set and the configurations, each once.

    A sample that failed and was tried again counts as what it became.

    Parameters
    ----------
    folder : str or Path
        The run folder.
    run : dict
        Content of its ``run.json``.

    Returns
    -------
    DataFrame
        `VERDICT_COLUMNS`, ``key``, and where the line is: ``log``, the number of the file, and ``line`` in it, both
        from 0. Texts are categoricals. It is :func:`biaslab.evaluation.results.read_samples` without the answer, the
        boxes, the kept tokens and ``info``.

    Raises
    ------
    RunFolderError
        A log is damaged.
    """
    table = LineTable(run["identity"]["configurations"])
    sizes = {path.name: path.stat().st_size for path in log_files(folder)}
    for log, path in enumerate(log_files(folder)):
        lines, first = read_lines(path, kind="sample record"), 1
        while taken := table.add(islice(lines, _CHUNK), path, first, log):
            first += taken
    frame = table.frame()
    frame.attrs["log_sizes"] = sizes  # what was read: logs that have grown since are others
    return frame


def verdicts_of(samples: pd.DataFrame) -> pd.DataFrame:
    """Take the verdicts from sample lines that are a DataFrame already."""
    columns = [name for name in (*VERDICT_COLUMNS, "key") if name in samples]
    texts = {name: "category" for name in (*TEXTS, *_NAMES, "key") if name in columns}
    return samples[columns].astype(texts)


class _Codes(dict):
    """Numbers things in the order in which they are met; None is -1, as in pandas."""

    def __missing__(self, name: Any) -> int:
        if name is None:
            return -1
        self[name] = code = len(self)
        return code


class LineTable:
    """Gathers lines as columns, a chunk at a time.

    Parameters
    ----------
    configs : sequence of dict
        Configurations of the run; lines of others are left out.
    """

    def __init__(self, configs: Sequence[Mapping[str, Any]]) -> None:
        self.configs = list(configs)
        self._order = {record_key(config): i for i, config in enumerate(self.configs)}
        self._config_of: dict[tuple, int] = {}
        self._codes = {name: _Codes() for name in TEXTS}
        self._parts: dict[str, list[np.ndarray]] = {name: [] for name in (*_WHERE, "config", *_READ)}

    def add(self, records: Iterable[dict[str, Any]], path: Path, first: int, log: int) -> int:
        """Take lines of a log, the first of which has number ``first``; returns how many there were."""
        rows = []  # no dict outlives its turn, or the garbage collector takes as long as all the rest
        for number, record in enumerate(records, start=first):
            try:
                rows.append(_pick(record))
            except KeyError:  # of an earlier version, or an error's without a verdict
                record = current_record(record, path, number)
                rows.append(tuple(record.get(name) for name in _FIELDS))
        if not rows:
            return 0
        columns = dict(zip(_FIELDS, zip(*rows, strict=True), strict=True))
        # the count 1 is not the ratio 1.0, although they are equal
        names = zip(*(columns[name] for name in KEY_FIELDS), map(type, columns["keep"]), strict=True)
        config = np.fromiter(map(self._config, names), np.int32, len(rows))
        known = np.flatnonzero(config >= 0)
        self._parts["config"].append(config[known])
        self._parts["line"].append((first - 1 + known).astype(np.int32))
        self._parts["log"].append(np.full(len(known), log, np.int16))
        for name in _READ:
            try:
                self._parts[name].append(self._values(name, columns[name])[known])
            except (TypeError, ValueError) as error:
                raise RunFolderError(
                    f"{path}, lines {first} to {first + len(rows) - 1}: a {name} is of the wrong kind ({error}): "
                    "delete that line and run again"
                ) from None
        return len(rows)

    def _values(self, name: str, column: Sequence[Any]) -> np.ndarray:
        if name in self._codes:
            return np.fromiter(map(self._codes[name].__getitem__, column), np.int32, len(column))
        return np.array(column, dtype=float)  # None becomes NaN

    def _config(self, names: tuple) -> int:
        """Return the number of a configuration; -1 for one that is not of this run."""
        if names not in self._config_of:
            key = record_key(dict(zip(KEY_FIELDS, names, strict=False)))
            self._config_of[names] = self._order.get(key, -1)
        return self._config_of[names]

    def frame(self) -> pd.DataFrame:
        """Every sample and configuration once, in order."""
        config, ids, error, index = (self._whole(name) for name in ("config", "id", "error", "index"))
        rows = latest(ids, config, error < 0, len(self.configs))
        rows = rows[np.lexsort((config[rows], index[rows]))]
        columns: dict[str, Any] = {
            "index": index[rows].astype(np.int64),
            **{name: self._whole(name)[rows] for name in _WHERE},
        }
        columns |= {name: self._categorical(name, values[rows]) for name, values in (("id", ids), ("error", error))}
        config = config[rows]
        for name in _READ:
            if name not in columns:
                columns[name] = self._column(name, self._whole(name)[rows])
        keys = list(self._order)
        columns |= configuration_columns(self.configs, config)
        columns["key"] = pd.Categorical.from_codes(config, categories=pd.Index(keys, dtype=object))
        return pd.DataFrame({name: columns[name] for name in (*VERDICT_COLUMNS, "key", *_WHERE)}, copy=False)

    def _whole(self, name: str) -> np.ndarray:
        parts = self._parts.pop(name)
        return (
            np.concatenate(parts)
            if parts
            else np.empty(0, float if name in _READ and name not in self._codes else np.int32)
        )

    def _column(self, name: str, values: np.ndarray) -> Any:
        if name in self._codes:
            return self._categorical(name, values)
        return typed_column(name, values)

    def _categorical(self, name: str, codes: np.ndarray) -> pd.Categorical:
        return pd.Categorical.from_codes(codes, categories=pd.Index(list(self._codes[name]), dtype=object))


def typed_column(name: str, values: np.ndarray) -> Any:
    """Column of numbers, NaN where there is none, in the type that the field has in a table of samples."""
    if name in ("index", "seed"):
        return values.astype(np.int64)
    missing = np.isnan(values)
    if name in _FLAGS:
        return pd.arrays.BooleanArray(np.where(missing, 0, values).astype(bool), missing)
    if name in (*_COUNTS, "layer"):
        return pd.arrays.IntegerArray(np.where(missing, 0, values).astype(np.int64), missing)
    return values


def configuration_columns(configs: Sequence[Mapping[str, Any]], config: np.ndarray) -> dict[str, Any]:
    """Make the columns that name a configuration from its number."""
    columns: dict[str, Any] = {name: pd.Categorical([c[name] for c in configs]).take(config) for name in _NAMES}
    layers = np.array([np.nan if c["layer"] is None else c["layer"] for c in configs], float)
    counts = any(isinstance(configs[i]["keep"], int) for i in np.unique(config))
    kept = np.array([c["keep"] for c in configs], dtype=object if counts else float)
    return columns | {"keep": kept[config], "layer": typed_column("layer", layers[config])}


def latest(ids: np.ndarray, config: np.ndarray, answered: np.ndarray, n_configs: int) -> np.ndarray:
    """Rows that count: of a sample under a configuration the last verdict, or else the first error."""
    if not len(ids):
        return np.empty(0, int)
    pair = ids.astype(np.int64) * n_configs + config
    row = np.full(int(pair.max()) + 1, -1, np.int64)
    errors, verdicts = np.flatnonzero(~answered)[::-1], np.flatnonzero(answered)
    row[pair[errors]] = errors
    row[pair[verdicts]] = verdicts  # of repeated places the last is kept
    return row[row >= 0]
