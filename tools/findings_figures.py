"""Write the figures of docs/findings.md from the results of `benchmarks.findings` and what goes on with them.

    python -m tools.findings_figures

What each method keeps of both tasks, what debiasing is worth by layer, and which claims stand on both models.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.common import RESULTS
from benchmarks.findings_report import MIDDLE
from benchmarks.report import interval
from biaslab.figures.styling import COLORS, ERRORBAR, MARKERS, style

__all__ = ["claims_figure", "depth_figure", "gap_figure"]

_DEPTH = "debiasing by layer"
_ASKED_DEPTH = "10% kept before layer K"
_CLAIMS = "what is worth how much"


def rows_of(results: Mapping[str, Any], caption: str) -> list[dict[str, Any]]:
    """Find the table whose caption begins so."""
    return next(table["rows"] for table in results["tables"] if table["caption"].startswith(caption))


def _bars(axis: Axes, at: Sequence[float], cells: Sequence[str], series: int, label: str, *, across: bool) -> None:
    """Draw values with their intervals, along y (``across``: at heights, along x)."""
    value, low, high = np.array([interval(cell) for cell in cells]).T
    ends = np.stack([value - low, high - value])
    look = {"fmt": MARKERS[series], "color": COLORS[series], "markersize": 3.5, "label": label, **ERRORBAR}
    if across:
        axis.errorbar(value, at, xerr=ends, **look)
    else:
        axis.errorbar(at, value, yerr=ends, **look)


def gap_figure(results: Mapping[str, Any]) -> Figure:
    """Draw what each method keeps of both tasks at the middle cost, in the order of both together."""
    rows = [row for row in rows_of(results, MIDDLE) if not row["method"].endswith("each task")][::-1]
    at = np.arange(len(rows))
    with style():
        figure, axis = plt.subplots(figsize=(6.9, 0.8 + 0.17 * len(rows)), layout="constrained")
        for series, task in enumerate(("boxes", "questions")):
            shift = 0.15 * (1 - 2 * series)
            _bars(axis, at + shift, [row[task] for row in rows], series, task, across=True)
        axis.axvline(100, color="black", linewidth=0.6)
        names = [f"{row['method']} ({row['place']})" for row in rows]
        axis.set(yticks=at, yticklabels=names, xlabel="kept of the unpruned accuracy, %", ylim=(-0.7, len(rows) - 0.3))
        axis.grid(axis="y", linewidth=0.3)
        axis.legend(loc="lower center")
    return figure


def depth_figure(asked: Mapping[str, Any], claims: Mapping[str, Any]) -> Figure:
    """Draw by layer K of both models how biased attention is, what it knows, and what debiasing is worth.

    Of the observer, bias and debiasing are by profiles that were asked what the task asks.
    """
    by_model = {m: [row for row in rows_of(claims, _DEPTH) if row["model"] == m] for m in ("grounder", "observer")}
    own = rows_of(asked, _ASKED_DEPTH)
    drawn = [
        ("grounder, boxes", by_model["grounder"], "explained", "gain"),
        *((f"observer, {task}", own, f"{task}_explained", task) for task in ("boxes", "questions")),
    ]
    layers = np.array([row["k"] for row in own])
    with style():
        figure, axes = plt.subplots(1, 3, figsize=(6.9, 2.4), layout="constrained")
        for series, (label, rows, explained, gain) in enumerate(drawn):
            look = {"color": COLORS[series], "marker": MARKERS[series], "markersize": 3.5, "label": label}
            axes[0].plot(layers, [100 * row[explained] for row in rows], **look)
            _bars(axes[2], layers + 0.16 * (series - 1), [row[gain] for row in rows], series, label, across=False)
        for series, (model, rows) in enumerate(by_model.items()):
            _bars(axes[1], layers + 0.08 * (2 * series - 1), [row["auroc"] for row in rows], series, f"{model}, boxes",
                  across=False)  # fmt: skip
        axes[1].axhline(50, color="black", linewidth=0.6)
        axes[2].axhline(0, color="black", linewidth=0.6)
        labels = ("explained by position, %", "AUROC of the target, %", "debiasing, points")
        for axis, label in zip(axes, labels, strict=True):
            axis.set(xlabel="pruned before layer K", ylabel=label, xticks=layers)
        figure.legend(*axes[2].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def claims_figure(claims: Mapping[str, Any]) -> Figure:
    """Draw what each thing is worth on the grounder's boxes, the observer's boxes and the observer's questions."""
    rows = rows_of(claims, _CLAIMS)[::-1]
    at = np.arange(len(rows))
    series = {"first": "grounder, boxes", "boxes": "observer, boxes", "questions": "observer, questions"}
    with style():
        figure, axis = plt.subplots(figsize=(6.9, 0.9 + 0.36 * len(rows)), layout="constrained")
        for number, (key, label) in enumerate(series.items()):
            _bars(axis, at + 0.22 * (1 - number), [row[key] for row in rows], number, label, across=True)
        axis.axvline(0, color="black", linewidth=0.6)
        names = [row["what"].replace("`", "") for row in rows]
        axis.set(yticks=at, yticklabels=names, xlabel="points of accuracy", ylim=(-0.6, len(rows) - 0.4))
        figure.legend(loc="outside upper right", ncols=3)
    return figure


def main() -> None:
    """Read the results and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=Path("docs/findings"))
    options = parser.parse_args()
    results, asked, claims = (
        json.loads((options.results / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("findings", "findings-asked", "findings_claims")
    )
    options.out.mkdir(parents=True, exist_ok=True)
    figures = {
        "gap": gap_figure(results), "depth": depth_figure(asked, claims), "claims": claims_figure(claims),
    }  # fmt: skip
    for name, figure in figures.items():
        figure.savefig(options.out / f"{name}.png", dpi=150)
        print(options.out / f"{name}.png")


if __name__ == "__main__":
    main()
