"""What position explains, and what removing it gains, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from biaslab.errors import InputError
from biaslab.figures.display import Display, model_name
from biaslab.figures.fitting import legend_below
from biaslab.figures.styling import COLORS, ERRORBAR, LINES, MARKERS, style

__all__ = ["AurocDisplay", "VarianceDisplay"]

_ALPHA = 0.05
_BESIDE = 0.12  # layers between series: their bars would hide each other
_SCORES = {"raw": "raw attention", "ratio": "debiased"}
_RING: dict[str, Any] = {
    "color": "black", "marker": "o", "markersize": 6.5, "markerfacecolor": "none", "markeredgewidth": 0.6,
    "linestyle": "none",
}  # fmt: skip


class VarianceDisplay(Display):
    """Share of the variance of log attention that position explains on held-out images, by layer, with intervals.

    Made from :func:`biaslab.profiles.variance_table`, one series per estimator; heads, where the table has
    them, are small dots behind. ``data`` is that table.

    Examples
    --------
    >>> import matplotlib as mpl, matplotlib.pyplot as plt
    >>> mpl.use("Agg")
    >>> table = pd.DataFrame({"layer": [0, 1], "r2": [0.3, 0.6], "r2_lo": [0.2, 0.5], "r2_hi": [0.4, 0.7], "n": 40})
    >>> display = VarianceDisplay.from_table(table).plot()
    >>> display.data.head()
       layer   r2  r2_lo  r2_hi   n
    0      0  0.3    0.2    0.4  40
    1      1  0.6    0.5    0.7  40
    >>> plt.close(display.figure_)
    """

    def __init__(self, data: pd.DataFrame, title: str = "", *, provenance: Any) -> None:
        super().__init__(data, provenance)
        self.title = title

    @classmethod
    def from_table(cls, table: pd.DataFrame, *, model: str | None = None) -> VarianceDisplay:
        """Take the table of :func:`biaslab.profiles.variance_table`.

        Parameters
        ----------
        table : DataFrame
            Columns layer, r2, r2_lo, r2_hi and, if there, head, estimator, n.
        model : str, optional
            Named by the title.

        Returns
        -------
        VarianceDisplay

        Raises
        ------
        InputError
            Columns are missing, or no rows.
        """
        data = _checked(table, ("layer", "r2", "r2_lo", "r2_hi"), "variance_table(maps)")
        return cls(data, model_name(model), provenance=table if model is None else model)

    @classmethod
    def from_maps(
        cls,
        maps: Any,
        *,
        layers: int | Iterable[int] | None = None,
        estimator: Any = "mean",
        per_head: bool = False,
    ) -> VarianceDisplay:
        """Compute the table first.

        Parameters
        ----------
        maps : AttentionMaps
            Of images of two folds or more.
        layers : int or iterable of int, optional
            Decoder layers; default all of the maps'.
        estimator : str or Profile
            Name or instance, as of :func:`biaslab.profiles.variance_table`.
        per_head : bool
            Single heads too.

        Returns
        -------
        VarianceDisplay

        Examples
        --------
        >>> from biaslab.core.layout import TokenLayout
        >>> from biaslab.maps.simulate import simulate
        >>> layout = TokenLayout.raster(6, 6, size=(60, 60), family="internvl")
        >>> display = VarianceDisplay.from_maps(simulate("u-shaped", {layout: 12}, layers=3).maps, layers=[0, 2])
        >>> display.data["layer"].tolist()
        [0, 2]
        """
        from biaslab.profiles import variance_table

        table = variance_table(maps, layers=layers, estimator=estimator, per_head=per_head)
        return cls.from_table(table, model=maps.settings.get("model"))

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> VarianceDisplay:
        """Draw one panel.

        Parameters
        ----------
        ax : Axes, optional
            Default a new figure.

        Returns
        -------
        VarianceDisplay
            Self.
        """
        table = self.data
        everything = table["head"].astype(str) == "all" if "head" in table else pd.Series(True, index=table.index)
        with style():
            (panel,) = self._axes(ax, 1, ratio=0.6, extra=0.2)
            heads = table[~everything]
            panel.scatter(
                heads["layer"],
                100 * heads["r2"],
                s=5,
                color="0.72",
                linewidths=0,
                label="single heads" if len(heads) else None,
            )
            alone = "mean over heads" if len(heads) else None  # beside dots a line has to be named
            _series(panel, table[everything], "estimator", "r2", ["r2_lo", "r2_hi"], 100, alone)
            panel.set_ylabel("variance explained\nby position (%)")
            lowest = float(np.nanmin([table["r2"].min(), table["r2_lo"].min()]))
            if lowest < 0:
                panel.axhline(0, color="0.5", linewidth=0.5, zorder=1)
            # from 0 on the axis itself is the line of 0
            panel.set_ylim(
                0 if lowest >= 0 else None, max(100.0, panel.get_ylim()[1]) if table["r2"].max() > 0.6 else None
            )
            _finish(self, panel, _count(table, " images"))
        return self


class AurocDisplay(Display):
    """How well attention ranks the target's tokens, by layer, raw and debiased.

    Single heads, where the table has them beside or instead of their mean, are small dots. ``data``: layer,
    score ("raw", "ratio", ...), auroc, lo, hi and, if there, head and n.

    Examples
    --------
    >>> import matplotlib as mpl, matplotlib.pyplot as plt
    >>> mpl.use("Agg")
    >>> table = pd.DataFrame({"layer": [0, 0], "score": ["raw", "ratio"], "auroc": [0.6, 0.7]})
    >>> display = AurocDisplay.from_table(table.assign(lo=0.5, hi=0.8, n=90)).plot()
    >>> display.data.head()
       layer  score  auroc   lo   hi   n
    0      0    raw    0.6  0.5  0.8  90
    1      0  ratio    0.7  0.5  0.8  90
    >>> plt.close(display.figure_)
    """

    def __init__(self, data: pd.DataFrame, title: str = "", *, provenance: Any) -> None:
        super().__init__(data, provenance)
        self.title = title

    @classmethod
    def from_table(cls, table: pd.DataFrame, *, model: str | None = None) -> AurocDisplay:
        """Take the table of ``score_ranking``.

        Parameters
        ----------
        table : DataFrame
            What ``score_ranking`` returns, or columns layer, score, auroc and, if there, head, lo, hi, n, p_adjusted.
        model : str, optional
            Named by the title.

        Returns
        -------
        AurocDisplay

        Raises
        ------
        InputError
            Columns are missing, or no rows.
        """
        names = {"debias": "score", "auroc_lo": "lo", "auroc_hi": "hi"}
        table = table.rename(columns={k: v for k, v in names.items() if v not in table})
        table = _checked(table, ("layer", "score", "auroc"), "what score_ranking() returns")
        table = table.assign(**{c: np.nan for c in ("lo", "hi") if c not in table})
        columns = ["layer", "score", "head", "auroc", "lo", "hi", "n", "p_adjusted"]
        data = table[[c for c in columns if c in table]].reset_index(drop=True)
        return cls(data, model_name(model), provenance=table if model is None else model)

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> AurocDisplay:
        """Draw one panel.

        Parameters
        ----------
        ax : Axes, optional
            Default a new figure.

        Returns
        -------
        AurocDisplay
            Self.
        """
        heads = self.data.duplicated(["layer", "score"], keep=False)
        if "head" in self.data:
            heads &= self.data["head"].astype(str) != "mean"
        lines, scores = self.data[~heads], list(dict.fromkeys(self.data["score"]))
        with style():
            (panel,) = self._axes(ax, 1, ratio=0.6, extra=0.2)
            for i, score in enumerate(scores):
                dots = self.data[heads & (self.data["score"] == score)]
                name = f"{_SCORES.get(score, score)}, single heads" if len(dots) else None
                at = dots["layer"].astype(float) + 0.12 * (i - (len(scores) - 1) / 2)
                panel.scatter(
                    at, dots["auroc"], s=5, color=COLORS[i % len(COLORS)], alpha=0.5, linewidths=0, label=name
                )
            named = lines.assign(score=lines["score"].map(lambda score: _SCORES.get(score, score)))
            _series(panel, named, "score", "auroc", ["lo", "hi"], 1)
            panel.axhline(0.5, color="black", linestyle=":", linewidth=0.8, label="chance", zorder=1)
            panel.set_ylabel("AUROC of target tokens")
            _finish(self, panel, _count(self.data, " samples"), _marked(panel, named))
        return self


def _marked(ax: Axes, table: pd.DataFrame) -> list[Line2D]:
    """Ring the scores that differ significantly from raw attention, where the table tells; gives the legend's entry."""
    if "p_adjusted" not in table or not (table["p_adjusted"] <= _ALPHA).any():
        return []
    groups = list(table.groupby("score", sort=False))
    for i, (_, part) in enumerate(groups):
        sure = part[part["p_adjusted"] <= _ALPHA]
        at = sure["layer"].to_numpy(float) + _BESIDE * (i - (len(groups) - 1) / 2)
        ax.plot(at, sure["auroc"], **_RING)
    return [Line2D([], [], **_RING, label=f"differs from raw, p \N{LESS-THAN OR EQUAL TO} {_ALPHA:g} (adjusted)")]


