"""What a run shows, in sentences that claim no more than its intervals and tests allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from biaslab._util.number_text import count_text, is_number, list_text
from biaslab.evaluation.results import Results
from biaslab.figures.report.names import PrintNames
from biaslab.stats.claims import ALPHA, is_within, side_of
from biaslab.stats.multiple_testing import q_values

__all__ = ["MARGIN", "RULE", "difference_sentences", "findings", "points", "with_q", "worded"]

#: accuracy points within which two methods count as equal, chosen before any run was looked at
MARGIN = (-0.02, 0.02)
#: when something is said, for the reader
RULE = (
    "Brackets are 95 % intervals over images; differences are paired by sample. Better or worse is said only where the "
    "interval excludes 0 and q is at most 0.05 over all comparisons with the same reference; as good only where the "
    "whole interval lies within 2 points."
)
_UNPRUNED = "none"
_ALONE = 8  # configurations without a comparison whose accuracy is a sentence: the table has the others


def findings(results: Results, names: PrintNames | None = None) -> list[str]:
    """Say what a run of ``evaluate`` shows.

    Parameters
    ----------
    results : Results
    names : PrintNames, optional
        What methods are called; default as papers name them.

    Returns
    -------
    list of str
        Sentences. A method is said to be better or worse only where the 95 % interval of the paired difference
        excludes 0 and q, over all comparisons of this reference, is at most 0.05; to be as good only where the whole
        interval lies within 2 points of 0. Of all others it is said that the run does not tell.

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.figures.report.findings import findings
    >>> results = bl.evaluate(
    ...     bl.load("grounder"), bl.load_dataset("scenes", n=3), methods=["none", "random"], keep=0.1, layer=4,
    ...     progress=False,
    ... )
    >>> findings(results)[0]
    'The comparison rests on 3 expressions of the data set scenes (test).'
    >>> findings(results)[2].split(" (")[0]
    'Compared with no pruning, at keep 0.1 layer 4: the run does not tell whether random'
    """
    names = PrintNames(results) if names is None else names
    said = []
    table = results.table[results.table["expression_type"] == "all"]
    if results.lacking:
        said.append(f"This is unfinished: {results.lacking}.")
    if results.failures:
        said.append(f"Failed: {results.failures}.")
    dataset, model = (results.run["identity"][name] for name in ("dataset", "model"))
    questions = results.accuracy == "accuracy"
    n = int(table["n"].max()) if len(table) else 0
    where = f"{dataset['name']} ({dataset['split']})" if dataset.get("split") else str(dataset["name"])
    said.append(
        f"The comparison rests on {count_text(n, 'question' if questions else 'expression')} of the data set {where}."
    )
    if n == 0:
        return said
    verb = "answers" if questions else "locates"
    for row in table[table["method"] == _UNPRUNED].to_dict("records"):
        said.append(f"Without pruning {model['name']} {verb} {_share(row, results.accuracy)}.")
    compared: set[str] = set()
    for reference in dict.fromkeys((_UNPRUNED, results.reference)):
        if reference is not None and reference in set(results.verdicts["method"].unique()):
            found = with_q(results.differences(reference))
            said += difference_sentences(found, names.reference(reference), names)
            compared |= {names.spelled(row) for row in found.to_dict("records")}
    alone = [row for row in table.to_dict("records") if row["method"] != _UNPRUNED and row["n"]]
    alone = [row for row in alone if names.spelled(row) not in compared]
    said += [f"{names.configuration(row)} {verb} {_share(row, results.accuracy)}." for row in alone[:_ALONE]]
    if len(alone) > _ALONE:
        more = count_text(len(alone) - _ALONE, "further configuration")
        said.append(f"The table has the accuracy of {more} without a comparison.")
    said += _losses(table, names, "an answer" if questions else "a box")
    return said


def with_q(differences: pd.DataFrame) -> pd.DataFrame:
    """Add ``q``: Benjamini and Hochberg's q-values over all rows; an empty table stays empty."""
    return differences if differences.empty else differences.assign(q=q_values(differences["p"]))


