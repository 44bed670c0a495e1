"""What position explains, and what removing it gains, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from biaslab.errors import InputError
from biaslab.figures.display import Display
from biaslab.figures.style import COLORS, ERRORBAR, MARKERS, style

__all__ = ["AurocDisplay", "VarianceDisplay"]


class VarianceDisplay(Display):
    """Share of the variance of log attention that position explains on held-out images, by layer, with
    intervals.

    Made from :func:`biaslab.profiles.variance_table`, one series per estimator; heads, where the table has
    them, are small dots behind. ``data`` is that table.
    """

    def __init__(self, data: pd.DataFrame, *, provenance: Any) -> None:
        super().__init__(data, provenance)

    @classmethod
    def from_table(cls, table: pd.DataFrame) -> VarianceDisplay:
        """From columns layer, r2, r2_lo, r2_hi and, if there, head, estimator, n."""
        data = _checked(table, ("layer", "r2", "r2_lo", "r2_hi"), "variance_table(maps)")
        return cls(data, provenance=table)

    @classmethod
    def from_maps(
        cls, maps: Any, estimator: Any = "mean", layers: Any = None, per_head: bool = False
    ) -> VarianceDisplay:
        """Compute the table first."""
        from biaslab.profiles import variance_table

        return cls.from_table(variance_table(maps, layers=layers, estimator=estimator, per_head=per_head))

    def plot(self, ax: Axes | None = None) -> VarianceDisplay:
        """Draw into ``ax`` or a new figure."""
        table = self.data
        everything = table["head"].astype(str) == "all" if "head" in table else pd.Series(True, index=table.index)
        with style():
            (one,) = self._axes(ax, 1, ratio=0.6)
            heads = table[~everything]
            one.scatter(
                heads["layer"],
                100 * heads["r2"],
                s=5,
                color="0.72",
                linewidths=0,
                label="single heads" if len(heads) else None,
            )
            _series(one, table[everything], "estimator", "r2", ["r2_lo", "r2_hi"], 100)
            one.set_ylabel("variance explained\nby position (%)")
            one.axhline(0, color="black", linewidth=0.6)
            one.set_ylim(top=max(100.0, one.get_ylim()[1]) if table["r2"].max() > 0.6 else None)
            _finish(one, _count(table, " images"))
        return self


class AurocDisplay(Display):
    """How well attention ranks the target's tokens, by layer, raw and debiased.

    Single heads, where the table has them beside or instead of their mean, are small dots. ``data``: layer,
    score ("raw", "ratio", ...), auroc, lo, hi and, if there, head and n.
    """

    def __init__(self, data: pd.DataFrame, *, provenance: Any) -> None:
        super().__init__(data, provenance)

    @classmethod
    def from_table(cls, table: pd.DataFrame) -> AurocDisplay:
        """From what ``score_ranking`` returns, or columns layer, score, auroc and, if there, lo, hi, n."""
        names = {"debias": "score", "auroc_lo": "lo", "auroc_hi": "hi"}
        table = table.rename(columns={k: v for k, v in names.items() if v not in table})
        table = _checked(table, ("layer", "score", "auroc"), "what score_ranking() returns")
        table = table.assign(**{c: np.nan for c in ("lo", "hi") if c not in table})
        kept = ["layer", "score", "head", "auroc", "lo", "hi", "n"]
        data = table[[c for c in kept if c in table]].reset_index(drop=True)
        return cls(data, provenance=table)

    def plot(self, ax: Axes | None = None) -> AurocDisplay:
        """Draw into ``ax`` or a new figure."""
        heads = self.data.duplicated(["layer", "score"], keep=False)
        if "head" in self.data:
            heads &= self.data["head"].astype(str) != "mean"
        lines, scores = self.data[~heads], list(dict.fromkeys(self.data["score"]))
        with style():
            (one,) = self._axes(ax, 1, ratio=0.6)
            for i, score in enumerate(scores):
                dots = self.data[heads & (self.data["score"] == score)]
                name = f"{score}, single heads" if len(dots) else None
                at = dots["layer"].astype(float) + 0.12 * (i - (len(scores) - 1) / 2)
                one.scatter(at, dots["auroc"], s=5, color=COLORS[i % len(COLORS)], alpha=0.5, linewidths=0, label=name)
            _series(one, lines, "score", "auroc", ["lo", "hi"], 1)
            one.axhline(0.5, color="black", linestyle=":", linewidth=0.8)
            one.annotate("chance", (1, 0.5), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=6)
            one.set_ylabel("AUROC of target tokens")
            _finish(one, _count(self.data, " samples"))
        return self


def _series(ax: Axes, table: pd.DataFrame, by: str, value: str, interval: list[str], scale: float) -> None:
    groups: Sequence = list(table.groupby(by, sort=False)) if by in table else [(None, table)]
    for i, (name, part) in enumerate(groups):
        part = part.sort_values("layer")
        y = scale * part[value].to_numpy(float)
        ends = scale * part[interval].to_numpy(float).T
        bars = np.nan_to_num(np.maximum(np.stack([y - ends[0], ends[1] - y]), 0))
        # series side by side: their bars would hide each other
        at = part["layer"].to_numpy(float) + 0.12 * (i - (len(groups) - 1) / 2)
        ax.errorbar(
            at,
            y,
            yerr=bars,
            label=name if len(groups) > 1 else None,
            color=COLORS[i % len(COLORS)],
            marker=MARKERS[i % len(MARKERS)],
            **ERRORBAR,
        )


def _finish(ax: Axes, n: str) -> None:
    ax.set_xlabel(f"decoder layer{n}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    ax.grid(axis="y")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="best")


def _count(table: pd.DataFrame, what: str) -> str:
    if "n" not in table:
        return ""
    low, high = int(table["n"].min()), int(table["n"].max())
    return f" (n = {low}{what})" if low == high else f" (n = {low} to {high}{what})"


def _checked(table: Any, columns: Sequence[str], fix: str) -> pd.DataFrame:
    missing = [c for c in columns if c not in table]
    if missing or not len(table):
        raise InputError(f"nothing to draw: need columns {', '.join(columns)}, as in {fix}")
    return table.copy()
