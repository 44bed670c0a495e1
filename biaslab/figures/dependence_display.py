"""Dependence of attention on row and column, layer by layer, beside what chance gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from biaslab._util.number_text import count_text
from biaslab.diagnostics.tables import rows_of_head
from biaslab.errors import InputError
from biaslab.figures.display import Display, model_name
from biaslab.figures.fitting import legend_below
from biaslab.figures.styling import COLORS, ERRORBAR, MARKERS, style

__all__ = ["DependenceDisplay"]

_ALPHA = 0.05
_NULL = "0.35"
_NAMES = {"row": "row", "col": "column"}


class DependenceDisplay(Display):
    """Eta squared of row and column by layer, with intervals; the dark line below each is the null's 95 %.

    Filled where q <= 0.05 (Benjamini and Hochberg over the whole table the rows come from) and the interval lies above
    0, hollow where no dependence is significant. ``data`` is the table of the diagnostic ``dependence`` of one head.

    Examples
    --------
    >>> import matplotlib as mpl, matplotlib.pyplot as plt
    >>> mpl.use("Agg")
    >>> table = pd.DataFrame({"layer": 0, "axis": ["row", "col"], "eta2": [0.3, 0.01], "q": [0.001, 0.4], "n": 30})
    >>> table = table.assign(eta2_lo=table["eta2"] - 0.02, eta2_hi=table["eta2"] + 0.02, null_hi=0.02)
    >>> display = DependenceDisplay.from_table(table).plot()
    >>> display.data[["layer", "axis", "eta2", "q"]].head()
       layer axis  eta2      q
    0      0  row  0.30  0.001
    1      0  col  0.01  0.400
    >>> plt.close(display.figure_)
    """

    def __init__(self, data: pd.DataFrame, title: str = "", *, provenance: Any) -> None:
        super().__init__(data, provenance)
        self.title = title

    @classmethod
    def from_table(
        cls, table: pd.DataFrame, *, head: str | int | None = None, model: str | None = None
    ) -> DependenceDisplay:
        """Take the table of the diagnostic ``dependence``.

        Parameters
        ----------
        table : DataFrame
            Columns layer, axis, eta2, eta2_lo, eta2_hi, null_hi, q, n and, if there, head.
        head : str or int, optional
            Default the mean over heads, where the table has it, else its first head.
        model : str, optional
            Named by the title.

        Returns
        -------
        DependenceDisplay

        Raises
        ------
        InputError
            Columns are missing, no rows, or a head that the table does not hold.
        """
        columns = ("layer", "axis", "eta2", "eta2_lo", "eta2_hi", "null_hi", "q", "n")
        if not len(table) or (missing := [c for c in columns if c not in table]):
            what = "it is empty" if not len(table) else f"no column {missing[0]!r}"
            raise InputError(f"nothing to draw ({what}): pass the table of the diagnostic 'dependence'")
        rows, name = rows_of_head(table, head)
        title = ", ".join(text for text in (model_name(model), "" if name == "mean" else f"head {name}") if text)
        return cls(rows.reset_index(drop=True), title, provenance=table if model is None else model)

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> DependenceDisplay:
        """Draw one panel.

        Parameters
        ----------
        ax : Axes, optional
            Default a new figure.

        Returns
        -------
        DependenceDisplay
            Self.
        """
        steps = np.diff(sorted(set(self.data["layer"])))
        side = 0.13 * float(steps.min() if len(steps) else 1)
        with style():
            (panel,) = self._axes(ax, 1, ratio=0.6, extra=0.2)
            for i, (axis, name) in enumerate(_NAMES.items()):
                part = self.data[self.data["axis"] == axis].sort_values("layer")
                at = part["layer"].to_numpy(float) + side * (2 * i - 1)
                y, significant = part["eta2"].to_numpy(float), _significant(part).to_numpy()
                ends = np.nan_to_num(np.maximum(np.stack([y - part["eta2_lo"], part["eta2_hi"] - y]), 0))
                panel.bar(at, part["null_hi"], width=1.6 * side, color="0.85", linewidth=0, zorder=1)
                panel.hlines(part["null_hi"], at - side, at + side, color=_NULL, linewidth=1.2, zorder=1.5)
                panel.errorbar(at, y, yerr=ends, fmt="none", ecolor=COLORS[i], **ERRORBAR, zorder=2)
                panel.plot(at, y, color=COLORS[i], linewidth=0.6, alpha=0.5, zorder=2)
                for marked, fill in ((significant, COLORS[i]), (~significant, "white")):
                    panel.scatter(at[marked], y[marked], s=13, marker=MARKERS[i], facecolors=fill, edgecolors=COLORS[i],
                                linewidths=0.8, zorder=3, label=name if fill != "white" else None)  # fmt: skip
            if float(self.data["eta2_lo"].min()) < 0:
                panel.axhline(0, color="0.5", linewidth=0.5, zorder=1)
            else:
                panel.set_ylim(bottom=0)
            panel.set_ylabel("share of log attention\nexplained (\N{GREEK SMALL LETTER ETA}\N{SUPERSCRIPT TWO})")
            low, high = int(self.data["n"].min()), int(self.data["n"].max())
            n = count_text(low, "image") if low == high else f"{low}-{high}"
            panel.set_xlabel(f"decoder layer (n = {n})")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
            panel.grid(axis="y")
            handles = self._handles()
            if ax is None:
                legend_below(self._drawn_figure(), handles, [str(handle.get_label()) for handle in handles])
            else:
                panel.legend(handles=handles)
            if self.title:
                panel.set_title(self.title, pad=3)
        return self

    def _handles(self) -> list[Artist]:
        """Row and column, chance, and the hollow mark where the figure has any."""
        handles: list[Artist] = [
            Line2D([], [], color=COLORS[i], marker=MARKERS[i], linewidth=0.6, label=name)
            for i, name in enumerate(_NAMES.values())
        ]
        handles.append(Line2D([], [], color=_NULL, linewidth=1.2, label="95 % of the null below"))
        if not _significant(self.data).all():
            handles.append(
                Line2D([], [], color="0.4", marker="o", markerfacecolor="white", linewidth=0, label="not significant")
            )
        return handles


def _significant(table: pd.DataFrame) -> pd.Series:
    """Whether a dependence is significant: both the test and the interval must say so."""
    return (table["q"] <= _ALPHA) & (table["eta2_lo"] > 0)
