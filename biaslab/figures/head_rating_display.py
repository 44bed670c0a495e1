"""Heads of all layers by what a criterion makes of them, the best ones by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from biaslab.errors import InputError
from biaslab.figures.display import Display
from biaslab.figures.styling import COLORS, ERRORBAR, SMALLEST, style

__all__ = ["HeadRatingDisplay"]

_CLOSE = 0.06  # of the spread of all values: names nearer than that would lie on each other
_NAMED = 5  # heads with name and interval
_PER_ROW = 2
_COLUMNS = ("layer", "head", "value", "lo", "hi")


class HeadRatingDisplay(Display):
    """A panel per criterion: every head is a dot above its layer, the best few have names and intervals.

    ``data`` has a line per criterion, layer and head: criterion, layer, head, value, lo, hi.

    Examples
    --------
    >>> import matplotlib as mpl, matplotlib.pyplot as plt
    >>> mpl.use("Agg")
    >>> table = pd.DataFrame({"layer": [0, 0, 3, 3], "head": [0, 1, 0, 1], "value": [0.1, 0.0, 0.2, 0.9]})
    >>> display = HeadRatingDisplay.from_table(table.assign(lo=table["value"] - 0.1, hi=table["value"] + 0.1)).plot()
    >>> display.ax_.get_xlabel(), [text.get_text() for text in display.ax_.texts]
    ('decoder layer', ['L0h0', 'L0h1', 'L3h1', 'L3h0'])
    >>> plt.close(display.figure_)
    """

    def __init__(self, data: pd.DataFrame, *, provenance: Any) -> None:
        super().__init__(data, provenance)

    @classmethod
    def from_table(cls, table: pd.DataFrame, *, provenance: Any = None) -> HeadRatingDisplay:
        """Take a table of ratings.

        Parameters
        ----------
        table : DataFrame
            Of :func:`biaslab.profiles.head_quality`, or of ``biaslab heads``: columns layer, head, value (or quality),
            lo, hi, and criterion where there are several.
        provenance : object, optional
            Where it comes from; default the table.

        Returns
        -------
        HeadRatingDisplay

        Raises
        ------
        InputError
            Columns are missing, or no rows.
        """
        if "value" not in table and "quality" in table:
            table = table.rename(columns={"quality": "value"}).assign(criterion="quality")
        if not len(table) or any(name not in table for name in _COLUMNS):
            raise InputError(f"nothing to draw: need columns {', '.join(_COLUMNS)}, as in head_quality(maps)")
        criterion = table.get("criterion", "value")
        data = table.assign(criterion=criterion)[["criterion", *_COLUMNS]].reset_index(drop=True)
        return cls(data, provenance=table if provenance is None else provenance)

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> HeadRatingDisplay:
        """Draw a panel per criterion.

        Parameters
        ----------
        ax : Axes or sequence of Axes, optional
            One per criterion; default a new figure.

        Returns
        -------
        HeadRatingDisplay
            Self.
        """
        groups = list(self.data.groupby("criterion", sort=False))
        with style():
            panels = self._axes(
                ax, len(groups), per_row=_PER_ROW, columns=1 if len(groups) == 1 else 2, ratio=0.62, sharex=False
            )
            for panel, (name, part) in zip(panels, groups, strict=True):
                _draw(panel, str(name), part)
        return self


def _draw(panel: Axes, name: str, part: pd.DataFrame) -> None:
    best = part.dropna(subset="value").sort_values("value", ascending=False, kind="stable")[:_NAMED]
    rest = part.drop(best.index)
    panel.scatter(rest["layer"], rest["value"], s=6, color="0.72", linewidths=0)
    values, ends = best["value"].to_numpy(float), best[["lo", "hi"]].to_numpy(float).T
    bars = np.nan_to_num(np.maximum(np.stack([values - ends[0], ends[1] - values]), 0))
    # the heads of one layer side by side: their bars would hide each other
    at = best["layer"].to_numpy(float) + 0.12 * best.groupby("layer").cumcount().to_numpy()
    panel.errorbar(at, values, yerr=bars, color=COLORS[0], marker="o", linestyle="none", **ERRORBAR)
    for x, y, text in _labels(at, best, float(np.ptp(part["value"].dropna()))):
        panel.annotate(text, (x, y), (3, 2), textcoords="offset points", fontsize=SMALLEST)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    panel.set_xlabel("decoder layer")
    panel.set_ylabel(name)
    panel.grid(axis="y")


def _labels(at: np.ndarray, best: pd.DataFrame, spread: float) -> list[tuple[float, float, str]]:
    """Place and text of the names: heads of one layer that lie close share one, which none of them could hide."""
    found: list[tuple[float, float, str]] = []
    for _, own in best.assign(at=at).groupby("layer", sort=True):
        previous = np.inf
        for row in own.to_dict("records"):  # the highest first
            if previous - row["value"] < _CLOSE * spread:
                _, y, text = found.pop()
                found.append((row["at"], y, f"{text}, h{int(row['head'])}"))
            else:
                found.append((row["at"], row["value"], f"L{int(row['layer'])}h{int(row['head'])}"))
            previous = row["value"]
    return found
