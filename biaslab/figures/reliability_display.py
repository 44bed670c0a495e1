"""How many calibration images a map of the bias takes, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from biaslab.diagnostics.tables import rows_of_head, rows_of_layout
from biaslab.errors import InputError
from biaslab.figures.display import Display, model_name
from biaslab.figures.fitting import beside_each_other, legend_below, text_width, wrapped
from biaslab.figures.layers import depth_colours, evenly
from biaslab.figures.styling import MARKERS, style

__all__ = ["ReliabilityDisplay"]

_FEWEST = 4  # images: below, a map has no split halves
_MOST = 6  # layers whose lines can be told apart; of more, so many at even steps
_ABREAST = 12.0  # points from the first layer's mark to the last's
_TICK, _GAP = 7.0, 0.06  # points of the tick labels, and inches between two


class ReliabilityDisplay(Display):
    """Reliability of the map against the number of images, a colour per layer from shallow (dark) to deep.

    Lines follow from the variance components of all images, ``var p / (var p + var e / n)``; they are dashed beyond the
    images at hand. Points are the mean split-half reliability of random sets of that many images, their bars the
    middle 95 % of the draws; those of several layers stand beside each other about one size. Of many layers six are
    drawn, at even steps.

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
        cls,
        table: pd.DataFrame,
        *,
        head: str | int | None = None,
        layout: str | None = None,
        target: float = 0.9,
        model: str | None = None,
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
        model : str, optional
            Named by the title.

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
        title = [model_name(model)] if model else []
        title += [] if name == "mean" else [f"head {name}"]
        title += [] if key is None else [key]
        source = table if model is None else model
        return cls(rows.reset_index(drop=True), ", ".join(title), target, provenance=source)

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
        every = sorted(set(self.data["layer"]))
        layers = evenly(every, _MOST)
        colours, most = depth_colours(len(layers)), int(self.data["n"].max())
        with style():
            (panel,) = self._axes(ax, 1, ratio=0.66, extra=0.25)
            sizes = sorted({_FEWEST, *self.data["n"]})
            for i, layer in enumerate(layers):
                part = self.data[self.data["layer"] == layer].sort_values("n")
                self._line(panel, part, colours(i), most, layers, i)
            panel.axhline(self.target, color="black", linestyle=":", linewidth=0.8, zorder=1)
            panel.annotate(
                f"{self.target:g}", (0, self.target), xycoords=("axes fraction", "data"), xytext=(2, 1),
                textcoords="offset points", ha="left", va="bottom", fontsize=6,
            )  # fmt: skip
            panel.set_xscale("log")
            room = self._drawn_figure().get_figwidth() - 0.7
            ticks = _apart(sizes, room)
            panel.set_xticks(ticks, [str(n) for n in ticks])
            panel.minorticks_off()
            panel.set_ylim(min(0.0, float(self.data["draw_lo"].min())), 1.02)
            panel.set_xlabel("calibration images")
            panel.set_ylabel("reliability of the map")
            panel.grid(axis="y")
            for n in set(self.data["n"]):  # points of one size stand about one line
                panel.axvline(n, color="0.88", linewidth=0.4, zorder=0)
            if len(layers) > 1:
                handles, names = panel.get_legend_handles_labels()
                if ax is None:
                    legend_below(self._drawn_figure(), handles, names)
                else:
                    panel.legend(handles, names)
            few = f"{len(layers)} of {len(every)} layers" if len(layers) < len(every) else ""
            if title := ", ".join(text for text in (self.title, few) if text):
                panel.set_title(wrapped(title, room, 8), pad=3)
        return self

    def _line(self, ax: Axes, part: pd.DataFrame, colour: Any, most: int, layers: list[int], i: int) -> None:
        available = int(part["n"].max())
        for style_, ends in (("-", (_FEWEST, available)), ("--", (available, most))):
            if ends[0] < ends[1]:
                n = np.geomspace(*ends, 60)
                ax.plot(n, _curve(part, n), style_, color=colour, linewidth=0.9, zorder=2)
        y = part["reliability"].to_numpy(float)
        ends = np.maximum(np.stack([y - part["draw_lo"], part["draw_hi"] - y]), 0)
        marks: dict[str, Any] = {
            "marker": MARKERS[i % len(MARKERS)],
            "markersize": 3,
            "linestyle": "none",
            "markeredgewidth": 0,
        }
        drawn = ax.errorbar(
            part["n"], y, yerr=ends, color=colour, elinewidth=0.5, zorder=3, label=f"layer {layers[i]}", **marks
        )
        beside_each_other(drawn, ax, i, len(layers), room=_ABREAST)  # bars of one size would hide each other


def _apart(sizes: list[int], inches: float) -> list[int]:
    """Choose the sizes whose labels do not run into each other on a logarithmic axis so long; the largest stays."""
    labelled, scale = [sizes[-1]], inches / max(np.log(sizes[-1] / sizes[0]), 1e-9)
    for size in reversed(sizes[:-1]):
        need = (text_width(str(size), _TICK) + text_width(str(labelled[-1]), _TICK)) / 2 + _GAP
        if scale * np.log(labelled[-1] / size) >= need:
            labelled.append(size)
    return labelled[::-1]


def _curve(part: pd.DataFrame, n: np.ndarray) -> np.ndarray:
    """Predicted reliability at n images: the ratio of the variance components follows from any size's prediction."""
    last = part.iloc[-1]
    if not last["predicted"] > 0:
        return np.zeros_like(n)
    noise = last["n"] * (1 / last["predicted"] - 1)
    return n / (n + noise)
