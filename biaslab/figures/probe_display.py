"""The causal probe's maps beside a profile's, their scatter, and accuracy by place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from biaslab._util.number_text import count_text, interval_text
from biaslab.core.layers import resolve_layers
from biaslab.errors import InputError
from biaslab.figures.display import Display, model_name, ratio_ticks
from biaslab.figures.fitting import inward_ticks, snug, title_above, wrapped
from biaslab.figures.layers import full_rows
from biaslab.figures.styling import COLORS, DIVERGING, SMALLEST, figure_width, style

if TYPE_CHECKING:
    from biaslab.diagnostics.probe import ProbeResult

__all__ = ["LocationAccuracyDisplay", "ProbeDisplay"]


class ProbeDisplay(Display):
    """Causal effect of the place on the attention an object draws, beside what a profile says, layer by layer.

    With a profile a layer has three panels: the probe, the profile read in the same way, and the one against the
    other with the fitted line (slope) and the line of equality (dotted). Without one, the probe's map alone. Maps
    are on one scale: attention relative to the mean over places.

    ``data`` has a line per layer and place: layer, row, col, probe, se and, with a profile, profile (natural
    logarithms, centred).

    Examples
    --------
    >>> import matplotlib as mpl, matplotlib.pyplot as plt
    >>> mpl.use("Agg")
    >>> from biaslab.core.layout import TokenLayout
    >>> from biaslab.diagnostics.probe import ProbeResult
    >>> layout = TokenLayout.raster(2, 2, size=(64, 64), family="internvl")
    >>> effects = np.array([[0.0, 0.0], [0.7, 0.7]]).reshape(1, 2, 2, 1, 1, 1)  # (pair, row, col, region, layer, head)
    >>> boxes = np.zeros((1, 2, 2, 1, 4))
    >>> probe = ProbeResult(effects, None, boxes, ["cat"], [3], ["mean"], ["tiles"], layout, {"model": "toy"})
    >>> display = ProbeDisplay.from_probe(probe).plot()
    >>> display.data[["layer", "row", "col", "probe"]].head()
       layer  row  col  probe
    0      3    0    0  -0.35
    1      3    0    1  -0.35
    2      3    1    0   0.35
    3      3    1    1   0.35
    >>> plt.close(display.figure_)
    """

    def __init__(
        self, data: pd.DataFrame, title: str, comparison: pd.DataFrame | None = None, *, provenance: Any
    ) -> None:
        super().__init__(data, provenance)
        self.title = title
        self.comparison = comparison

    @classmethod
    def from_probe(
        cls,
        probe: ProbeResult,
        *,
        layers: int | Iterable[int] | None = None,
        profile: Any = None,
        head: str | int | None = None,
        region: str = "tiles",
        comparison: pd.DataFrame | None = None,
    ) -> ProbeDisplay:
        """Take a measured probe and, if there, a profile or maps.

        Parameters
        ----------
        probe : ProbeResult
            Measured.
        layers : int or iterable of int, optional
            Default all that were measured.
        profile : Profile or AttentionMaps, optional
            To be compared with.
        head : str or int, optional
            Of a probe of single heads; default its first.
        region : str
            "tiles" or "thumbnail".
        comparison : DataFrame, optional
            What `biaslab.diagnostics.probe.compare` returned for them; computed where it is left out.

        Returns
        -------
        ProbeDisplay

        Raises
        ------
        InputError
            A layer that was not measured.
        ProfileMismatchError
            A profile of another model, query rule, score or heads.
        """
        from biaslab.diagnostics.probe.comparison import compare, profile_maps

        layers = resolve_layers(layers, probe.layers, "the probe", "measure")
        head = probe.heads[0] if head is None else head
        if profile is not None and comparison is None:
            comparison = compare(probe, profile)
        row, col = (a.ravel() for a in np.indices(probe.grid))
        tables = []
        for layer in layers:
            table = {
                "layer": layer, "row": row, "col": col, "probe": probe.map(layer, head, region).ravel(),
                "se": probe.standard_error(layer, head, region).ravel(),
            }  # fmt: skip
            if profile is not None:
                table["profile"] = profile_maps(probe, profile, layer)[
                    ..., probe.regions.index(region), probe.heads.index(head)
                ].ravel()
            tables.append(pd.DataFrame(table))
        if comparison is not None:
            rows = (comparison["head"] == head) & (comparison["region"] == region)
            comparison = comparison[rows].set_index("layer")
        model = model_name(probe.settings)
        title = f"{model}, causal probe" + ("" if region == "tiles" else f" ({region})")
        title += ("" if head == "mean" else f", head {head}") + f", n = {count_text(probe.n_groups, 'object')}"
        if len(layers) < len(probe.layers):
            title += f", {len(layers)} of {len(probe.layers)} layers"
        return cls(pd.concat(tables, ignore_index=True), title, comparison, provenance=probe.settings)

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> ProbeDisplay:
        """Draw one panel per layer, or three with a profile (all panels of a layer, then the next layer).

        Parameters
        ----------
        ax : Axes or sequence of Axes, optional
            One per panel; default a new figure.

        Returns
        -------
        ProbeDisplay
            Self.
        """
        layers, both = list(dict.fromkeys(self.data["layer"])), "profile" in self.data
        columns = ["probe", "profile"] if both else ["probe"]
        grid = self.data["row"].max() + 1, self.data["col"].max() + 1
        log = self.data[columns].to_numpy() / np.log(2)
        limit = float(np.clip(np.quantile(np.abs(log), 0.98), 0.25, 8.0))
        per_layer = 3 if both else 1
        with style():
            wide = len(layers) * per_layer > 3
            per_row = (6 if both else full_rows(len(layers), 4)) if wide else len(layers) * per_layer
            small = SMALLEST if both or per_row > 4 else 7
            axes = self._axes(
                ax, len(layers) * per_layer, per_row=per_row, columns=2 if wide else 1,
                ratio=max(grid[0] / grid[1], 0.7 if both else 0.3) + 0.45, extra=0.75, layout="compressed",
            )  # fmt: skip
            reach = float(np.abs(log).max()) * 1.05
            for i, layer in enumerate(layers):
                part = self.data[self.data["layer"] == layer]
                for k, what in enumerate(columns):
                    panel = axes[i * per_layer + k]
                    image = self._map(panel, part, what, grid, limit)
                    panel.set_title(f"layer {layer}" if not both else f"layer {layer}: {what}", pad=3, fontsize=small)
                if both:
                    self._scatter(axes[i * per_layer + 2], part, layer, reach, said=i % (per_row // 3) == 0)
            bar = self._drawn_figure().colorbar(
                image, ax=axes, location="bottom", fraction=0.05, pad=0.03, aspect=45, shrink=0.8, extend="both"
            )
            inward_ticks(bar, *ratio_ticks(limit), size=7)
            bar.set_label("attention on the object relative to its mean over places", fontsize=7)
            bar.outline.set_linewidth(0.4)
            if ax is None:
                title_above(self._drawn_figure(), self.title)
                snug(self._drawn_figure(), axes)
        return self

    @staticmethod
    def _map(ax: Axes, part: pd.DataFrame, what: str, grid: tuple[int, int], limit: float) -> Any:
        values = np.full(grid, np.nan)
        values[part["row"], part["col"]] = part[what] / np.log(2)
        _bare(ax)
        return ax.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit)

    def _scatter(self, ax: Axes, part: pd.DataFrame, layer: int, reach: float, *, said: bool) -> None:
        x, y = part["profile"] / np.log(2), part["probe"] / np.log(2)
        ax.scatter(x, y, s=2.5, color=COLORS[0], alpha=0.6, linewidths=0)
        ax.plot([-reach, reach], [-reach, reach], color="black", linewidth=0.5, linestyle=":")
        row = None if self.comparison is None or layer not in self.comparison.index else self.comparison.loc[layer]
        if row is not None:
            line = np.array([x.min(), x.max()])
            ax.plot(line, row["slope"] * line, color=COLORS[3], linewidth=0.9)
            slope = interval_text(row["slope"], row.get("slope_lo"), row.get("slope_hi")) or "not known"
            ax.set_title(f"slope {slope}\nr {interval_text(row['r']) or 'not known'}", pad=3, fontsize=SMALLEST)
        ax.set_box_aspect(1)
        step = max(1, int(reach // 2))  # one range for all layers, ticked alike
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[-step, 0, step], yticks=[-step, 0, step])
        ax.tick_params(labelsize=SMALLEST, length=1.5, pad=1)
        ax.set_xlabel("profile (log\N{SUBSCRIPT TWO})", labelpad=1, fontsize=SMALLEST)
        if said:
            ax.set_ylabel("probe (log\N{SUBSCRIPT TWO})", labelpad=0, fontsize=SMALLEST)


class LocationAccuracyDisplay(Display):
    """Share of answers with IoU >= 0.5 by the place of the object.

    ``data``: row, col, n, acc50, acc50_lo, acc50_hi.

    Examples
    --------
    >>> import matplotlib as mpl, matplotlib.pyplot as plt
    >>> mpl.use("Agg")
    >>> from biaslab.core.layout import TokenLayout
    >>> from biaslab.diagnostics.probe import ProbeResult
    >>> layout = TokenLayout.raster(2, 2, size=(64, 64), family="internvl")
    >>> overlaps = np.array([[0.8, 0.2], [0.9, 0.6]]).reshape(1, 2, 2, 1)  # IoU: (pair, row, col, repetition)
    >>> effects, boxes = np.zeros((1, 2, 2, 1, 1, 1)), np.zeros((1, 2, 2, 1, 4))
    >>> probe = ProbeResult(effects, overlaps, boxes, ["cat"], [3], ["mean"], ["tiles"], layout, {"model": "toy"})
    >>> display = LocationAccuracyDisplay.from_probe(probe).plot()
    >>> display.data[["row", "col", "n", "acc50"]].head()
       row  col  n  acc50
    0    0    0  1    1.0
    1    0    1  1    0.0
    2    1    0  1    1.0
    3    1    1  1    1.0
    >>> plt.close(display.figure_)
    """

    def __init__(self, data: pd.DataFrame, title: str, *, provenance: Any) -> None:
        super().__init__(data, provenance)
        self.title = title

    @classmethod
    def from_probe(cls, probe: ProbeResult) -> LocationAccuracyDisplay:
        """Take a probe that was measured with ``locate=True``.

        Parameters
        ----------
        probe : ProbeResult
            With answers.

        Returns
        -------
        LocationAccuracyDisplay
        """
        data = probe.accuracy()
        share = 100 * data["acc50"].mean()
        name = model_name(probe.settings)
        title = f"{name}, Acc@0.5 by place, {share:.0f} % of {data['n'].sum():,}"
        return cls(data, title, provenance=probe.settings)

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> LocationAccuracyDisplay:
        """Draw one panel.

        Parameters
        ----------
        ax : Axes, optional
            Default a new figure.

        Returns
        -------
        LocationAccuracyDisplay
            Self.

        Raises
        ------
        InputError
            The probe was measured without boxes.
        """
        if self.data.empty:
            raise InputError("nothing to draw: measure a probe with locate=True")
        values = np.full((self.data["row"].max() + 1, self.data["col"].max() + 1), np.nan)
        values[self.data["row"], self.data["col"]] = 100 * self.data["acc50"]
        with style():
            (panel,) = self._axes(ax, 1, ratio=0.8 * values.shape[0] / values.shape[1] + 0.2)
            image = panel.imshow(values, cmap="viridis", vmin=0, vmax=100)
            _bare(panel)
            panel.set_title(wrapped(self.title, figure_width() - 0.5, 8), pad=3)
            bar = self._drawn_figure().colorbar(image, ax=panel, shrink=0.85)
            bar.set_label(f"Acc@0.5 (%), n = {self.data['n'].iloc[0]} per place")
            bar.outline.set_linewidth(0.4)
        return self


def _bare(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
