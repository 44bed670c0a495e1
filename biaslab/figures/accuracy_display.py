"""Localization accuracy against what is kept, and against what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, NullLocator

from biaslab._util.text import last_part
from biaslab.errors import InputError
from biaslab.figures.display import Display
from biaslab.figures.fitting import abreast, beside_each_other, legend_below, title_above
from biaslab.figures.frames import UNPRUNED, comparable_runs, label_rows, metric_of, rows_of_methods
from biaslab.figures.styling import COLORS, ERRORBAR, LINES, MARKERS, style

__all__ = ["AccuracyDisplay"]

_METRICS = {
    "acc50": "Acc@0.5 (%)",
    "accuracy": "accuracy (%)",
    "retention": "accuracy kept (%)",
    "miou": "mean IoU (%)",
    "target_kept": "target's tokens kept (%)",
}
_PER_ROW = 4
_SMALL = 0.1  # TFLOPs: below, a cost is written in GFLOPs, as 0.0035 is no label


class AccuracyDisplay(Display):
    """Accuracy of each method against keep ratio or total TFLOPs, with interval bars, beside the unpruned model.

    A panel per prune layer, and per run where several differ in model or data. Methods are drawn a little beside each
    other, so that intervals at one keep ratio can be read. Intervals are those of the results (over images). ``data``
    has the drawn rows: label, method, keep, layer, n, the metric with _lo and _hi, tflops.

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
    0  no pruning  1.00    0.9
    1      random  0.50    0.8
    2      random  0.25    0.6
    >>> plt.close(display.figure_)
    """

    def __init__(self, data: pd.DataFrame, metric: str, *, title: str = "", provenance: Any) -> None:
        super().__init__(data, provenance)
        self.metric, self.title = metric, title

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
        """Read the table of an evaluation, or of several.

        Parameters
        ----------
        results : Results, DataFrame, str or Path, or several in a list or mapping
            What ``evaluate`` returned, a table with the columns of results.csv, or the path of a run folder or csv
            file. Several of one model, data set and seed are drawn into one panel, what differs in these side by side,
            named by what differs, or by the keys of a mapping.
        metric : str, optional
            "acc50", "retention", "miou" or "target_kept"; default the accuracy: "acc50", of questions "accuracy".
        layer : int or sequence of int, optional
            Prune layers; default all.
        methods : sequence of str, optional
            Methods (names, or labels with options), in this order, which is that of colours and legend; default all.
        labels : mapping of str, optional
            Method, its label with options, or options hash -> name in the legend; default as papers name them.
        **choices
            keep=, dataset=, split=, expression_type= (default "all"), model= where the results hold several.

        Returns
        -------
        AccuracyDisplay

        Raises
        ------
        InputError
            Nothing to draw, unknown metric or method, or rows that cannot be compared.
        """
        table = comparable_runs(results, layer=layer, **choices)
        metric = metric_of(table, metric, _METRICS)
        table["label"] = label_rows(table, labels)
        if methods is not None:
            table = rows_of_methods(table, methods)
        if (table["method"] == UNPRUNED).all():
            raise InputError("results hold only the unpruned model: evaluate at least one pruning method")
        columns = ["label", "method", "keep", "layer", "n", metric, f"{metric}_lo", f"{metric}_hi", "tflops"]
        columns += ["run"] if table["run"].any() else []
        data = table[[c for c in columns if c in table]].reset_index(drop=True)
        return cls(data, metric, title=_title(table), provenance=table)

    def plot(self, ax: Axes | Sequence[Axes] | None = None, *, x: str | Sequence[str] = "keep") -> AccuracyDisplay:
        """Draw a panel per x axis, run and prune layer.

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
        places, labels = self._places(), list(dict.fromkeys(self._pruned()["label"]))
        panels = [(quantity, *place) for quantity in quantities for place in places]
        per_row = len(quantities) if len(places) == 1 else min(len(places), _PER_ROW)
        with style():
            one = len(panels) == 1
            axes = self._axes(
                ax, len(panels), per_row=per_row, columns=1 if one else 2, ratio=0.68 if one else 0.78,
                extra=0.53, sharey=ax is None,
            )  # fmt: skip
            for i, (panel, (quantity, run, layer)) in enumerate(zip(axes, panels, strict=True)):
                self._panel(panel, quantity, run, layer, labels)
                if ax is not None or i % per_row == 0:
                    panel.set_ylabel(_METRICS[self.metric])
                if len(places) > 1 and i < len(places):
                    panel.set_title(self._named(run, layer), pad=3)
            if ax is None:
                title_above(self._drawn_figure(), self._said(places))
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

    def _places(self) -> list[tuple[str, int | None]]:
        """List run and prune layer of the panels; ("", None) where the results name neither."""
        pruned = self._pruned()
        runs = list(dict.fromkeys(pruned["run"])) if "run" in pruned else [""]
        places: list[tuple[str, int | None]] = []
        for run in runs:
            own = pruned[pruned["run"] == run] if run else pruned
            layers = sorted(own["layer"].dropna().unique()) if "layer" in own else []
            places += [(run, int(k)) for k in layers] or [(run, None)]
        return places

    def _named(self, run: str, layer: int | None) -> str:
        """Name a panel by its run, and by its layer where a run has several."""
        several = layer is not None and len([1 for own, _ in self._places() if own == run]) > 1
        where = f"before layer {layer}" if several or not run else ""
        return ", ".join(text for text in (run, where) if text)

    def _said(self, places: list[tuple[str, int | None]]) -> str:
        """Say what the figure is of: model, data set, n, and the layer where there is one."""
        layers = {layer for _, layer in places}
        layer = next(iter(layers))
        where = f"pruned before layer {layer}" if len(layers) == 1 and layer is not None else ""
        count = ""
        if "n" in self.data:
            low, high = int(self.data["n"].min()), int(self.data["n"].max())
            count = f"n = {low:,}" if low == high else f"n = {low:,} to {high:,}"
        return ", ".join(text for text in (self.title, count, where) if text)

    def _panel(self, ax: Axes, x: str, run: str, layer: int | None, labels: list[str]) -> None:
        rows = self.data[self.data["run"] == run] if run else self.data
        rows = rows if layer is None else rows[rows["layer"].isin([layer]) | (rows["method"] == UNPRUNED)]
        unit, scale = ("GFLOPs", 1000.0) if x == "tflops" and self.data["tflops"].max() < _SMALL else ("TFLOPs", 1.0)
        for i, label in enumerate(labels):
            own = rows[(rows["label"] == label) & (rows["method"] != UNPRUNED)].sort_values(x)
            if len(own):
                self._curve(ax, own, x, scale, label, i, len(labels))
        self._unpruned_lines(ax, rows, x, scale)
        ax.grid(axis="y")
        if x == "tflops":
            ax.set_xlabel(f"{unit} per answer, vision tower included")
        else:
            _keep_axis(ax, sorted(rows.loc[rows["method"] != UNPRUNED, "keep"].unique()))
        # those that stand beside their place need room at the ends
        ax.margins(x=0.05 + 0.5 * abreast(len(labels)) / max(ax.get_window_extent().width / ax.figure.dpi, 1.0))

    def _curve(self, ax: Axes, rows: pd.DataFrame, x: str, scale: float, label: str, i: int, count: int) -> None:
        """Draw one method, the i-th, with its intervals where the results have them, beside the others."""
        low, high = f"{self.metric}_lo", f"{self.metric}_hi"
        y, bars = 100 * rows[self.metric].to_numpy(float), None
        if low in rows:
            ends = 100 * rows[[low, high]].to_numpy(float).T
            bars = np.maximum(np.stack([y - ends[0], ends[1] - y]), 0)
        drawn = ax.errorbar(
            scale * rows[x].to_numpy(float), y, yerr=bars, label=label, color=COLORS[i % len(COLORS)],
            marker=MARKERS[i % len(MARKERS)], linestyle=LINES[i % len(LINES)], **ERRORBAR,
        )  # fmt: skip
        beside_each_other(drawn, ax, i, count)

    def _unpruned_lines(self, ax: Axes, rows: pd.DataFrame, x: str, scale: float) -> None:
        """Draw the unpruned model: a line, its interval as a band and, against TFLOPs, a star at its cost."""
        low, high = f"{self.metric}_lo", f"{self.metric}_hi"
        unpruned = rows[(rows["method"] == UNPRUNED) & rows[self.metric].notna()]
        for row in unpruned.to_dict("records"):
            y = 100 * row[self.metric]
            if low in row and np.isfinite(row[low]):
                ax.axhspan(100 * row[low], 100 * row[high], color="black", alpha=0.08, linewidth=0)
            ax.axhline(y, color="black", linestyle="--", linewidth=0.9, label=row["label"], zorder=1)
            if x == "tflops" and np.isfinite(row.get("tflops", np.nan)):
                ax.plot(
                    scale * row["tflops"], y, color="black", marker="*", markersize=7, linestyle="none",
                    label=f"{row['label']}, at its cost",
                )  # fmt: skip

    def _legend(self, axes: Sequence[Axes], own_figure: bool) -> None:
        """Put one legend below the display's own figure, or into the first of the caller's axes."""
        entries: dict[str, Any] = {}
        for panel in axes:  # a method may be in one panel alone
            for handle, name in zip(*panel.get_legend_handles_labels(), strict=True):
                entries.setdefault(name, handle)
        order = list(dict.fromkeys(self.data["label"]))
        names = sorted(entries, key=lambda name: order.index(name) if name in order else len(order))
        handles = [entries[name] for name in names]
        if own_figure:
            legend_below(self._drawn_figure(), handles, names)
        else:
            axes[0].legend(handles, names)


def _title(table: pd.DataFrame) -> str:
    """Name model and data set where there is one of each."""
    model, dataset, split = (
        last_part(str(values[0])) if column in table and len(values := table[column].dropna().unique()) == 1 else ""
        for column in ("model", "dataset", "split")
    )
    return ", ".join(text for text in (model, " ".join(t for t in (dataset, split) if t)) if text)


def _keep_axis(ax: Axes, keeps: Sequence[float]) -> None:
    """Tick what is kept on a logarithmic axis: ratios in per cent, counts as they are."""
    ratios = all(k <= 1 and not isinstance(k, int | np.integer) for k in keeps)
    ax.set_xscale("log")
    ax.set_xticks(keeps, [f"{100 * k:g}" if ratios else f"{k:g}" for k in keeps])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("visual tokens kept (%)" if ratios else "visual tokens kept")
