"""Dependence of attention on row and column, layer by layer, beside what chance gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from biaslab.errors import InputError
from biaslab.figures.display import Display
from biaslab.figures.layers import one_head
from biaslab.figures.style import COLORS, ERRORBAR, MARKERS, style

__all__ = ["DependenceDisplay"]

_ALPHA = 0.05
_NAMES = {"row": "row", "col": "column"}


class DependenceDisplay(Display):
    """Eta squared of row and column by layer, with intervals; the bar below each is the null's 95 %.

    Filled where q <= 0.05 (Benjamini and Hochberg over the whole table the rows come from) and the interval lies above
    0, hollow where no dependence is shown. ``data`` is the table of `biaslab.diagnostics.measures.dependence` of one
    head.
    """

    def __init__(self, data: pd.DataFrame, title: str = "", *, provenance: Any) -> None:
        super().__init__(data, provenance)
        self.title = title

    @classmethod
    def from_table(cls, table: pd.DataFrame, head: str | int | None = None) -> DependenceDisplay:
        """From what the diagnostic ``dependence`` returns; ``head`` defaults to the mean over heads, else the first.

        Raises
        ------
        InputError
            Columns are missing, no rows, or a head that the table does not hold.
        """
        needed = ("layer", "axis", "eta2", "eta2_lo", "eta2_hi", "null_hi", "q", "n")
        if not len(table) or (missing := [c for c in needed if c not in table]):
            what = "it is empty" if not len(table) else f"no column {missing[0]!r}"
            raise InputError(f"nothing to draw ({what}): pass the table of the diagnostic 'dependence'")
        rows, name = one_head(table, head)
        title = "" if name == "mean" else f"head {name}"
        return cls(rows.reset_index(drop=True), title, provenance=table)

    def plot(self, ax: Axes | None = None) -> DependenceDisplay:
        """Draw into ``ax`` or a new figure."""
        steps = np.diff(sorted(set(self.data["layer"])))
        side = 0.13 * float(steps.min() if len(steps) else 1)
        with style():
            (one,) = self._axes(ax, 1, ratio=0.6)
            for i, (axis, name) in enumerate(_NAMES.items()):
                part = self.data[self.data["axis"] == axis].sort_values("layer")
                at = part["layer"].to_numpy(float) + side * (2 * i - 1)
                y, sure = part["eta2"].to_numpy(float), _shown(part).to_numpy()
                ends = np.nan_to_num(np.maximum(np.stack([y - part["eta2_lo"], part["eta2_hi"] - y]), 0))
                one.bar(at, part["null_hi"], width=1.6 * side, color="0.75", linewidth=0, zorder=1)
                one.errorbar(at, y, yerr=ends, fmt="none", ecolor=COLORS[i], **ERRORBAR, zorder=2)
                one.plot(at, y, color=COLORS[i], linewidth=0.6, alpha=0.5, zorder=2)
                for chosen, fill in ((sure, COLORS[i]), (~sure, "white")):
                    one.scatter(at[chosen], y[chosen], s=13, marker=MARKERS[i], facecolors=fill, edgecolors=COLORS[i],
                                linewidths=0.8, zorder=3, label=name if fill != "white" else None)  # fmt: skip
            one.axhline(0, color="black", linewidth=0.6)
            one.set_ylabel("share of log attention\nexplained ($\\eta^2$)")
            low, high = int(self.data["n"].min()), int(self.data["n"].max())
            one.set_xlabel(f"decoder layer (n = {low} images)" if low == high else f"decoder layer (n = {low}-{high})")
            one.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
            one.grid(axis="y")
            handles = self._handles()
            # above the axes: within, it would hide intervals of one layer or another
            one.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(handles),
                       title=self.title or None, columnspacing=0.8, handletextpad=0.4, borderaxespad=0.2)  # fmt: skip
        return self

    def _handles(self) -> list:
        """Row and column, chance, and the hollow mark where the figure has any."""
        found = [
            Line2D([], [], color=COLORS[i], marker=MARKERS[i], linewidth=0.6, label=name)
            for i, name in enumerate(_NAMES.values())
        ]
        found.append(Patch(color="0.75", label="95 % of the null"))
        if not _shown(self.data).all():
            found.append(Line2D([], [], color="0.4", marker="o", markerfacecolor="white", linewidth=0,
                                label="not shown"))  # fmt: skip
        return found


def _shown(table: pd.DataFrame) -> pd.Series:
    """Whether a dependence is: both the test and the interval must say so."""
    return (table["q"] <= _ALPHA) & (table["eta2_lo"] > 0)
