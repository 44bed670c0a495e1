"""A positional profile as a map over the token grid with row and column marginals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from biaslab._util.number_text import count_text
from biaslab.core.frames import FramesLayout
from biaslab.core.layers import resolve_layers
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.figures.display import Display, model_name, ratio_ticks
from biaslab.figures.fitting import inward_ticks, snug, title_above, wrapped
from biaslab.figures.layers import full_rows
from biaslab.figures.styling import COLORS, DIVERGING, style

if TYPE_CHECKING:
    from biaslab.profiles import Profile

__all__ = ["ProfileDisplay", "raster"]


class ProfileDisplay(Display):
    """Expected attention of each position relative to uniform attention (1 = all tokens draw alike).

    One panel per layer; a thumbnail gets its own panel. Tiles are drawn where they lie, with their borders; frames of a
    video in reading order.
    The marginals are means over columns and rows. Their bands are an upper bound of the 95 % interval of the
    mean over images: the profile holds the standard deviation of single positions, and the standard error of their mean
    is largest if they move together.

    ``data`` has a line per layer and token: layer, tile, row, col (of the whole raster), thumbnail, expected,
    relative, standard_error (of relative).

    Examples
    --------
    >>> import matplotlib as mpl, matplotlib.pyplot as plt
    >>> mpl.use("Agg")
    >>> from biaslab.core.layout import TokenLayout
    >>> from biaslab.maps.simulate import simulate
    >>> from biaslab.profiles import MeanProfile
    >>> layout = TokenLayout.raster(6, 6, size=(60, 60), family="internvl")
    >>> profile = MeanProfile().fit(simulate("bottom-heavy", {layout: 12}, layers=2).maps)
    >>> display = ProfileDisplay.from_profile(profile, layers=1).plot()
    >>> display.data.groupby("row")["relative"].mean().round(1).tolist()
    [0.4, 0.5, 0.7, 1.0, 1.1, 2.2]
    >>> plt.close(display.figure_)
    """

    def __init__(
        self,
        data: pd.DataFrame,
        layout: TokenLayout,
        title: str,
        *,
        provenance: Any,
        panels: Mapping[Any, str] | None = None,
    ) -> None:
        super().__init__(data, provenance)
        self.layout = layout
        self.title = title
        self.panels = dict(panels or {})

    @classmethod
    def from_profile(
        cls,
        profile: Profile,
        *,
        layers: int | Iterable[int] | None = None,
        layout: TokenLayout | str | None = None,
        head: int | None = None,
    ) -> ProfileDisplay:
        """Read a fitted profile.

        Parameters
        ----------
        profile : Profile
            Fitted.
        layers : int or iterable of int, optional
            Which fitted layers; default all.
        layout : TokenLayout or str, optional
            A layout, or the key of a fitted one; default the one most images have.
        head : int, optional
            Head of a per-head profile; default the mean over heads.

        Returns
        -------
        ProfileDisplay

        Raises
        ------
        InputError
            A layer or head that was not fitted, or an unknown layout.
        """
        from biaslab.profiles.fitted import check_fitted  # with scikit-learn behind it

        check_fitted(profile)
        layers = resolve_layers(layers, profile.layers_, "the profile", "fit")
        layout, n = profile.layout_of(layout)
        row, col = raster(layout)
        tables = []
        for layer in layers:
            expected, std = (f(layout, layer).double().numpy() for f in (profile.expected, profile.std))
            if head is not None:
                if not 0 <= head < len(expected):
                    raise InputError(f"the profile has {len(expected)} head(s), not a head {head}")
                expected, std = expected[[head]], std[[head]]
            expected, std = expected.mean(0), std.mean(0)
            uniform = expected.mean()
            tables.append(
                pd.DataFrame(
                    {
                        "layer": layer,
                        "tile": layout.tile,
                        "row": row,
                        "col": col,
                        "thumbnail": layout.thumbnail,
                        "expected": expected,
                        "relative": expected / uniform,
                        "standard_error": std / uniform / np.sqrt(n),
                    }
                )
            )
        model = model_name(profile.provenance_) or "model"
        which = "" if head is None else f", head {head}"
        title = f"{model}, {profile.name} profile{which}, n = {count_text(n, 'image')}"
        if n < (total := sum(profile.counts_.values())):
            title += f" of this layout, {total:,} in all"
        if len(layers) < len(profile.layers_):
            title += f", {len(layers)} of {len(profile.layers_)} layers"
        panels = {layer: profile.panel_title(layer) for layer in layers}
        return cls(pd.concat(tables, ignore_index=True), layout, title, provenance=profile.provenance_, panels=panels)

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> ProfileDisplay:
        """Draw a panel per layer, and per layer's thumbnail.

        Parameters
        ----------
        ax : Axes or sequence of Axes, optional
            One per panel; default a new figure.

        Returns
        -------
        ProfileDisplay
            Self.
        """
        panels = [
            (layer, thumbnail, part)
            for (layer, thumbnail), part in self.data.groupby(["layer", "thumbnail"], sort=True)
        ]
        log = np.log2(np.maximum(self.data["relative"], 1e-6))
        limit = float(np.clip(np.quantile(np.abs(log), 0.98), 0.25, 8.0))
        with style():
            wide = len(panels) > 2
            aspect = max((p["row"].max() + 1) / (p["col"].max() + 1) for _, _, p in panels)
            per_row = full_rows(len(panels), 4) if wide else 2
            axes = self._axes(
                ax, len(panels), per_row=per_row, columns=2 if wide else 1, ratio=0.8 * aspect + 0.3, extra=1.0,
                layout="compressed",
            )  # fmt: skip
            ends = _ends([part for _, thumbnail, part in panels])
            for i, (panel, (layer, thumbnail, part)) in enumerate(zip(axes, panels, strict=True)):
                image = self._panel(panel, part, limit, bool(thumbnail), ends)
                name = self.panels.get(layer, f"layer {layer}") + (", thumbnail" if thumbnail else "")
                # at one height over all maps, above the marginals
                panel.set_title(
                    name if ax is None else f"{name} ({self.title})", y=1.24, pad=2, fontsize=7 if wide else 8
                )
                if i == 0 or ax is not None:  # said once
                    panel.set_xlabel("column", labelpad=-5, fontsize=7)
                    panel.set_ylabel("row", labelpad=-5, fontsize=7)
            ticks, labels = ratio_ticks(limit)
            figure = self._drawn_figure()
            bar = figure.colorbar(
                image, ax=axes, location="bottom", fraction=0.05,
                pad=0.03 if ax is None else 0.14,  # no layout engine makes room in a figure of the caller's
                aspect=45, shrink=0.8, extend="both",
            )  # fmt: skip
            inward_ticks(bar, ticks, labels, size=7)
            said = "attention relative to uniform attention; beside the maps means over rows and columns, 1 dotted"
            bar.set_label(wrapped(said, figure.get_figwidth() - 0.4, 7), fontsize=7)
            bar.outline.set_linewidth(0.4)
            if ax is None:
                title_above(figure, self.title)
                snug(figure, axes)
        return self

    def _panel(self, ax: Axes, part: pd.DataFrame, limit: float, thumbnail: bool, ends: tuple[float, float]) -> Any:
        rows, cols = int(part["row"].max()) + 1, int(part["col"].max()) + 1
        value, error = _grids(part)
        image = ax.imshow(
            np.log2(np.maximum(value, 1e-6)),
            cmap=DIVERGING,
            vmin=-limit,
            vmax=limit,
            extent=(0, cols, rows, 0),
            aspect="equal",
        )
        if not thumbnail:
            for line in range(self.layout.grid[0], rows, self.layout.grid[0]):
                ax.axhline(line, color="black", linewidth=0.6)
            for line in range(self.layout.grid[1], cols, self.layout.grid[1]):
                ax.axvline(line, color="black", linewidth=0.6)
        ax.spines[:].set_visible(False)
        for axis, count in ((ax.xaxis, cols), (ax.yaxis, rows)):
            axis.set_ticks([0, count], ["1", str(count)])
            axis.set_tick_params(length=0, pad=2, labelsize=7)
        # end labels stay inside their axis: outside it stand those of the marginals
        first, last = ax.get_xticklabels()
        first.set_horizontalalignment("left")
        last.set_horizontalalignment("right")
        first, last = ax.get_yticklabels()
        first.set_verticalalignment("top")
        last.set_verticalalignment("bottom")
        # shares of the panel's own axes: marginals keep their thickness whatever the map's shape
        top = ax.inset_axes((0, 1.04, 1, 0.16), sharex=ax)
        right = ax.inset_axes((1.04, 0, 0.16, 1), sharey=ax)
        _marginal(top, value, error, 0, ends)
        _marginal(right, value, error, 1, ends)
        return image


def _grids(part: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Lay the values of a map and their standard errors into arrays of rows and columns."""
    rows, cols = int(part["row"].max()) + 1, int(part["col"].max()) + 1
    value, error = np.full((rows, cols), np.nan), np.full((rows, cols), np.nan)
    value[part["row"], part["col"]] = part["relative"]
    error[part["row"], part["col"]] = part["standard_error"]
    return value, error


