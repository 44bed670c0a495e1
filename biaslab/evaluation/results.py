"""Results of an evaluation: the samples, the table with intervals, and paired differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from biaslab._util.arguments import as_path
from biaslab._util.files import atomic_write, writing_to
from biaslab._util.tables import csv_text
from biaslab.errors import InputError
from biaslab.evaluation.configurations import UNPRUNED
from biaslab.evaluation.failures import failures, unanswered
from biaslab.evaluation.layer_tokens import tokens_per_layer
from biaslab.evaluation.line_store import read_store, write_store
from biaslab.evaluation.paired import Paired
from biaslab.evaluation.question_answers import yes_no_answers
from biaslab.evaluation.recorded_methods import label_of, place_of
from biaslab.evaluation.result_exports import ResultExports
from biaslab.evaluation.result_rows import accuracy_column, columns_of, difference_rows, summary_columns, table_rows
from biaslab.evaluation.run_folder import read_run
from biaslab.evaluation.sample_frame import keeps, read_samples
from biaslab.evaluation.schema import record_key
from biaslab.evaluation.verdicts import read_verdicts, verdicts_of
from biaslab.stats.paired_signs import SignFlips

TABLE_FILE = "results.csv"
ALL = "all"


class Results(ResultExports):
    """Verdicts of an evaluation on every sample, and the tables made of them.

    Parameters
    ----------
    samples : DataFrame, optional
        One row per sample and configuration: the lines of the log. Default: those in ``folder``, read when they are
        asked for.
    run : dict
        Content of ``run.json``.
    folder : Path, optional
        Run folder; None for a run in memory.
    reference : str, optional
        Method that ``p_vs_reference`` compares with, at the same keep and layer.
    n_resamples : int
        Resamples of the intervals.

    Attributes
    ----------
    samples : DataFrame
        All fields of every line, as Python objects: 6 KB of memory a line.
    verdicts : DataFrame
        One row per sample and configuration in the same order, without answers, boxes, kept tokens and ``info``; texts
        are categoricals: 0.2 KB a line. All statistics are made of it.
    table : DataFrame
        The columns of ``results.csv``, one row per configuration and type of expression (``"all"`` first).
    failures : str
        How many sample runs failed, with the first cause; empty where none did.
    is_main : bool
        Whether this process speaks for the run: of several ranks, the one that made it complete.

    Notes
    -----
    Accuracies are compared on the samples that have a verdict under *every* configuration with
    any verdict at all; ``n`` is their number. ``errors`` counts the samples whose run under this
    configuration failed (missing image, exception): they are no misses. Within ``n``, two counts of misses:
    ``unparsed``, answers that ended without a box, and ``truncated``, answers that were cut at the limit of new
    tokens before they held a whole box (missing for runs of versions that did not record it; ``unparsed`` then
    counts both). A whole box before the cut counts as any other: the first box is the answer. Intervals are
    bootstraps over images, ``p_vs_reference`` a sign-flip permutation test over images, both paired on the same
    samples. Times are medians per sample, ``peak_mb``
    a maximum, other numbers means.

    Examples
    --------
    >>> import biaslab as bl
    >>> scenes = bl.load_dataset("scenes", n=3)
    >>> results = bl.evaluate(
    ...     bl.load("grounder"), scenes, methods=["none", "random"], keep=0.1, layer=4, progress=False
    ... )
    >>> results.summary()[["method", "keep", "n", "acc50", "retention"]]
       method  keep  n  acc50  retention
    0    none   1.0  3    1.0        1.0
    1  random   0.1  3    1.0        1.0
    >>> results.by("object_size")[["expression_type", "method", "n"]]
      expression_type  method  n
    0             all    none  3
    1             all  random  3
    2           large    none  2
    3           large  random  2
    4          medium    none  1
    5          medium  random  1
    >>> bl.Results(results.samples, results.run, reference="none").differences()[["method", "difference"]]
       method  difference
    0  random         0.0
    """

    def __init__(
        self,
        samples: pd.DataFrame | None,
        run: dict[str, Any],
        folder: Path | None = None,
        *,
        reference: str | None = "random",
        n_resamples: int = 2000,
    ) -> None:
        self.run, self.folder = run, folder
        self.reference, self.n_resamples = reference, n_resamples
        if samples is not None:
            self.samples = samples
            self.verdicts = verdicts_of(samples)
        elif folder is not None:
            stored = read_store(folder, run)
            self.verdicts = read_verdicts(folder, run) if stored is None else stored
        else:
            raise InputError("results are of samples or of a run folder: pass one of them")
        self.failures = failures(self.verdicts)
        self._store: Path | None = None
        self._flips = SignFlips()
        self.is_main = True

    @classmethod
    def load(cls, folder: str | Path, *, reference: str | None = None, n_resamples: int = 2000) -> Results:
        """Read the results in a run folder, finished or not.

        Parameters
        ----------
        folder : str or Path
        reference : str, optional
            Method that ``p_vs_reference`` compares with; default: the run's own.
        n_resamples : int
            Resamples of the intervals.

        Returns
        -------
        Results

        Raises
        ------
        RunFolderError
            If the folder holds no run, or its logs are damaged.
        """
        folder = as_path("folder", folder)
        run = read_run(folder)
        reference = run["settings"].get("reference") if reference is None else reference
        return cls(None, run, folder, reference=reference, n_resamples=n_resamples)

    @cached_property
    def samples(self) -> pd.DataFrame:
        """All fields of every line, in the order of the data set and the configurations."""
        assert self.folder is not None  # or they were given
        return read_samples(self.folder, self.run)

    @property
    def complete(self) -> bool:
        """Whether every sample of the run has its line under every configuration."""
        return len(self.verdicts) == self.run["n_samples"] * len(self.run["identity"]["configurations"])

    @property
    def unanswered(self) -> list[str]:
        """Labels, with keep and layer, of the configurations that were tried and have not one verdict."""
        configs = self._configurations()
        return [self.name_of(c) for c in unanswered(self.verdicts, configs, map(record_key, configs))]

    def name_of(self, config: Mapping[Any, Any]) -> str:
        """Name a configuration of the run, or a row of its table: label, keep and layer; a schedule by its word."""
        label = self.labels.get(config["options_hash"], config["method"])
        return f"{label} {place_of(config, label)}".strip()

    @property
    def lacking(self) -> str:
        """What an incomplete run lacks, in a line; empty for a complete one."""
        total = self.run["n_samples"] * len(self._configurations())
        if len(self.verdicts) == total:
            return ""
        return (
            f"the run lacks {total - len(self.verdicts)} of its {total} sample runs: methods are compared on the "
            "samples that all of them have answered; the commands that began it go on"
        )

    @cached_property
    def table(self) -> pd.DataFrame:
        """Columns of ``results.csv``, one row per configuration and type of expression (``"all"`` first)."""
        return self.by("expression_type")

    def by(self, column: str) -> pd.DataFrame:
        """Make the table, split by another column of the samples.

        Parameters
        ----------
        column : str
            ``"expression_type"``, ``"object_size"`` or another column of ``samples``.

        Returns
        -------
        DataFrame
            As ``table``; the values of ``column`` stand in ``expression_type``, ``"all"`` first.

        Raises
        ------
        InputError
            The samples have no such column.
        """
        groups: list[tuple[str, Paired]] = [(ALL, self._paired)]
        rows: list[dict[str, Any]] = []
        for value, group in self._groups(column):
            groups.append((str(value), self._pair(group)))
        for name, paired in groups:
            rows += table_rows(self.run, name, paired, self.reference, self._yes_no)
        table = pd.DataFrame(rows, columns=columns_of(self.run))
        return table.assign(
            layer=table["layer"].astype("Int64"),
            truncated=table["truncated"].astype("Int64"),
            keep=keeps(row["keep"] for row in rows),
        )

    @property
    def accuracy(self) -> str:
        """Name of the accuracy's column: ``"acc50"``, of a run on questions ``"accuracy"``."""
        return accuracy_column(self.run)

    def _yes_no(self, rows: pd.Index) -> Any:
        lines = self.samples.loc[rows]
        return yes_no_answers(lines["answer"], [info["answers"] for info in lines["info"]])

    @property
    def labels(self) -> dict[str, str]:
        """Options hash -> `Method.label`: tells variants of one method apart in figures and tables."""
        return {c["options_hash"]: label_of(c) for c in self._configurations() if c["method"] != UNPRUNED}

    def kept_per_layer(self) -> pd.DataFrame:
        """Average how many visual tokens each decoder layer saw: a row per configuration, a column per layer."""
        paired, n_layers = self._paired, int(self.run["settings"]["n_layers"])
        rows = {self.name_of(c): tokens_per_layer(paired.lines(i), c, n_layers) for i, c in enumerate(paired.configs)}
        return pd.DataFrame.from_dict(rows, orient="index")

    def summary(self) -> pd.DataFrame:
        """Make the table at a glance: all types of expressions together, the main columns, methods by their label.

        Returns
        -------
        DataFrame
            method, keep, layer, mean_share (where there are several layers), n, errors, unparsed, truncated, acc50,
            acc50_lo, acc50_hi (of questions accuracy, accuracy_lo, accuracy_hi, yes_f1, yes_share), retention,
            p_vs_reference, target_auroc, target_kept and tflops (vision tower, projector and decoder together).
        """
        table = self.table[self.table["expression_type"] == ALL]
        table = table.assign(method=table["options_hash"].map(self.labels).fillna(table["method"]))
        tflops = table[["tflops_vision", "tflops_projector", "tflops_decoder"]].sum(axis=1, min_count=3)
        return table[summary_columns(table)].assign(tflops=tflops).reset_index(drop=True)

    def differences(self, reference: str | None = None, *, expression_type: str = ALL) -> pd.DataFrame:
        """Compare every method in Acc@0.5 with a reference method at the same keep and layer, in pairs.

        Parameters
        ----------
        reference : str, optional
            ``"none"`` for the unpruned model; default: the reference of the results.
        expression_type : str
            Samples of one type of expression; default all.

        Returns
        -------
        DataFrame
            method, options_hash, profile_hash, keep, layer, reference, expression_type, n, difference, difference_lo,
            difference_hi (accuracy points in [-1, 1]; :func:`biaslab.stats.paired_hits.paired_hits`) and p (sign flips
            over images, two-sided, not adjusted for the number of rows).

        Raises
        ------
        InputError
            The reference is no method of this run.

        Examples
        --------
        >>> import biaslab as bl
        >>> results = bl.evaluate(
        ...     bl.load("grounder"), bl.load_dataset("scenes", n=3), methods=["none", "random"], keep=0.1, layer=4,
        ...     progress=False,
        ... )
        >>> results.differences("none")[["method", "reference", "n", "difference"]]
           method reference  n  difference
        0  random      none  3         0.0
        """
        reference = reference or self.reference
        methods = dict.fromkeys(config["method"] for config in self._configurations())
        if reference is None or reference not in set(self.verdicts["method"].unique()):
            raise InputError(f"no method {reference!r} in this run: choose one of {', '.join(methods)}")
        paired = self._paired
        if expression_type != ALL:
            group = self.verdicts[(self.verdicts["expression_type"] == expression_type).to_numpy(bool)]
            paired = self._pair(group)
        return pd.DataFrame(difference_rows(paired, reference, expression_type))

    def save(self, folder: str | Path | None = None) -> Path:
        """Write ``results.csv``, unless it is there already.

        In the folder of a complete run also ``samples.parquet``, its lines as columns, where pyarrow is installed.

        Parameters
        ----------
        folder : str or Path, optional
            Default: the run folder.

        Returns
        -------
        Path
            Of the file.

        Raises
        ------
        InputError
            Results in memory, and no folder is named.
        RunFolderError
            The file cannot be written.

        Examples
        --------
        >>> import tempfile
        >>> import biaslab as bl
        >>> results = bl.evaluate(
        ...     bl.load("grounder"), bl.load_dataset("scenes", n=1), methods="none", keep=1.0, layer=4, progress=False
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     results.save(folder).read_text().split(",")[:6]
        ['dataset', 'split', 'expression_type', 'model', 'method', 'options_hash']
        """
        folder = self.folder if folder is None else Path(folder)
        if folder is None:
            raise InputError("these results have no folder: pass save(folder)")
        path, text = folder / TABLE_FILE, csv_text(self.table, self.run["identity"]["model"])
        with writing_to(path, "make its folder writable and run the same command again, or choose another folder"):
            folder.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                atomic_write(path, text)
            if folder == self.folder and self.complete and self._store is None:
                self._store = write_store(folder, self.run, self.verdicts)
        return path

    def __repr__(self) -> str:
        state = "complete" if self.complete else "incomplete"
        names = dict.fromkeys(self.labels.get(c["options_hash"], c["method"]) for c in self._configurations())
        return f"<Results: {len(self.verdicts)} lines, methods {', '.join(names)}, {state}>"

    def _configurations(self) -> list[dict[str, Any]]:
        return self.run["identity"]["configurations"]

    @cached_property
    def _paired(self) -> Paired:
        return self._pair(self.verdicts)

    def _pair(self, group: pd.DataFrame) -> Paired:
        return Paired(group, self._configurations(), self.n_resamples, self._flips)

    def _groups(self, column: str) -> Iterator[tuple[Any, pd.DataFrame]]:
        """Split the verdicts by the values of a column, sorted; empty ones are left out."""
        if column not in self.verdicts and column not in self.samples:
            raise InputError(f"samples have no column {column!r}: choose expression_type or object_size")
        values = (self.verdicts if column in self.verdicts else self.samples)[column]
        for value in sorted(value for value in values.dropna().unique() if value):
            yield value, self.verdicts[(values == value).to_numpy(bool)]