def difference_sentences(differences: pd.DataFrame, reference: str, names: PrintNames) -> list[str]:
    """Word paired differences, a sentence per keep and layer.

    Parameters
    ----------
    differences : DataFrame
        Of `Results.differences`, with ``q``.
    reference : str
        What the methods are compared with, as it is called.
    names : PrintNames
        What methods are called.

    Returns
    -------
    list of str
    """
    said = []
    rows = [row for row in differences.to_dict("records") if row["method"] != _UNPRUNED]
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(names.place(row), []).append({**row, "label": names.method(row)})
    for where, group in groups.items():
        begin = f"Compared with {reference}" + (f", at {where}" if where else "")
        said.append(f"{begin}: {worded(group)}.")
    return said


def worded(rows: Sequence[Mapping[Any, Any]]) -> str:
    """Word paired differences to one reference: who is better, worse, as good, and of whom nothing can be said.

    Parameters
    ----------
    rows : sequence of mapping
        ``label``, ``difference``, ``difference_lo``, ``difference_hi`` and ``q``.

    Returns
    -------
    str
        Without a full stop.

    Examples
    --------
    >>> from biaslab.figures.report.findings import worded
    >>> names = ("label", "difference", "difference_lo", "difference_hi", "q")
    >>> rows = [("FastV", 0.1, 0.05, 0.15, 0.001), ("MMR", 0.1, 0.01, 0.19, 0.2)]
    >>> worded([dict(zip(names, row)) for row in rows[:1]])
    'FastV (+10.0 points [5.0, 15.0]) hits more often'
    >>> worded([dict(zip(names, row)) for row in rows[1:]])
    'the run does not tell whether MMR (+10.0 points [1.0, 19.0]) differs'
    """
    kinds: dict[str, list[str]] = {"more": [], "less": [], "equal": [], "open": []}
    for row in rows:
        lo, hi, q = row["difference_lo"], row["difference_hi"], row["q"]
        side = side_of(lo, hi, 0.0)
        kind = "open"
        if side and is_number(q) and q <= ALPHA:  # a difference within the margin is still one: said first
            kind = "more" if side > 0 else "less"
        elif is_within(lo, hi, MARGIN):
            kind = "equal"
        kinds[kind].append(f"{row['label']} ({points(row)})")
    parts = []
    for kind, one, several in (
        ("more", "hits more often", "hit more often"),
        ("less", "hits less often", "hit less often"),
        ("equal", "is as good within 2 points", "are as good within 2 points"),
    ):
        if kinds[kind]:
            parts.append(f"{list_text(kinds[kind])} {one if len(kinds[kind]) == 1 else several}")
    if kinds["open"]:
        verb = "differs" if len(kinds["open"]) == 1 else "differ"
        parts.append(f"the run does not tell whether {list_text(kinds['open'])} {verb}")
    return "; ".join(parts)


def points(row: Mapping[Any, Any]) -> str:
    """Write a difference in accuracy points: ``"+3.1 points [1.0, 5.2]"``."""
    value, lo, hi = (row[f"difference{end}"] for end in ("", "_lo", "_hi"))
    text = f"{100 * value:+.1f} points" if is_number(value) else "no difference known"
    return text + (f" [{100 * lo:.1f}, {100 * hi:.1f}]" if is_number(lo) and is_number(hi) else "")


def _share(row: Mapping[Any, Any], name: str) -> str:
    value, lo, hi = (row[f"{name}{end}"] for end in ("", "_lo", "_hi"))
    text = f"{100 * value:.1f} % of them"
    return text + (f" [{100 * lo:.1f}, {100 * hi:.1f}]" if is_number(lo) and is_number(hi) else "")


def _losses(table: pd.DataFrame, names: PrintNames, whole: str) -> list[str]:
    """Count what is a miss or no verdict for another reason than that a whole answer, such as a box, is wrong."""
    said = []
    for column, what in (
        ("unparsed", f"answers ended without {whole} and count as misses"),
        ("truncated", f"answers were cut before they held {whole} and count as misses"),
        ("errors", "sample runs failed and count neither way"),
    ):
        rows = [row for row in table.to_dict("records") if is_number(row[column]) and row[column] > 0]
        if rows:
            worst = max(rows, key=lambda row: row[column])
            total = sum(int(row[column]) for row in rows)
            said.append(f"{total:,} {what}; most under {names.configuration(worst)} ({int(worst[column]):,}).")
    return said