def _means(value: np.ndarray, error: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    return np.nanmean(value, axis=axis), 1.96 * np.nanmean(error, axis=axis)


def _ends(parts: Sequence[pd.DataFrame]) -> tuple[float, float]:
    """Take the lowest and the highest end of all marginals, which share one scale."""
    bands = [_means(*_grids(part), axis) for part in parts for axis in (0, 1)]
    return min(1.0, *((m - h).min() for m, h in bands)), max(1.0, *((m + h).max() for m, h in bands))


def _marginal(ax: Axes, value: np.ndarray, error: np.ndarray, axis: int, ends: tuple[float, float]) -> None:
    """Draw means over one axis of the map with their band, and uniform attention; axis 0: over rows, along x."""
    mean, half = _means(value, error, axis)
    at = np.arange(len(mean)) + 0.5
    lo, hi = ends
    lo, hi = lo - 0.08 * (hi - lo), hi + 0.08 * (hi - lo)
    look: dict[str, Any] = {"color": COLORS[0], "alpha": 0.3, "linewidth": 0}
    uniform: dict[str, Any] = {"color": "black", "linewidth": 0.5, "linestyle": ":"}
    if axis == 0:
        ax.fill_between(at, mean - half, mean + half, **look)
        ax.plot(at, mean, color=COLORS[0], linewidth=0.9)
        ax.axhline(1, **uniform)
        ax.set_ylim(lo, hi)
    else:
        ax.fill_betweenx(at, mean - half, mean + half, **look)
        ax.plot(mean, at, color=COLORS[0], linewidth=0.9)
        ax.axvline(1, **uniform)
        ax.set_xlim(lo, hi)
    scale, along = (ax.yaxis, ax.xaxis) if axis == 0 else (ax.xaxis, ax.yaxis)
    highest = f"{ends[1]:.2g}\N{MULTIPLICATION SIGN}"
    scale.set_ticks([ends[1]], [highest])
    scale.set_tick_params(labelsize=6, length=1.5, pad=1)
    along.set_tick_params(length=0, labelbottom=False, labelleft=False)
    if axis == 0:
        ax.spines["bottom"].set_visible(False)
    else:  # the scale goes to the free corner: below stands the last column's number
        ax.tick_params(axis="x", bottom=False, labelbottom=False, top=True, labeltop=True)
        ax.spines[["bottom", "left"]].set_visible(False)
        ax.spines["top"].set_visible(True)


def raster(layout: TokenLayout) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column of each token in the raster of all tiles; in its own raster for the thumbnail.

    Frames of a video stand in reading order, as many rows of them as columns or one less.
    """
    down, across = np.divmod(layout.tile, layout.tiles[1])
    row = np.where(layout.thumbnail, layout.row, down * layout.grid[0] + layout.row)
    col = np.where(layout.thumbnail, layout.col, across * layout.grid[1] + layout.col)
    if isinstance(layout, FramesLayout):
        below, beside = np.divmod(layout.frame, int(np.ceil(np.sqrt(layout.n_frames))))
        rows, cols = (np.where(layout.thumbnail, layout.thumbnail_grid[i], _side(layout, i)) for i in (0, 1))
        row, col = row + below * rows, col + beside * cols
    return row, col


def _side(layout: TokenLayout, axis: int) -> int:
    """Count the rows (0) or columns (1) of the raster of all tiles of one frame."""
    return layout.tiles[axis] * layout.grid[axis]
