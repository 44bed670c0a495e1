"""The report of two runs on the same samples, in pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from biaslab._util.number_text import count_text
from biaslab._util.tables import csv_text
from biaslab._util.watermark import note_of
from biaslab.errors import InputError
from biaslab.evaluation.results import Results
from biaslab.evaluation.schema import record_key
from biaslab.figures.report.choosing import hit_table
from biaslab.figures.report.findings import points, with_q, worded
from biaslab.figures.report.names import PrintNames
from biaslab.figures.report.page import Block, Page, Section
from biaslab.figures.report.run_page import provenance_blocks
from biaslab.figures.report.tables import Table, data_link
from biaslab.figures.report.viewer_data import Shown, viewer_data
from biaslab.stats.paired_hits import paired_hits
from biaslab.stats.resampling import paired_p_value

__all__ = ["check_pair", "pair_page", "paired_table"]


def check_pair(first: Results, second: Results) -> None:
    """Refuse two runs of different tasks, or without a configuration in common.

    Raises
    ------
    InputError
    """
    if first.accuracy != second.accuracy:
        raise InputError(
            "one run is on questions, the other on referring expressions: their accuracies are not of one kind"
        )
    if not _common(first, second):
        raise InputError("the two runs have no configuration (method, keep and layer) in common: nothing can be paired")


def paired_table(first: Results, second: Results) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Compare two runs by sample: every configuration that both have, B minus A.

    Parameters
    ----------
    first, second : Results
        A and B.

    Returns
    -------
    differences : DataFrame
        ``label`` (the configuration as it is spelled), ``n``, ``a`` and ``b`` (accuracies), ``difference`` with ``_lo``
        and ``_hi`` (B minus A, on samples with a verdict in both), ``p`` and ``q``.
    hits : DataFrame
        Verdicts of both runs on the samples that they share, a row per sample.
    apart : (samples,) array
        Share of the common configurations under which A and B differ.

    Raises
    ------
    InputError
        They share no sample.
    """
    a, b = hit_table(first.verdicts), hit_table(second.verdicts)
    shared = a.index[a.index.isin(b.index)]
    shared = shared[~shared.isin(list(_other_content(first, second)))]
    if not len(shared):
        raise InputError("the two runs have no sample in common: run both on the same data set")
    images = dict(zip(first.verdicts["id"].astype(str), first.verdicts["image_id"].astype(str), strict=True))
    rows = []
    differ = np.zeros(len(shared))
    for name, own, other in _common(first, second):
        if own not in a or other not in b:
            continue
        pair = pd.DataFrame({"a": a.loc[shared, own], "b": b.loc[shared, other]}).dropna()
        if pair.empty:
            continue
        differ += shared.isin(pair.index[pair["a"] != pair["b"]])
        of = [images[str(sample)] for sample in pair.index]
        one, two = pair["a"].to_numpy(), pair["b"].to_numpy()
        found = paired_hits(two, one, of)
        p = paired_p_value(two, one, of)
        rows.append(
            {
                "label": name, "n": len(pair), "a": one.mean(), "b": two.mean(),
                **dict(zip(("difference", "difference_lo", "difference_hi"), map(float, found), strict=True)),
                "p": float(p),
            }
        )  # fmt: skip
    hits = pd.concat([a.loc[shared].add_prefix("A: "), b.loc[shared].add_prefix("B: ")], axis=1)
    return with_q(pd.DataFrame(rows)), hits, differ / max(len(rows), 1)


def pair_page(
    first: Results,
    second: Results,
    table: pd.DataFrame,
    shown: Sequence[Shown],
    *,
    missing: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
) -> Page:
    """Put together the report of two runs.

    Parameters
    ----------
    first, second : Results
        A and B.
    table : DataFrame
        Of `paired_table`.
    shown : sequence of Shown
        With a layout for each run.
    missing : sequence of str
        What cannot be shown, and why.
    labels : mapping of str, optional
        As of :class:`biaslab.figures.report.names.PrintNames`.

    Returns
    -------
    Page
    """
    names = PrintNames(first, second, labels=labels)
    called = {names.spelled(config): names.configuration(config) for config in first.run["identity"]["configurations"]}
    differences = table.to_dict("records")
    titles = [_title(first), _title(second)]
    said = [f"A is {titles[0]}; B is {titles[1]}."]
    if not table.empty:
        said.append(f"Both have a verdict on {count_text(int(table['n'].max()), 'sample')}. B compared with A, paired: "
                    f"{worded([row | {'label': called[row['label']]} for row in differences])}.")  # fmt: skip
    else:
        said.append("No configuration has a verdict on the same sample in both runs.")
    said += [f"{letter} is unfinished: {r.lacking}." for letter, r in (("A", first), ("B", second)) if r.lacking]
    rows = [
        [called[r["label"]], f"{r['n']:,}", f"{100 * r['a']:.1f}", f"{100 * r['b']:.1f}",
         points(r).replace(" points", ""), f"{r['q']:.3f}" if r["q"] >= 0.001 else "<0.001"]
        for r in differences
    ]  # fmt: skip
    link = data_link("differences.csv", csv_text(table, first.run["identity"]["model"]))
    cells = Table(
        ["configuration", "n", "A, %", "B, %", "B minus A, points", "q"],
        rows,
        "95 % intervals over images in brackets, paired by sample; q: sign-flip test over images, adjusted over rows.",
        [link],
        [row["label"] for row in differences],
    )
    samples: list[Any] = [Block("sentences", list(missing))] if missing else []
    samples += [Block("viewer")] if shown else []
    note = note_of(first.run["identity"]["model"]) or note_of(second.run["identity"]["model"])
    return Page(
        title=f"A: {titles[0]}, B: {titles[1]}",
        sections=[
            Section("found", "What was found", [Block("sentences", said)]),
            Section("table", "Table", [Block("table", cells)] if rows else []),
            Section("samples", "Samples", samples),
            Section("provenance-a", "Provenance of A", provenance_blocks(first, names)),
            Section("provenance-b", "Provenance of B", provenance_blocks(second, names)),
        ],
        data=viewer_data({"A": first, "B": second}, shown, names) if shown else None,
        note=None if note is None else note.capitalize(),
    )


def _title(results: Results) -> str:
    model, dataset = results.run["identity"]["model"], results.run["identity"]["dataset"]
    folder = f" ({results.folder.name})" if results.folder is not None else ""
    return f"{model['name']} on {dataset['name']}{folder}"


def _common(first: Results, second: Results) -> list[tuple[str, str, str]]:
    """List the configurations that both have: name, key in A, key in B."""
    there = {second.name_of(config): record_key(config) for config in second.run["identity"]["configurations"]}
    mine = [(first.name_of(config), record_key(config)) for config in first.run["identity"]["configurations"]]
    return [(name, key, there[name]) for name, key in mine if name in there]


def _other_content(first: Results, second: Results) -> set[str]:
    """Find the ids under which the two runs saw something else."""
    if first.run["identity"]["dataset"]["hash"] == second.run["identity"]["dataset"]["hash"]:
        return set()
    of = [dict(zip(r.samples["id"], r.samples["sample_hash"], strict=True)) for r in (first, second)]
    return {name for name, known in of[0].items() if name in of[1] and of[1][name] != known}
