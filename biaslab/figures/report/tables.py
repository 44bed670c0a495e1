"""The tables of a report as cells of text, and their links as files."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from biaslab._util.number_text import is_number
from biaslab._util.tables import csv_text
from biaslab.evaluation.results import Results
from biaslab.figures.report.findings import with_q
from biaslab.figures.report.names import PrintNames
from biaslab.figures.tables import results_latex, results_table

__all__ = ["Table", "cost_table", "data_link", "group_table", "main_table", "result_links", "share_cell"]


_NAMES = {"miou": "mean IoU", "target_kept": "target kept", "mean_share": "mean share"}


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes
    ----------
    head : sequence of str
    rows : sequence of sequence of str
    spelled : sequence of str
        How a command line spells what each row's first cell names: what pointing at it shows.
    caption : str
    links : sequence of dict
        ``name`` of a file and its ``href``.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    links: Sequence[Mapping[str, str]] = field(default_factory=list)
    spelled: Sequence[str] = ()


def data_link(name: str, text: str, kind: str = "text/csv") -> dict[str, str]:
    """Make a file that lies in the page itself: its name and ``data:`` address.

    Examples
    --------
    >>> from biaslab.figures.report.tables import data_link
    >>> data_link("a.csv", "x")
    {'name': 'a.csv', 'href': 'data:text/csv;charset=utf-8;base64,eA=='}
    """
    content = base64.b64encode(text.encode("utf-8", "replace")).decode("ascii")
    return {"name": name, "href": f"data:{kind};charset=utf-8;base64,{content}"}


def share_cell(row: Mapping[Any, Any], name: str, *, sign: str = "") -> str:
    """Write a share in per cent with its interval: ``"80.0 [70.1, 88.2]"``, with ``sign="+"`` signed; "" if unknown."""
    value, lo, hi = (row.get(f"{name}{end}") for end in ("", "_lo", "_hi"))
    if not is_number(value):
        return ""
    value, lo, hi = (100 * (float("nan") if v is None else float(v)) for v in (value, lo, hi))
    return f"{value:{sign}.1f}" + (f" [{lo:.1f}, {hi:.1f}]" if is_number(lo) and is_number(hi) else "")


def main_table(results: Results, names: PrintNames) -> Table:
    """Make the table of a run: accuracy, and paired differences to no pruning and to the reference."""
    accuracy = results.accuracy
    frame = results.table[results.table["expression_type"] == "all"]
    differences: dict[str, dict[str, Mapping[Any, Any]]] = {}
    for reference in dict.fromkeys(("none", results.reference)):
        if reference is not None and reference in set(results.verdicts["method"].unique()):
            found = with_q(results.differences(reference)).to_dict("records")
            differences[reference] = {names.spelled(row): row for row in found}
    title = "accuracy" if accuracy == "accuracy" else "Acc@0.5"
    head = ["configuration", "n", f"{title}, %"]
    for reference in differences:
        head += [f"minus {names.reference(reference)}, points", "q"]
    counted = [name for name in ("errors", "unparsed", "truncated") if _any(frame, name)]
    extra = [name for name in _NAMES if name in frame and frame[name].notna().any()]
    head += [*counted, *(_NAMES[name] for name in extra)]
    rows: list[list[str]] = []
    for row in frame.to_dict("records"):
        name = names.spelled(row)
        cells = [names.configuration(row), f"{int(row['n']):,}", share_cell(row, accuracy)]
        for compared in differences.values():
            other = compared.get(name, {})
            cells += [share_cell(other, "difference", sign="+"), _number(other.get("q"), 3)]
        cells += ["" if not is_number(row[c]) else f"{int(row[c]):,}" for c in counted]
        rows.append([*cells, *(_number(row[e], 2) for e in extra)])
    caption = (
        "95 % intervals over images in brackets. Differences are paired by sample; q: sign-flip test over images, "
        "adjusted over all comparisons with the same reference (Benjamini and Hochberg)."
    )
    spelled = [names.spelled(row) for row in frame.to_dict("records")]
    return Table(head, rows, caption, result_links(results, names), spelled)


def result_links(results: Results, names: PrintNames) -> list[dict[str, str]]:
    """Give the results as CSV and the LaTeX table of the accuracy."""
    model = results.run["identity"]["model"]
    latex = results_latex(
        results_table(results, labels=names.labels), metric=results.accuracy, label=f"tab:{results.accuracy}"
    )
    return [
        data_link("results.csv", csv_text(results.table, model)),
        data_link(f"{results.accuracy}.tex", latex, "application/x-tex"),
    ]


def group_table(results: Results, names: PrintNames, column: str, title: str) -> Table | None:
    """Split the accuracy by a column of the samples; None where it has one value."""
    frame = results.by(column)
    groups = [group for group in dict.fromkeys(frame["expression_type"]) if group != "all"]
    if len(groups) < 2:
        return None
    found: dict[str, dict[str, Mapping[Any, Any]]] = {}
    shown: dict[str, str] = {}
    for row in frame.to_dict("records"):
        found.setdefault(names.spelled(row), {})[str(row["expression_type"])] = row
        shown[names.spelled(row)] = names.configuration(row)
    counts = {g: max((int(cells[g]["n"]) for cells in found.values() if g in cells), default=0) for g in groups}
    rows = [
        [shown[name], *(share_cell(cells.get(group, {}), results.accuracy) for group in groups)]
        for name, cells in found.items()
    ]
    head = [title, *(f"{group} (n={counts[group]})" for group in groups)]
    return Table(head, rows, "Accuracy in per cent.", spelled=list(found))


def cost_table(results: Results, names: PrintNames) -> Table:
    """Make the table of what each configuration cost."""
    frame = results.table[results.table["expression_type"] == "all"]
    columns = {
        "tflops_vision": "vision, TFLOPs", "tflops_projector": "projector, TFLOPs", "tflops_decoder": "decoder, TFLOPs",
        "prefill_ms": "prefill, ms", "decode_ms": "decoding, ms", "peak_mb": "peak memory, MB",
    }  # fmt: skip
    shown = [name for name in columns if frame[name].notna().any()]
    known = results.run["settings"].get("n_layers") is not None  # earlier versions did not note it
    kept: Mapping[Any, Any] = results.kept_per_layer().to_dict("index") if known else {}
    rows = []
    for row in frame.to_dict("records"):
        layers = list(kept.get(names.spelled(row), {}).values())
        tokens = f"{sum(layers) / len(layers):,.0f}" if layers and all(map(is_number, layers)) else ""
        rows.append([names.configuration(row), tokens, *(_significant(row[column]) for column in shown)])
    head = ["configuration", "visual tokens per layer, mean", *(columns[name] for name in shown)]
    caption = "Per sample: FLOPs and tokens are means, times medians, memory the largest."
    return Table(head, rows, caption, spelled=[names.spelled(row) for row in frame.to_dict("records")])


def _any(frame: pd.DataFrame, name: str) -> bool:
    return name in frame and bool(frame[name].fillna(0).astype(float).gt(0).any())


def _number(value: Any, digits: int) -> str:
    if not is_number(value):
        return ""
    return f"<{10**-digits:g}" if digits == 3 and value < 0.001 else f"{value:.{digits}f}"


def _significant(value: Any) -> str:
    return f"{value:,.3g}" if is_number(value) and abs(value) < 1000 else (f"{value:,.0f}" if is_number(value) else "")