def _series(
    ax: Axes, table: pd.DataFrame, by: str, value: str, interval: list[str], scale: float, alone: str | None = None
) -> None:
    """Draw a line with intervals per group, named by it; the only one is called ``alone``."""
    groups: Sequence = list(table.groupby(by, sort=False)) if by in table else [(None, table)]
    for i, (name, part) in enumerate(groups):
        part = part.sort_values("layer")
        y = scale * part[value].to_numpy(float)
        ends = scale * part[interval].to_numpy(float).T
        bars = np.nan_to_num(np.maximum(np.stack([y - ends[0], ends[1] - y]), 0))
        at = part["layer"].to_numpy(float) + _BESIDE * (i - (len(groups) - 1) / 2)
        ax.errorbar(
            at,
            y,
            yerr=bars,
            label=name if len(groups) > 1 else alone,
            color=COLORS[i % len(COLORS)],
            marker=MARKERS[i % len(MARKERS)],
            linestyle=LINES[i % len(LINES)],
            **ERRORBAR,
        )


def _finish(display: Display, ax: Axes, n: str, more: Sequence[Line2D] = ()) -> None:
    """Name the axes, and put the legend below a figure of the display's own: within, it would hide some layer."""
    ax.set_xlabel(f"decoder layer{n}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    ax.grid(axis="y")
    handles, names = ax.get_legend_handles_labels()
    handles, names = [*handles, *more], [*names, *(str(line.get_label()) for line in more)]
    if handles and display._own:
        legend_below(ax.figure, handles, names)  # type: ignore[arg-type]
    elif handles:
        ax.legend(handles, names, loc="best")
    if title := getattr(display, "title", ""):
        ax.set_title(title, pad=3)


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
