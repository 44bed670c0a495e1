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
from biaslab.figures.frames import UNPRUNED, label_rows, metric_of, read_results
from biaslab.figures.styling import COLORS, ERRORBAR, MARKERS, style

__all__ = ["AccuracyDisplay"]

_METRICS = {
    "acc50": "Acc@0.5 (%)",
    "accuracy": "accuracy (%)",
    "retention": "accuracy kept (%)",
    "miou": "mean IoU (%)",
    "target_kept": "target kept (%)",
}
_SMALL = 0.1  # TFLOPs: below, a cost is written in GFLOPs, as 0.0035 is no label


class AccuracyDisplay(Display):
    """Accuracy of each method against keep ratio or total TFLOPs, with interval bars, beside the unpruned model.

    One column of panels per prune layer, one row per x axis. Intervals are those of the results (bootstrap
    over images). ``data`` has the drawn rows: label, method, keep, layer, n, the metric with _lo and _hi,
    tflops.

    Examples
    --------
    >>> import matplotlib as mpl, matplotlib.pyplot as plt
    >>> mpl.use("Agg")
    >>> results = pd.DataFrame({
    ...     "method": ["none", "random", "random"], "keep": [1.0, 0.5, 0.25], "layer": [None, 2, 2], "n": 300,
    ...     "acc50": [0.9, 0.8, 0.6], "acc50_lo": [0.87, 0.76, 0.55], "acc50_hi": [0.93, 0.84, 0.65],
    ... })
    >>> display = AccuracyDisplay.from_results(results).plot()
    >>> display.data[["label", "keep", "acc50"]].head()
        label  keep  acc50
    0    none  1.00    0.9
    1  random  0.50    0.8
    2  random  0.25    0.6
    >>> plt.close(display.figure_)
    """

    def __init__(self, data: pd.DataFrame, metric: str, *, provenance: Any) -> None:
        super().__init__(data, provenance)
        self.metric = metric

    @classmethod
    def from_results(
        cls,
        results: Any,
        *,
        metric: str | None = None,
        layer: int | Sequence[int] | None = None,
        methods: Sequence[str] | None = None,
        labels: Mapping[str, str] | None = None,
        **choices: Any,
    ) -> AccuracyDisplay:
        """Read the table of an evaluation.

        Parameters
        ----------
        results : Results, DataFrame, str or Path
            What ``evaluate`` returned, a table with the columns of results.csv, or the path of a run folder or csv
            file.
        metric : str, optional
            "acc50", "retention", "miou" or "target_kept"; default the accuracy: "acc50", of questions "accuracy".
        layer : int or sequence of int, optional
            Prune layers; default all.
        methods : sequence of str, optional
            Methods, in this order; default all.
        labels : mapping of str, optional
            Method or options hash -> name in the legend.
        **choices
            dataset=, split=, expression_type= (default "all"), model= where the results hold several.

        Returns
        -------
        AccuracyDisplay

        Raises
        ------
        InputError
            Nothing to draw, unknown metric, or rows that cannot be compared.
        """
        table = read_results(results, layer=layer, **choices)
        metric = metric_of(table, metric, _METRICS)
        if methods is not None:
            table = _rows_of_methods(table, methods)
        if (table["method"] == UNPRUNED).all():
            raise InputError("results hold only the unpruned model: evaluate at least one pruning method")
        table = table.assign(label=label_rows(table, labels))
        columns = ["label", "method", "keep", "layer", "n", metric, f"{metric}_lo", f"{metric}_hi", "tflops"]
        data = table[[c for c in columns if c in table]].reset_index(drop=True)
        return cls(data, metric, provenance=table)

    def plot(self, ax: Axes | Sequence[Axes] | None = None, *, x: str | Sequence[str] = "keep") -> AccuracyDisplay:
        """Draw a panel per x axis and prune layer.

        Parameters
        ----------
        ax : Axes or sequence of Axes, optional
            One per panel, row by row; default a new figure.
        x : str or sequence of str
            "keep", "tflops", or both.

        Returns
        -------
        AccuracyDisplay
            Self.

        Raises
        ------
        InputError
            Another x, results without TFLOPs, or not as many axes as panels.
        """
        quantities = self._quantities(x)
        layers, labels = self._layers(), list(dict.fromkeys(self._pruned()["label"]))
        panels = [(quantity, layer) for quantity in quantities for layer in layers]
        per_row = len(quantities) if len(layers) == 1 else len(layers)
        with style():
            axes = self._axes(
                ax,
                len(panels),
                per_row=per_row,
                columns=1 if len(panels) == 1 else 2,
                ratio=0.68 if len(panels) == 1 else 0.62,
                extra=0.25 + 0.14 * (len(labels) // 4),
                sharey=ax is None,
            )
            for i, (panel, (quantity, layer)) in enumerate(zip(axes, panels, strict=True)):
                self._panel(panel, quantity, layer, labels)
                if ax is not None or i % per_row == 0:
                    panel.set_ylabel(_METRICS[self.metric])
                if len(layers) > 1 and i < len(layers):
                    panel.set_title(f"pruned before layer {layer}")
            if ax is None and len(layers) == 1 and layers[0] is not None:
                self._drawn_figure().suptitle(f"pruned before layer {layers[0]}")
            self._legend(axes, own_figure=ax is None)
        return self

    def _quantities(self, x: str | Sequence[str]) -> list[str]:
        """Take the quantities of the x axes, one per row of panels."""
        quantities = [x] if isinstance(x, str) else list(x)
        if not quantities or any(name not in ("keep", "tflops") for name in quantities):
            raise InputError(f"x must be 'keep', 'tflops' or both, got {x!r}")
        if "tflops" in quantities and ("tflops" not in self.data or self.data["tflops"].isna().all()):
            raise InputError("results hold no TFLOPs: draw against keep instead")
        return quantities

    def _pruned(self) -> pd.DataFrame:
        return self.data[self.data["method"] != UNPRUNED]

    def _layers(self) -> list[int] | list[None]:
        """Sort the prune layers; [None] where the results name none."""
        pruned = self._pruned()
        layers = sorted(pruned["layer"].dropna().unique()) if "layer" in pruned else []
        return [int(k) for k in layers] or [None]

    def _panel(self, ax: Axes, x: str, layer: int | None, labels: list[str]) -> None:
        rows = self.data if layer is None else self.data[self.data["layer"].isin([layer])]
        unit, scale = ("GFLOPs", 1000.0) if x == "tflops" and self.data["tflops"].max() < _SMALL else ("TFLOPs", 1.0)
        for i, label in enumerate(labels):
            self._curve(ax, rows[rows["label"] == label].sort_values(x), x, scale, label, i)
        self._unpruned_lines(ax, x, scale)
        ax.grid(axis="y")
        if x == "tflops":
            ax.set_xlabel(f"{unit} per answer, vision tower included")
            ax.margins(x=0.06)
        else:
            _keep_axis(ax, sorted(rows.loc[rows["method"] != UNPRUNED, "keep"].unique()))

    def _curve(self, ax: Axes, rows: pd.DataFrame, x: str, scale: float, label: str, i: int) -> None:
        """Draw one method, the i-th, with its intervals where the results have them."""
        low, high = f"{self.metric}_lo", f"{self.metric}_hi"
        y, bars = 100 * rows[self.metric].to_numpy(float), None
        if low in rows:
            ends = 100 * rows[[low, high]].to_numpy(float).T
            bars = np.maximum(np.stack([y - ends[0], ends[1] - y]), 0)
        ax.errorbar(
            scale * rows[x].to_numpy(float),
            y,
            yerr=bars,
            label=label,
            color=COLORS[i % len(COLORS)],
            marker=MARKERS[i % len(MARKERS)],
            **ERRORBAR,
        )

    def _unpruned_lines(self, ax: Axes, x: str, scale: float) -> None:
        """Draw the unpruned model: a line, its interval as a band and, against TFLOPs, a star at its cost."""
        low, high = f"{self.metric}_lo", f"{self.metric}_hi"
        unpruned = self.data[(self.data["method"] == UNPRUNED) & self.data[self.metric].notna()]
        for row in unpruned.to_dict("records"):
            y = 100 * row[self.metric]
            if low in row and np.isfinite(row[low]):
                ax.axhspan(100 * row[low], 100 * row[high], color="black", alpha=0.08, linewidth=0)
            ax.axhline(y, color="black", linestyle="--", linewidth=0.9, label="no pruning")
            if x == "tflops" and np.isfinite(row.get("tflops", np.nan)):
                ax.plot(scale * row["tflops"], y, color="black", marker="*", markersize=7, linestyle="none")

    def _legend(self, axes: Sequence[Axes], own_figure: bool) -> None:
        """Put one legend below the display's own figure, or into the first of the caller's axes."""
        handles, names = axes[0].get_legend_handles_labels()
        if own_figure:
            per_line = 4 if len(axes) == 1 else 8
            columns = min(per_line, len(names))
            self._drawn_figure().legend(handles, names, loc="outside lower center", ncols=columns)
        else:
            axes[0].legend(handles, names)


def _rows_of_methods(table: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Take the rows of the methods, in that order, and of the unpruned model."""
    if unknown := sorted(set(methods) - set(table["method"])):
        raise InputError(f"results have no method {unknown[0]!r}: choose from {sorted(set(table['method']))}")
    order = {m: i for i, m in enumerate(methods)}
    table = table[table["method"].isin(order) | (table["method"] == UNPRUNED)]
    return table.sort_values("method", key=lambda s: s.map(order), kind="stable")


def _keep_axis(ax: Axes, keeps: Sequence[float]) -> None:
    """Tick what is kept on a logarithmic axis: ratios in per cent, counts as they are."""
    ratios = all(k <= 1 and not isinstance(k, int | np.integer) for k in keeps)
    ax.set_xscale("log")
    ax.set_xticks(keeps, [f"{100 * k:g}" if ratios else f"{k:g}" for k in keeps])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("visual tokens kept (%)" if ratios else "visual tokens kept")
