"""Localization accuracy against what is kept, and against what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, NullLocator

from biaslab.errors import InputError
from biaslab.figures.display import Display
from biaslab.figures.frames import UNPRUNED, label_rows, read_results
from biaslab.figures.style import COLORS, ERRORBAR, MARKERS, style

__all__ = ["AccuracyDisplay"]

_METRICS = {
    "acc50": "Acc@0.5 (%)",
    "retention": "accuracy kept (%)",
    "miou": "mean IoU (%)",
    "target_kept": "target kept (%)",
}


class AccuracyDisplay(Display):
    """Accuracy of each method against keep ratio or total TFLOPs, with interval bars, beside the unpruned
    model.

    One column of panels per prune layer, one row per x axis. Intervals are those of the results (bootstrap
    over images). ``data`` has the drawn rows: label, method, keep, layer, n, the metric with _lo and _hi,
    tflops.
    """

    def __init__(self, data: pd.DataFrame, metric: str, *, provenance: Any) -> None:
        super().__init__(data, provenance)
        self.metric = metric

    @classmethod
    def from_results(
        cls,
        results: Any,
        metric: str = "acc50",
        layer: int | Sequence[int] | None = None,
        methods: Sequence[str] | None = None,
        labels: Mapping[str, str] | None = None,
        **choices: Any,
    ) -> AccuracyDisplay:
        """From the table of an evaluation.

        Parameters
        ----------
        results : Results, DataFrame with the columns of results.csv, or the path of a run folder or csv file.
        metric : "acc50", "retention", "miou" or "target_kept".
        layer : prune layers to show; default all.
        methods : methods to show, in this order; default all.
        labels : method or options hash -> name in the legend.
        choices : dataset=, split=, expression_type= (default "all"), model= where the results hold several.

        Raises
        ------
        InputError
            Nothing to draw, unknown metric, or rows that cannot be compared.
        """
        if metric not in _METRICS:
            raise InputError(f"unknown metric {metric!r}: choose one of {', '.join(_METRICS)}")
        table = read_results(results, layer=layer, **choices)
        if metric not in table:
            raise InputError(f"results have no column {metric!r}: choose one of {[m for m in _METRICS if m in table]}")
        if methods is not None:
            if unknown := sorted(set(methods) - set(table["method"])):
                raise InputError(f"results have no method {unknown[0]!r}: choose from {sorted(set(table['method']))}")
            order = {m: i for i, m in enumerate(methods)}
            table = table[table["method"].isin(order) | (table["method"] == UNPRUNED)]
            table = table.sort_values("method", key=lambda s: s.map(order), kind="stable")
        if (table["method"] == UNPRUNED).all():
            raise InputError("results hold only the unpruned model: evaluate at least one pruning method")
        table = table.assign(label=label_rows(table, labels))
        wanted = ["label", "method", "keep", "layer", "n", metric, f"{metric}_lo", f"{metric}_hi", "tflops"]
        data = table[[c for c in wanted if c in table]].reset_index(drop=True)
        return cls(data, metric, provenance=table)

    def plot(self, ax: Axes | Sequence[Axes] | None = None, x: str | Sequence[str] = "keep") -> AccuracyDisplay:
        """Draw a panel per x axis ("keep", "tflops", or both) and prune layer; axes are taken row by row."""
        xs = [x] if isinstance(x, str) else list(x)
        if not xs or any(name not in ("keep", "tflops") for name in xs):
            raise InputError(f"x must be 'keep', 'tflops' or both, got {x!r}")
        if "tflops" in xs and ("tflops" not in self.data or self.data["tflops"].isna().all()):
            raise InputError("results hold no TFLOPs: draw against keep instead")
        pruned = self.data[self.data["method"] != UNPRUNED]
        layers = sorted(pruned["layer"].dropna().unique()) if "layer" in pruned else []
        layers = [int(k) for k in layers] or [None]
        labels = list(dict.fromkeys(pruned["label"]))
        single = len(layers) == 1
        panels = [(name, layer) for name in xs for layer in layers]
        with style():
            axes = self._axes(
                ax,
                len(panels),
                per_row=len(xs) if single else len(layers),
                columns=1 if len(panels) == 1 else 2,
                ratio=0.68 if len(panels) == 1 else 0.62,
                extra=0.25 + 0.14 * (len(labels) // 4),
                sharey=ax is None,
            )
            per_row = len(xs) if single else len(layers)
            for i, (one, (name, layer)) in enumerate(zip(axes, panels, strict=True)):
                self._panel(one, name, layer, labels)
                if ax is not None or i % per_row == 0:
                    one.set_ylabel(_METRICS[self.metric])
                if layer is not None and not single and i < len(layers):
                    one.set_title(f"pruned before layer {layer}")
            if single and layers[0] is not None and ax is None:
                self.figure_.suptitle(f"pruned before layer {layers[0]}")
            handles, names = axes[0].get_legend_handles_labels()
            if ax is None:
                per_line = 4 if len(panels) == 1 else 8
                self.figure_.legend(handles, names, loc="outside lower center", ncols=min(per_line, len(names)))
            else:
                axes[0].legend(handles, names)
        return self

    def _panel(self, ax: Axes, x: str, layer: int | None, labels: list[str]) -> None:
        rows = self.data if layer is None else self.data[self.data["layer"].isin([layer])]
        # a small model in GFLOPs: 0.0035 is no label
        unit, scale = ("GFLOPs", 1000.0) if x == "tflops" and self.data["tflops"].max() < 0.1 else ("TFLOPs", 1.0)
        low, high = f"{self.metric}_lo", f"{self.metric}_hi"
        for i, label in enumerate(labels):
            part = rows[rows["label"] == label].sort_values(x)
            y = 100 * part[self.metric].to_numpy(float)
            bars = None
            if low in part:
                ends = 100 * part[[low, high]].to_numpy(float).T
                bars = np.maximum(np.stack([y - ends[0], ends[1] - y]), 0)
            ax.errorbar(
                scale * part[x].to_numpy(float),
                y,
                yerr=bars,
                label=label,
                color=COLORS[i % len(COLORS)],
                marker=MARKERS[i % len(MARKERS)],
                **ERRORBAR,
            )
        unpruned = self.data[(self.data["method"] == UNPRUNED) & self.data[self.metric].notna()]
        for row in unpruned.to_dict("records"):
            if low in row and np.isfinite(row[low]):
                ax.axhspan(100 * row[low], 100 * row[high], color="black", alpha=0.08, linewidth=0)
            ax.axhline(100 * row[self.metric], color="black", linestyle="--", linewidth=0.9, label="no pruning")
            if x == "tflops" and np.isfinite(row.get("tflops", np.nan)):
                ax.plot(
                    scale * row["tflops"],
                    100 * row[self.metric],
                    color="black",
                    marker="*",
                    markersize=7,
                    linestyle="none",
                )
        ax.grid(axis="y")
        if x == "tflops":
            ax.set_xlabel(f"{unit} per answer, vision tower included")
            ax.margins(x=0.06)
            return
        keeps = sorted(rows.loc[rows["method"] != UNPRUNED, "keep"].unique())
        ratios = all(k <= 1 and not isinstance(k, int | np.integer) for k in keeps)
        ax.set_xscale("log")
        ax.set_xticks(keeps, [f"{100 * k:g}" if ratios else f"{k:g}" for k in keeps])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel("visual tokens kept (%)" if ratios else "visual tokens kept")
