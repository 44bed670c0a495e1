"""Result tables for papers: booktabs LaTeX that fits its column, and the CSV with n and intervals beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from biaslab._util.files import writing_to
from biaslab._util.tables import write_table
from biaslab.figures.frames import (
    UNPRUNED,
    comparable_runs,
    configuration_keys,
    label_rows,
    metric_of,
    parts_of,
    read_results,
    rows_of_methods,
)
from biaslab.figures.latex_layout import results_latex

__all__ = ["results_latex", "results_table", "save_table"]

_METRICS = ("acc50", "accuracy", "retention", "miou", "target_kept")
_TESTED = ("acc50", "accuracy", "retention")  # a retention is an accuracy over that of the unpruned model


def results_table(
    results: Any,
    *,
    metric: str | None = None,
    methods: Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
    **choices: Any,
) -> pd.DataFrame:
    """Read a long table of one metric from results, a line per cell.

    Parameters
    ----------
    results : Results, DataFrame, str or Path, or several in a list or mapping
        What ``evaluate`` returned, a table with the columns of results.csv, or the path of a run folder or csv file.
    metric : str, optional
        "acc50", "retention", "miou" or "target_kept"; default the accuracy: "acc50", of a run on questions "accuracy".
    methods : sequence of str, optional
        Methods, in this order; default all.
    labels : mapping of str, optional
        Method, its label with options, or options hash -> name; default as papers name them.
    **choices
        layer=, keep=, dataset=, split=, expression_type= (default "all"), model= where the results hold several.

    Returns
    -------
    DataFrame
        Columns label, method, layer, keep, n, errors, unparsed, truncated, value, lo, hi, tflops, model, dataset,
        split, where the results have them; values are shares in 0..1. Of results with their samples (not of a bare
        CSV) also p_vs_best: whether the accuracy differs from the best at that layer and keep
        (:func:`biaslab.evaluation.best.against_best`), adjusted over the whole table (Holm). Pairs are of one run: at a
        layer and keep whose methods come from several run folders nothing is tested. ``run`` where results differ in
        model, data set or seed.

    Raises
    ------
    InputError
        Unknown metric, method or choice, or rows that cannot be compared.

    Examples
    --------
    >>> results = pd.DataFrame({"method": ["none", "random"], "keep": [1.0, 0.5], "n": 300, "acc50": [0.9, 0.8]})
    >>> results_table(results)
            label  method  keep    n  value
    0  no pruning    none   1.0  300    0.9
    1      random  random   0.5  300    0.8
    """
    table = comparable_runs(results, **choices)
    metric = metric_of(table, metric, _METRICS)
    names = {metric: "value", f"{metric}_lo": "lo", f"{metric}_hi": "hi"}
    table["label"] = label_rows(table, labels)
    if methods is not None:
        table = rows_of_methods(table, methods)
    if metric in _TESTED and choices.get("expression_type") in (None, "all"):
        table = _tested(table, results)
    columns = ["label", "method", "layer", "keep", "n", "errors", "unparsed", "truncated"]
    columns += ["value", "lo", "hi", "tflops", "model", "dataset", "split", "p_vs_best"]
    columns += ["run"] if table["run"].any() else []
    table = table.rename(columns=names)
    return table[[c for c in columns if c in table]].reset_index(drop=True)


def _tested(table: pd.DataFrame, results: Any) -> pd.DataFrame:
    """Add whether accuracies differ from the best beside them, where the samples are there to tell."""
    from biaslab.evaluation.best import against_best
    from biaslab.evaluation.schema import KEY_FIELDS
    from biaslab.stats.multiple_testing import holm

    part = table["part"] if "part" in table else pd.Series(0, index=table.index)
    pruned = table["method"] != UNPRUNED
    place = [table[name].astype(str) for name in ("run", "layer", "keep") if name in table]
    alone = part.where(pruned).groupby(place, dropna=False).transform("nunique") == 1
    keys, p = configuration_keys(table), pd.Series(np.nan, index=table.index)
    for i, one in enumerate(parts_of(results).values()):
        samples, mine = _with_samples(one), alone & pruned & (part == i)
        if samples is None or not set(KEY_FIELDS) <= set(table) or not mine.any():
            continue
        rows = samples.table[samples.table["expression_type"] == "all"]
        tested = against_best(samples, rows[configuration_keys(rows).isin(set(keys[mine]))])
        p[mine] = keys[mine].map(dict(zip(configuration_keys(tested), tested["p"], strict=True)))
    return table.assign(p_vs_best=holm(p.to_numpy(float))) if p.notna().any() else table


def _with_samples(results: Any) -> Any:
    """Take results that have their samples, or open their run folder; None of a bare table."""
    from biaslab.evaluation.results import Results

    if isinstance(results, str | Path) and (Path(results) / "run.json").exists():
        results = Results.load(results)
    return results if isinstance(results, Results) else None


def save_table(results: Any, path: str | Path, *, metric: str | None = None, **kwargs: Any) -> list[Path]:
    """Write ``path.tex`` and ``path.csv``; inside ``with style("icml")`` the LaTeX fits that venue's column.

    Parameters
    ----------
    results : Results, DataFrame, str or Path, or several in a list or mapping
        As for :func:`results_table`.
    path : str or Path
        Without extension; one of .tex, .csv is dropped. Missing folders are made.
    metric : str, optional
        "acc50", "retention", "miou" or "target_kept"; default the accuracy: "acc50", of a run on questions "accuracy".
    **kwargs
        As of :func:`results_table`, and ``caption``, ``label`` of :func:`results_latex`.

    Returns
    -------
    list of Path
        The LaTeX file and the CSV.

    Raises
    ------
    RunFolderError
        The place cannot be written.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> results = pd.DataFrame({"method": ["random", "fastv"], "keep": 0.5, "n": 300, "acc50": [0.7, 0.8]})
    >>> with TemporaryDirectory() as folder:
    ...     [file.name for file in save_table(results, f"{folder}/main", caption="Accuracy")]
    ['main.tex', 'main.csv']
    """
    text = {name: kwargs.pop(name, None) for name in ("caption", "label")}
    if metric is None:
        first, *_ = parts_of(results).values()
        metric = metric_of(read_results(first), metric, _METRICS)
    table = results_table(results, metric=metric, **kwargs)
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".tex", ".csv") else path
    latex = results_latex(table, metric=metric, **text)
    with writing_to(f"the table {stem}"):
        csv, tex = write_table(table, stem, table, latex=latex)
    return [tex, csv]
