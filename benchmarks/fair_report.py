"""The tables of `benchmarks.fair`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.fair_methods import Ablation
from benchmarks.report import Report, Table, percent
from benchmarks.scene_pool import Expressions
from biaslab.stats.resampling import ImageBootstrap, max_t

__all__ = ["ablation_rows", "compared", "report"]

REFERENCES = {"divprune": "DivPrune", "d2pruner": "D2Pruner"}
_RESAMPLES = 10_000
_COLUMNS: dict[str, tuple[str, str]] = {
    "method": ("method", ""), "published": ("published K: Acc@0.5", ""), "place": ("best K", ""),
    "accuracy": ("Acc@0.5", ""), "kept": ("of the unpruned", ""),
    "minus_divprune": ("minus DivPrune", ""), "p_divprune": ("p", ".4f"),
    "minus_d2pruner": ("minus D2Pruner", ""), "p_d2pruner": ("p", ".4f"),
    "more_ms": ("choice, ms", ".2f"), "errors": ("failed", "d"),
}  # fmt: skip
_ABLATION: dict[str, tuple[str, str]] = {
    "what": ("", ""), "accuracy": ("Acc@0.5", ""), "kept": ("of the unpruned", ""),
    "minus_first": ("minus the first line", ""), "p": ("p", ".4f"),
}  # fmt: skip


def compared(kept: pd.DataFrame, hits: Mapping[str, pd.DataFrame], images: np.ndarray) -> pd.DataFrame:
    """Make a row for each cost and method: accuracy at its best and its published place, differences, p-values.

    Parameters
    ----------
    kept : DataFrame
        Rows cost, method, place, word, best, published.
    hits : mapping of str to DataFrame
        Word -> hit, iou and error of every expression; with "none".
    images : (n,) array
        Whose expression is whose.
    """
    bootstrap = ImageBootstrap(images, n_resamples=_RESAMPLES)
    full = hits["none"]["hit"].to_numpy()
    rows, differences, where = [], [], []
    for cost, own in kept.groupby("cost", sort=False):
        best = own[own["best"]].set_index("method")
        for line in best.itertuples():
            method, values = str(line.Index), hits[line.word]["hit"].to_numpy()
            row: dict[str, Any] = {
                "cost": cost, "method": method, "place": line.place, "word": line.word,
                "accuracy": bootstrap.mean(values), "kept": bootstrap.ratio(values, full),
                "errors": int(hits[line.word]["error"].notna().sum()),
                "published": [
                    (other.place, float(hits[other.word]["hit"].mean()))
                    for other in own[own["published"] & (own["method"] == method)].itertuples()
                ],
            }  # fmt: skip
            for reference in REFERENCES:
                if method == reference or reference not in best.index:
                    continue
                other = hits[best.loc[reference, "word"]]["hit"].to_numpy()
                row[f"minus_{reference}"] = bootstrap.difference(values, other)
                differences.append(values - other)
                where.append((len(rows), reference))
            rows.append(row)
    for (number, reference), p in zip(where, max_t(np.stack(differences, 1), images).p_adjusted, strict=True):
        rows[number][f"p_{reference}"] = float(p)
    return pd.DataFrame(rows)


def ablation_rows(hits: Mapping[str, pd.DataFrame], full: np.ndarray, images: np.ndarray) -> list[dict[str, Any]]:
    """List accuracy, retention and the difference from the first line, p-values family-wise over the lines."""
    bootstrap = ImageBootstrap(images, n_resamples=_RESAMPLES)
    values = {name: own["hit"].to_numpy() for name, own in hits.items()}
    first, *others = values
    p = max_t(np.stack([values[name] - values[first] for name in others], 1), images).p_adjusted
    rows = []
    for name, own in values.items():
        row: dict[str, Any] = {
            "what": name, "accuracy": percent(bootstrap.mean(own)), "kept": percent(bootstrap.ratio(own, full)),
        }  # fmt: skip
        if name != first:
            row["minus_first"] = percent(bootstrap.difference(own, values[first]), "+")
            row["p"] = float(p[others.index(name)])
        rows.append(row)
    return rows


def report(
    kept: pd.DataFrame,
    hits: Mapping[str, pd.DataFrame],
    data: Expressions,
    chosen: Mapping[str, Any],
    ablations: Sequence[tuple[Ablation, Mapping[str, pd.DataFrame]]],
    times: Mapping[str, Any],
    options: argparse.Namespace,
) -> Report:
    """Lay out a table for each cost, and one for each ablation."""
    images = np.array([str(sample.image_id) for sample in data])
    full = hits["none"]["hit"].to_numpy()
    table = compared(kept, hits, images)
    few = len(next(iter(ablations[0][1].values()))) if ablations else 0
    unpruned = ImageBootstrap(images, n_resamples=_RESAMPLES).mean(full)
    timed = times.get("methods", {})
    notes = [
        "percent, with 95 % intervals (bootstrap over images, paired); a failed expression is a miss",
        "best K: of all places that the cost allows, the best on validation; own: the method's own schedule",
        "published K: layers of 32 scaled to the depth, at this cost; a dash: not to be had for it, or not published",
        "p: family-wise over both differences of all lines of all costs (max-T)",
    ]
    if few:
        notes.append(
            f"ablations: the first {few} expressions, FLOPs of 10 % before K = 2 unless said otherwise; p family-wise "
            "over the lines of one table"
        )
    if timed:
        about = times["settings"]
        notes.append(
            f"choice: prefill less that with as many tokens at random, an image, {about['clock']} time, batch of "
            f"{about['batch']}, {about['device']}, at FLOPs of 10 % before K = 2; an unpruned prefill "
            f"{about['unpruned_ms']:.1f} ms"
        )
    return Report(
        name="fair",
        title="Every method at equal cost",
        settings={
            "model": "grounder", "split": options.split, "first": options.first + 1, "expressions": len(data),
            "unpruned": percent(unpruned), "chosen on": f"{chosen['split']}, {chosen['n']} expressions",
            "device": options.device,
        },
        tables=[
            *(
                Table(str(cost), _COLUMNS, _cells(own, timed if cost == "FLOPs of 10% before K = 2" else {}))
                for cost, own in table.groupby("cost", sort=False)
            ),
            *(Table(one.name, _ABLATION, ablation_rows(own, full[:few], images[:few])) for one, own in ablations),
        ],
        notes=notes,
    )  # fmt: skip


def _cells(rows: pd.DataFrame, timed: Mapping[str, Any]) -> list[dict[str, Any]]:
    cells = []
    ranked = rows.assign(value=[accuracy[0] for accuracy in rows["accuracy"]])
    for row in ranked.sort_values("value", ascending=False, kind="stable").to_dict("records"):
        cell = {
            "method": row["method"], "place": row["place"], "word": row["word"], "errors": row["errors"],
            "accuracy": percent(row["accuracy"]), "kept": percent(row["kept"]),
            "published": ", ".join(f"{place}: {100 * value:.1f}" for place, value in row["published"]) or None,
            "more_ms": timed.get(row["method"], {}).get("more_ms"),
        }  # fmt: skip
        for reference in REFERENCES:
            difference = row.get(f"minus_{reference}")
            if isinstance(difference, tuple):
                cell[f"minus_{reference}"] = percent(difference, "+")
                cell[f"p_{reference}"] = row[f"p_{reference}"]
        cells.append(cell)
    return cells
