"""Results of an evaluation: the samples, the table with intervals, and paired differences."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from biaslab._util.files import atomic_write
from biaslab._util.tables import csv_text
from biaslab.errors import InputError, RunFolderError
from biaslab.evaluation.configurations import UNPRUNED
from biaslab.evaluation.run_folder import read_run
from biaslab.evaluation.sample_log import sample_lines
from biaslab.evaluation.schema import KEY_FIELDS, LINE_FIELDS, record_key
from biaslab.pruning.registry import from_record
from biaslab.stats.resampling import ImageBootstrap, paired_p_value

TABLE_FILE = "results.csv"
ALL = "all"
COLUMNS = [
    "dataset", "split", "kind", "model", "method", "options_hash", "profile_hash", "keep", "layer", "seed",
    "n", "errors", "unparsed", "acc50", "acc50_lo", "acc50_hi", "miou",
    "retention", "retention_lo", "retention_hi", "p_vs_reference", "target_auroc", "target_kept",
    "tflops_vision", "tflops_projector", "tflops_decoder", "prefill_ms", "decode_ms", "peak_mb",
]  # fmt: skip
_SUMMARY = (
    "method", "keep", "layer", "n", "errors", "unparsed", "acc50", "acc50_lo", "acc50_hi", "retention",
    "p_vs_reference", "target_auroc", "target_kept",
)  # fmt: skip
_MEANS = ("target_auroc", "target_kept", "tflops_vision", "tflops_projector", "tflops_decoder")
_MEDIANS = ("prefill_ms", "decode_ms")  # the first batch of a run pays for warming up
# said explicitly, because many fields are null in the lines of errors; the others (texts, lists) stay objects
_DTYPES = {
    **dict.fromkeys(("index", "seed"), "int64"),
    **dict.fromkeys(("layer", "tokens", "tokens_kept", "batch"), "Int64"),
    **dict.fromkeys(("hit", "parsed"), "boolean"),
    **dict.fromkeys(("iou", "peak_mb", *_MEANS, *_MEDIANS), "float64"),
}


class Results:
    """What an evaluation found.

    Parameters
    ----------
    samples
        One row per sample and configuration: the lines of the log.
    run
        Content of ``run.json``.
    folder
        Run folder, or None for a run in memory.
    reference
        Method that ``p_vs_reference`` compares with, at the same keep and layer.
    n_resamples
        Resamples of the intervals.

    Attributes
    ----------
    table : DataFrame
        The columns of ``results.csv``, one row per configuration and kind of expression (``"all"`` first).

    Notes
    -----
    Accuracies are compared on the samples that have a verdict under *every* configuration with
    any verdict at all; ``n`` is their number. ``errors`` counts the samples whose run under this
    configuration failed (missing image, exception): they are no misses. ``unparsed`` counts, within ``n``,
    answers without a box: misses. Intervals are bootstraps over images, ``p_vs_reference`` a sign-flip
    permutation test over images, both paired on the same samples. Times are medians per sample, ``peak_mb``
    a maximum, other numbers means.
    """

    def __init__(
        self,
        samples: pd.DataFrame,
        run: dict[str, Any],
        folder: Path | None = None,
        reference: str | None = "random",
        n_resamples: int = 2000,
    ) -> None:
        self.samples, self.run, self.folder = samples, run, folder
        self.reference, self.n_resamples = reference, n_resamples

    @classmethod
    def load(cls, folder: str | Path, reference: str | None = None, n_resamples: int = 2000) -> Results:
        """The results in a run folder, finished or not. ``reference`` defaults to the run's own.

        Raises
        ------
        RunFolderError
            If the folder holds no run, or its logs are damaged.
        """
        folder = Path(folder)
        run = read_run(folder)
        reference = run["settings"].get("reference") if reference is None else reference
        return cls(read_samples(folder, run), run, folder, reference, n_resamples)

    @property
    def complete(self) -> bool:
        """Whether every sample of the run has its line under every configuration."""
        return len(self.samples) == self.run["n_samples"] * len(self.run["identity"]["configurations"])

    @cached_property
    def table(self) -> pd.DataFrame:
        """The table of ``results.csv``."""
        return self.by("kind")

    def by(self, column: str) -> pd.DataFrame:
        """The table split by another column of the samples, e.g. ``size_class``; it stands in ``kind``."""
        if column not in self.samples:
            raise InputError(f"samples have no column {column!r}: choose kind or size_class")
        groups = [(ALL, self.samples)]
        groups += [(value, group) for value, group in self.samples.groupby(column, sort=True) if value]
        rows = [row for name, group in groups for row in self._rows(str(name), group)]
        table = pd.DataFrame(rows, columns=COLUMNS)
        return table.assign(layer=table["layer"].astype("Int64"), keep=_keeps(row["keep"] for row in rows))

    @property
    def labels(self) -> dict[str, str]:
        """Options hash -> `Method.label`: tells variants of one method apart in figures and tables."""
        configs = [c for c in self._configurations() if c["method"] != UNPRUNED]
        return {c["options_hash"]: from_record(c["method"], c["options"]).label for c in configs}

    def summary(self) -> pd.DataFrame:
        """The table at a glance: all kinds together, the columns one looks at first, methods by their label."""
        table = self.table[self.table["kind"] == ALL]
        table = table.assign(method=table["options_hash"].map(self.labels).fillna(table["method"]))
        tflops = table[["tflops_vision", "tflops_projector", "tflops_decoder"]].sum(axis=1, min_count=3)
        return table[list(_SUMMARY)].assign(tflops=tflops).reset_index(drop=True)

    def differences(self, reference: str | None = None, kind: str = ALL) -> pd.DataFrame:
        """Paired differences in Acc@0.5 to a reference method at the same keep and layer (``"none"``:
        unpruned).

        Returns
        -------
        DataFrame
            method, options_hash, profile_hash, keep, layer, reference, kind, n, difference, difference_lo,
            difference_hi (accuracy points in [-1, 1]) and p (sign flips over images, two-sided).
        """
        reference = reference or self.reference
        if reference not in set(self.samples["method"]):
            raise InputError(f"no method {reference!r} in this run: choose one of {self._methods()}")
        group = self.samples if kind == ALL else self.samples[self.samples["kind"] == kind]
        paired = _Paired(group, self._configurations())
        bootstrap = ImageBootstrap(paired.images, n_resamples=self.n_resamples)
        rows = []
        for i, config in enumerate(paired.configs):
            j = paired.find(reference, config)
            if j is None or j == i:
                continue
            hits, other = paired.hits[:, i], paired.hits[:, j]
            found = bootstrap.difference(hits, other)
            rows.append(
                {
                    **{name: config[name] for name in KEY_FIELDS},
                    "reference": reference,
                    "kind": kind,
                    "n": len(hits),
                    "difference": found.value,
                    "difference_lo": found.lo,
                    "difference_hi": found.hi,
                    "p": paired_p_value(hits, other, paired.images),
                }
            )
        return pd.DataFrame(rows)

    def save(self, folder: str | Path | None = None) -> Path:
        """Write ``results.csv`` (default: into the run folder) unless it is there; returns its path."""
        folder = self.folder if folder is None else Path(folder)
        if folder is None:
            raise InputError("these results have no folder: pass save(folder)")
        path, text = folder / TABLE_FILE, csv_text(self.table, self.run["identity"]["model"])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                atomic_write(path, text)
        except OSError as error:
            raise RunFolderError(f"cannot write {path} ({error.strerror}): choose another folder") from error
        return path

    def __repr__(self) -> str:
        state = "complete" if self.complete else "incomplete"
        return f"<Results: {len(self.samples)} lines, methods {self._methods()}, {state}>"

    def _methods(self) -> str:
        return ", ".join(dict.fromkeys(config["method"] for config in self._configurations()))

    def _configurations(self) -> list[dict[str, Any]]:
        return self.run["identity"]["configurations"]

    def _rows(self, kind: str, group: pd.DataFrame) -> Iterable[dict[str, Any]]:
        identity = self.run["identity"]
        paired = _Paired(group, self._configurations())
        bootstrap = ImageBootstrap(paired.images, n_resamples=self.n_resamples)
        accuracy = bootstrap.mean(paired.hits)
        unpruned = paired.find(UNPRUNED)
        retention = None if unpruned is None else bootstrap.ratio(paired.hits, paired.hits[:, [unpruned]])
        for i, config in enumerate(paired.configs):
            lines = paired.lines[i]
            row = {
                "dataset": identity["dataset"]["name"],
                "split": identity["dataset"]["split"],
                "kind": kind,
                "model": identity["model"]["name"],
                **{name: config[name] for name in KEY_FIELDS},
                "seed": identity["options"]["seed"],
                "n": len(lines),
                "errors": paired.errors[i],
                "unparsed": int((~lines["parsed"]).sum()),
                "miou": lines["iou"].mean(),
                "p_vs_reference": paired.p_value(i, self.reference),
                **dict(zip(("acc50", "acc50_lo", "acc50_hi"), (part[i] for part in accuracy), strict=True)),
                **{name: lines[name].mean() for name in _MEANS},
                **{name: lines[name].median() for name in _MEDIANS},
                "peak_mb": lines["peak_mb"].max(),
            }
            if retention is not None:
                row |= zip(
                    ("retention", "retention_lo", "retention_hi"),
                    (part[i] for part in retention),
                    strict=True,
                )
            yield row


class _Paired:
    """The samples of a group that can be compared, in one order for every configuration."""

    def __init__(self, group: pd.DataFrame, configs: list[dict[str, Any]]) -> None:
        by_key = dict(list(group.groupby("key", sort=False)))
        self.configs = [config for config in configs if record_key(config) in by_key]
        lines = [by_key[record_key(config)].set_index("id") for config in self.configs]
        self.errors = [int(part["error"].notna().sum()) for part in lines]
        answered = [part[part["error"].isna()] for part in lines]
        shared = pd.Index(group["id"].unique())
        for part in answered:
            # a configuration that fails everywhere says nothing about samples and must not erase the others
            shared = shared[shared.isin(part.index)] if len(part) else shared
        self.lines = [part.reindex(shared) if len(part) else part for part in answered]
        images = group.drop_duplicates("id").set_index("id")["image_id"]
        self.images = images.reindex(shared).to_numpy(str)
        hits = [
            part["hit"].astype(float).to_numpy() if len(part) else np.full(len(shared), np.nan) for part in self.lines
        ]
        self.hits = np.stack(hits, axis=1) if hits else np.empty((len(shared), 0))

    def find(self, method: str, like: dict[str, Any] | None = None) -> int | None:
        """Index of a method's configuration, at the keep and layer of another (the unpruned one has none)."""
        for i, config in enumerate(self.configs):
            same = like is None or method == UNPRUNED or all(config[name] == like[name] for name in ("keep", "layer"))
            if config["method"] == method and same:
                return i
        return None

    def p_value(self, index: int, reference: str | None) -> float:
        """Against the reference method at the same keep and layer; NaN where there is none."""
        other = None if reference is None else self.find(reference, self.configs[index])
        if other is None or other == index:
            return float("nan")
        return paired_p_value(self.hits[:, index], self.hits[:, other], self.images)


def read_samples(folder: str | Path, run: dict[str, Any]) -> pd.DataFrame:
    """The sample lines of a run folder in the order of the data set and the configurations, each once.

    A sample that failed and was tried again counts as what it became.
    """
    order = {record_key(config): i for i, config in enumerate(run["identity"]["configurations"])}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for record in sample_lines(folder):
        name = (record["id"], record_key(record))
        if name[1] in order and (name not in found or record["error"] is None):
            found[name] = record | {"key": name[1]}
    records = sorted(found.values(), key=lambda record: (record["index"], order[record["key"]]))
    frame = pd.DataFrame(records, columns=[*LINE_FIELDS, "key"], dtype=object).astype(_DTYPES)
    return frame.assign(keep=_keeps(frame["keep"]))


def _keeps(values: Iterable[float | int]) -> pd.Series:
    """Ratios as numbers; with counts among them as objects, or pandas would make ratios of counts."""
    values = list(values)
    return pd.Series(values, dtype=object if any(isinstance(value, int) for value in values) else float)
