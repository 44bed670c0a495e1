"""Profiles of every head of every layer side by side, small, on one colour scale."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from biaslab._util.number_text import count_text
from biaslab.core.layers import resolve_layers
from biaslab.errors import InputError
from biaslab.figures.display import Display, model_name, ratio_ticks
from biaslab.figures.fitting import inward_ticks, snug, title_above
from biaslab.figures.layers import evenly
from biaslab.figures.profile_display import raster
from biaslab.figures.styling import DIVERGING, SMALLEST, figure_width, style

if TYPE_CHECKING:
    from biaslab.core.layout import TokenLayout
    from biaslab.profiles import Profile

__all__ = ["HeadsDisplay"]

_MOST_LAYERS = 32  # rows of panels that fit on a page
_NARROW = 8  # heads that fit into one column
_LABELS = 1.15  # inches beside the panels: layer numbers and the colour bar
_LOW = 1.8  # inches of all panels together
_READABLE = 0.26  # inches of a panel from which a number in its corner leaves room for the map


class HeadsDisplay(Display):
    """Layers (rows) by heads (columns): each panel is a head's expected attention relative to uniform attention.

    All panels share one diverging scale of ratios (1 = what each token would draw if all drew alike). Tiles lie where
    they lie in the image; a thumbnail is drawn instead of them on demand. The panel of
    a head that does not see the image is blank. Where variance explained is given it stands in the panel's corner, in
    per cent.

    ``data`` has a line per layer, head and token: layer, head, row, col, relative, variance (NaN where not given).

    Examples
    --------
    >>> import matplotlib as mpl, matplotlib.pyplot as plt
    >>> mpl.use("Agg")
    >>> from biaslab.core.layout import TokenLayout
    >>> from biaslab.maps.simulate import simulate
    >>> from biaslab.profiles import MeanProfile
    >>> layout = TokenLayout.raster(6, 6, size=(60, 60), family="internvl")
    >>> profile = MeanProfile().fit(simulate("bottom-heavy", {layout: 12}, layers=2, heads=3).maps)
    >>> display = HeadsDisplay.from_profile(profile).plot()
    >>> display.data.groupby(["layer", "head"]).size().tolist()
    [36, 36, 36, 36, 36, 36]
    >>> plt.close(display.figure_)
    """

    def __init__(self, data: pd.DataFrame, title: str, *, provenance: Any) -> None:
        super().__init__(data, provenance)
        self.title = title

    @classmethod
    def from_profile(
        cls,
        profile: Profile,
        *,
        layers: int | Iterable[int] | None = None,
        layout: TokenLayout | str | None = None,
        variance: pd.DataFrame | None = None,
        thumbnail: bool = False,
        most: int = _MOST_LAYERS,
    ) -> HeadsDisplay:
        """Read a fitted profile, one of every head as a rule.

        Parameters
        ----------
        profile : Profile
            Fitted.
        layers : int or iterable of int, optional
            Default all fitted ones. Of more than ``most`` layers as many are drawn, at even steps, and the title says
            so.
        layout : TokenLayout or str, optional
            A layout, or the key of a fitted one; default the one most images have.
        variance : DataFrame, optional
            Of ``variance_table(maps, per_head=True)``: columns layer, head, r2.
        thumbnail : bool
            The thumbnail's tokens in place of the tiles'.
        most : int
            Layers that are drawn at most.

        Returns
        -------
        HeadsDisplay

        Raises
        ------
        InputError
            A layer that was not fitted, an unknown layout, or one without a thumbnail where that is asked for.
        """
        from biaslab.profiles.fitted import check_fitted  # with scikit-learn behind it

        check_fitted(profile)
        layers = resolve_layers(layers, profile.layers_, "the profile", "fit")
        drawn = evenly(layers, most)
        layout, n = profile.layout_of(layout)
        tokens = layout.thumbnail == thumbnail
        if not tokens.any():
            raise InputError(
                f"layout {layout.key!r} has no {'thumbnail' if thumbnail else 'tiles'}: draw the other part"
            )
        row, col = (a[tokens] for a in raster(layout))
        single = profile.provenance_.get("heads") == "mean"
        explained = _explained(variance)
        tables = []
        for layer in drawn:
            expected = profile.expected(layout, layer).double().numpy()
            with np.errstate(invalid="ignore"):  # a head that does not see the image draws 0 / 0: blank
                relative = (expected / expected.mean(1, keepdims=True))[:, tokens]
            for h, values in enumerate(relative):
                head = "mean" if single else str(h)
                tables.append(pd.DataFrame({
                    "layer": layer, "head": head, "row": row, "col": col, "relative": values,
                    "variance": explained.get((layer, head), np.nan),
                }))  # fmt: skip
        model = model_name(profile.provenance_) or "model"
        title = f"{model}, {profile.name} profile, n = {count_text(n, 'image')}" + (", thumbnail" if thumbnail else "")
        if len(drawn) < len(layers):
            title += f"; {len(drawn)} of {len(layers)} layers, evenly chosen"
        if explained:
            title += "\nin the corners: variance explained by position (%)"
        return cls(pd.concat(tables, ignore_index=True), title, provenance=profile.provenance_)

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> HeadsDisplay:
        """Draw all panels into a single Axes, whose image holds them with gaps between.

        Parameters
        ----------
        ax : Axes, optional
            Default a new figure.

        Returns
        -------
        HeadsDisplay
            Self.
        """
        layers, heads = (list(dict.fromkeys(self.data[c])) for c in ("layer", "head"))
        mosaic, pitch, gap = self._mosaic(layers, heads)
        log = np.log2(np.maximum(self.data["relative"], 1e-6))
        log = np.abs(log[np.isfinite(log)])
        # heads differ by orders of magnitude: a scale up to the most extreme would leave the others white
        limit = float(np.clip(np.quantile(log, 0.95), 0.25, 6.0)) if len(log) else 1.0
        with style():
            columns = 1 if len(heads) <= _NARROW else 2
            width = figure_width(columns)
            tallest = 1.45 * width if columns == 1 else 8.2
            side = min((width - _LABELS) / len(heads), tallest * pitch[1] / pitch[0] / len(layers))  # inches of a panel
            height = side * len(layers) * pitch[0] / pitch[1]
            low = height < _LOW  # too low for a colour bar and its label beside it
            ratio = (height + (1.1 if low else 0.6)) / width
            (panel,) = self._axes(ax, 1, columns=columns, ratio=ratio, layout="compressed")
            image = panel.imshow(mosaic, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="equal")
            panel.spines[:].set_visible(False)
            _numbers(panel.yaxis, layers, pitch[0], gap, side * pitch[0] / pitch[1])
            _numbers(panel.xaxis, heads, pitch[1], gap, side)
            panel.set_ylabel("layer")
            panel.set_xlabel("head")
            if self.data["variance"].notna().any() and side >= _READABLE:
                self._corners(panel, layers, heads, pitch, side)
            # the bar's length is bounded by its thickness, a share of the height, times its aspect
            beside: dict[str, Any] = {"location": "right", "fraction": 0.05, "aspect": 30, "shrink": 0.8}
            below: dict[str, Any] = {"location": "bottom", "fraction": 0.05 + 0.05 / height, "aspect": 40}
            bar = self._drawn_figure().colorbar(image, ax=panel, pad=0.02, extend="both", **(below if low else beside))
            ticks, labels = ratio_ticks(limit)
            if low:
                inward_ticks(bar, ticks, labels, size=7)
            else:
                bar.set_ticks(ticks, labels=labels)
                bar.ax.minorticks_off()
            bar.set_label("attention relative to uniform attention")
            bar.outline.set_linewidth(0.4)
            if ax is None:
                title_above(self._drawn_figure(), self.title)
                snug(self._drawn_figure(), [panel])
            else:
                panel.set_title(self.title, pad=3)
        return self

    def _mosaic(self, layers: list, heads: list) -> tuple[np.ndarray, tuple[int, int], int]:
        """Lay log2 of all panels into one array, NaN between them; rows and columns from panel to panel; the gap."""
        rows, cols = int(self.data["row"].max()) + 1, int(self.data["col"].max()) + 1
        # whole cells are too coarse a gap between panels of few cells: cells are repeated until it is fine
        times = max(1, -(-32 // max(rows, cols)))
        gap = max(1, round(0.06 * times * max(rows, cols)))
        pitch = times * rows + gap, times * cols + gap
        mosaic = np.full((len(layers) * pitch[0] - gap, len(heads) * pitch[1] - gap), np.nan)
        for (layer, head), part in self.data.groupby(["layer", "head"], sort=False):
            panel = np.full((rows, cols), np.nan)
            panel[part["row"], part["col"]] = np.log2(np.maximum(part["relative"], 1e-6))
            top, left = layers.index(layer) * pitch[0], heads.index(head) * pitch[1]
            mosaic[top : top + times * rows, left : left + times * cols] = panel.repeat(times, 0).repeat(times, 1)
        return mosaic, pitch, gap

    def _corners(self, ax: Axes, layers: list, heads: list, pitch: tuple[int, int], side: float) -> None:
        first = self.data.drop_duplicates(["layer", "head"])
        for row in first[first["variance"].notna()].to_dict("records"):
            ax.text(
                (heads.index(row["head"]) + 0.04) * pitch[1], (layers.index(row["layer"]) + 0.03) * pitch[0],
                str(round(100 * row["variance"])), fontsize=SMALLEST, ha="left", va="top", in_layout=False,
                bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.4},
            )  # fmt: skip


def _numbers(axis: Any, names: list, pitch: int, gap: int, inches: float) -> None:
    """Write the names of rows or columns at their centres, as many as there is room for."""
    step = max(1, int(np.ceil(0.11 / inches)))
    ticked = range(0, len(names), step)
    axis.set_ticks([i * pitch + (pitch - gap) / 2 - 0.5 for i in ticked], [str(names[i]) for i in ticked])
    axis.set_tick_params(length=0, pad=2, labelsize=float(np.clip(44 * step * inches, SMALLEST, 7)))


def _explained(variance: pd.DataFrame | None) -> dict[tuple[int, str], float]:
    if variance is None:
        return {}
    if missing := [c for c in ("layer", "head", "r2") if c not in variance]:
        raise InputError(f"variance has no column {missing[0]!r}: pass variance_table(maps, per_head=True)")
    return {(int(r["layer"]), str(r["head"])): float(r["r2"]) for r in variance.to_dict("records")}
