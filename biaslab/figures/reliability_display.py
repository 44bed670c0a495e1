"""How many calibration images a map of the bias takes, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm

from biaslab.diagnostics.tables import rows_of_head, rows_of_layout
from biaslab.errors import InputError
from biaslab.figures.display import Display
from biaslab.figures.layers import depth_colours, evenly
from biaslab.figures.styling import style

__all__ = ["ReliabilityDisplay"]

_FEWEST = 4  # images: below, a map has no split halves
_BANDS = 4  # layers up to which the draws' bands can be told apart
_TICKED = 10  # layers up to which each has its number beside the colour bar


class ReliabilityDisplay(Display):
    """Reliability of the map against the number of images, a colour per layer from shallow (dark) to deep.

    Lines follow from the variance components of all images, ``var p / (var p + var e / n)``; they are dashed beyond the
    images at hand. Points are the mean split-half reliability of random sets of that many images, their bars (bands,
    where layers are few) the middle 95 % of the draws.

    ``data`` is the table of :func:`biaslab.diagnostics.measures.reliability.reliability` of one head and layout.

    Examples
    --------
    >>> import matplotlib as mpl, matplotlib.pyplot as plt
    >>> mpl.use("Agg")
    >>> table = pd.DataFrame({"layer": 0, "n": [10, 40], "reliability": [0.5, 0.8], "predicted": [0.5, 0.8]})
    >>> display = ReliabilityDisplay.from_table(table.assign(draw_lo=0.4, draw_hi=0.9)).plot()
    >>> display.data[["layer", "n", "reliability"]].head()
       layer   n  reliability
    0      0  10          0.5
    1      0  40          0.8
    >>> plt.close(display.figure_)
    """

    def __init__(self, data: pd.DataFrame, title: str, target: float, *, provenance: Any) -> None:
        super().__init__(data, provenance)
        self.title = title
        self.target = target

    @classmethod
    def from_table(
        cls, table: pd.DataFrame, *, head: str | int | None = None, layout: str | None = None, target: float = 0.9
    ) -> ReliabilityDisplay:
        """Take the table of the diagnostic ``reliability``.

        Parameters
        ----------
        table : DataFrame
            Columns layer, n, reliability, draw_lo, draw_hi, predicted and, if there, head, layout.
        head : str or int, optional
            Default the mean over heads, where the table has it, else its first head.
        layout : str, optional
            Key; default the one of most images.
        target : float
            Reliability that is marked.

        Returns
        -------
        ReliabilityDisplay

        Raises
        ------
        InputError
            Columns are missing, no rows, or a head or layout that the table does not hold.
        """
        columns = ("layer", "n", "reliability", "draw_lo", "draw_hi", "predicted")
        if not len(table) or (missing := [c for c in columns if c not in table]):
            what = "it is empty" if not len(table) else f"no column {missing[0]!r}"
            raise InputError(f"nothing to draw ({what}): pass the table of the diagnostic 'reliability'")
        if not 0 < target < 1:
            raise InputError(f"target must lie between 0 and 1, got {target}: 0.9 is usual")
        rows, name = rows_of_head(table, head)
        rows, key = rows_of_layout(rows, layout)
        title = [] if name == "mean" else [f"head {name}"]
        title += [] if key is None else [key]
        return cls(rows.reset_index(drop=True), ", ".join(title), target, provenance=table)

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> ReliabilityDisplay:
        """Draw one panel.

        Parameters
        ----------
        ax : Axes, optional
            Default a new figure.

        Returns
        -------
        ReliabilityDisplay
            Self.
        """
        layers = sorted(set(self.data["layer"]))
        colours, most = depth_colours(len(layers)), int(self.data["n"].max())
        with style():
            (panel,) = self._axes(ax, 1, ratio=0.66)
            for i, layer in enumerate(layers):
                part = self.data[self.data["layer"] == layer].sort_values("n")
                self._line(panel, part, colours(i), most, layers, i)
            panel.axhline(self.target, color="black", linestyle=":", linewidth=0.8, zorder=1)
            panel.annotate(
                f"{self.target:g}", (0, self.target), xycoords=("axes fraction", "data"), xytext=(2, 1),
                textcoords="offset points", ha="left", va="bottom", fontsize=6,
            )  # fmt: skip
            panel.set_xscale("log")
            sizes = _apart(sorted({_FEWEST, *self.data["n"]}))
            panel.set_xticks(sizes, [str(n) for n in sizes])
            panel.minorticks_off()
            panel.set_ylim(min(0.0, float(self.data["draw_lo"].min())), 1.02)
            panel.set_xlabel("calibration images")
            panel.set_ylabel("reliability of the map")
            panel.grid(axis="y")
            if len(layers) > 1:
                self._bar(panel, layers, colours)
            if self.title:
                panel.set_title(self.title, pad=3)
        return self

    def _line(self, ax: Axes, part: pd.DataFrame, colour: Any, most: int, layers: list[int], i: int) -> None:
        available = int(part["n"].max())
        for style_, ends in (("-", (_FEWEST, available)), ("--", (available, most))):
            if ends[0] < ends[1]:
                n = np.geomspace(*ends, 60)
                ax.plot(n, _curve(part, n), style_, color=colour, linewidth=0.9, zorder=2)
        # beside each other: at equal sizes the bars of the layers would hide each other
        at = part["n"] * 1.025 ** (i - (len(layers) - 1) / 2)
        y = part["reliability"]
        banded = len(layers) <= _BANDS and len(part) > 1
        if banded:
            ax.fill_between(part["n"], part["draw_lo"], part["draw_hi"], color=colour, alpha=0.15, linewidth=0)
        else:
            ends = np.maximum(np.stack([y - part["draw_lo"], part["draw_hi"] - y]), 0)
            ax.errorbar(at, y, yerr=ends, fmt="none", ecolor=colour, elinewidth=0.5, alpha=0.5, zorder=2)
        ax.scatter(part["n"] if banded else at, y, s=7, color=[colour], linewidths=0, zorder=3)

    def _bar(self, ax: Axes, layers: list[int], colours: Any) -> None:
        norm = BoundaryNorm(np.arange(len(layers) + 1) - 0.5, len(layers))
        bar = self._drawn_figure().colorbar(ScalarMappable(norm, colours), ax=ax, pad=0.02, aspect=25)
        ticks = evenly(range(len(layers)), _TICKED)
        bar.set_ticks(ticks, labels=[str(layers[i]) for i in ticks])
        bar.ax.tick_params(length=0)
        bar.ax.minorticks_off()
        bar.set_label("decoder layer")
        bar.outline.set_linewidth(0.4)


def _apart(sizes: list[int], least: float = 0.09) -> list[int]:
    """Choose the sizes whose labels do not run into each other on a logarithmic axis; the largest stays."""
    labelled = [sizes[-1]]
    for size in reversed(sizes[:-1]):
        if np.log(labelled[-1] / size) >= least * np.log(sizes[-1] / sizes[0]):
            labelled.append(size)
    return labelled[::-1]


def _curve(part: pd.DataFrame, n: np.ndarray) -> np.ndarray:
    """Predicted reliability at n images: the ratio of the variance components follows from any size's prediction."""
    last = part.iloc[-1]
    if not last["predicted"] > 0:
        return np.zeros_like(n)
    noise = last["n"] * (1 / last["predicted"] - 1)
    return n / (n + noise)
