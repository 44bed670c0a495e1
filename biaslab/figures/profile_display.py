"""A positional profile as a map over the token grid with row and column marginals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from biaslab._util.number_text import count_text
from biaslab.core.frames import FramesLayout
from biaslab.core.layers import resolve_layers
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.figures.display import Display, ratio_ticks
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
        model = PurePath(str(profile.provenance_.get("model", "model"))).name
        which = "" if head is None else f", head {head}"
        title = f"{model}, {profile.name} profile{which}, n = {count_text(n, 'image')}"
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
            axes = self._axes(
                ax, len(panels), per_row=4 if wide else 2, columns=2 if wide else 1,
                ratio=0.72 * aspect + 0.22, extra=1.05, layout="compressed",
            )  # fmt: skip
            for panel, (layer, thumbnail, part) in zip(axes, panels, strict=True):
                image = self._panel(panel, part, limit, bool(thumbnail))
                name = self.panels.get(layer, f"layer {layer}") + (", thumbnail" if thumbnail else "")
                panel.set_title(name if ax is None else f"{name} ({self.title})", pad=3)
            ticks, labels = ratio_ticks(limit)
            figure = self._drawn_figure()
            bar = figure.colorbar(
                image,
                ax=axes,
                location="bottom",
                fraction=0.05,
                pad=0.03 if ax is None else 0.14,  # no layout engine makes room in a figure of the caller's
                aspect=45,
                shrink=0.8,
                extend="both",
                ticks=ticks,
            )
            bar.ax.set_xticklabels(labels)
            bar.set_label("attention relative to uniform")
            bar.outline.set_linewidth(0.4)
            if ax is None:
                figure.suptitle(self.title)
        return self

    def _panel(self, ax: Axes, part: pd.DataFrame, limit: float, thumbnail: bool) -> Any:
        rows, cols = int(part["row"].max()) + 1, int(part["col"].max()) + 1
        value, error = np.full((rows, cols), np.nan), np.full((rows, cols), np.nan)
        value[part["row"], part["col"]] = part["relative"]
        error[part["row"], part["col"]] = part["standard_error"]
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
        ax.set_xlabel("column", labelpad=-5, fontsize=7)
        ax.set_ylabel("row", labelpad=-5, fontsize=7)
        # shares of the panel's own axes: marginals keep their thickness whatever the map's shape
        top = ax.inset_axes((0, 1.04, 1, 0.16), sharex=ax)
        right = ax.inset_axes((1.04, 0, 0.16, 1), sharey=ax)
        _marginal(top, value, error, 0)
        _marginal(right, value, error, 1)
        return image


def _marginal(ax: Axes, value: np.ndarray, error: np.ndarray, axis: int) -> None:
    """Draw means over one axis of the map with their band, and uniform attention; axis 0: over rows, along x."""
    mean, half = np.nanmean(value, axis=axis), 1.96 * np.nanmean(error, axis=axis)
    at = np.arange(len(mean)) + 0.5
    lo, hi = min(1.0, (mean - half).min()), max(1.0, (mean + half).max())
    if axis == 0:
        ax.fill_between(at, mean - half, mean + half, color=COLORS[0], alpha=0.3, linewidth=0)
        ax.plot(at, mean, color=COLORS[0], linewidth=0.9)
        ax.axhline(1, color="black", linewidth=0.5, linestyle=":")
        ax.set_yticks([lo, hi], [_short(lo), _short(hi)])
        ax.set_ylim(lo - 0.25 * (hi - lo), hi + 0.08 * (hi - lo))
        ax.tick_params(axis="x", length=0, labelbottom=False)
        ax.tick_params(axis="y", labelsize=5.5, length=1.5, pad=1)
        ax.spines["bottom"].set_visible(False)
    else:
        ax.fill_betweenx(at, mean - half, mean + half, color=COLORS[0], alpha=0.3, linewidth=0)
        ax.plot(mean, at, color=COLORS[0], linewidth=0.9)
        ax.axvline(1, color="black", linewidth=0.5, linestyle=":")
        ax.set_xticks([lo, hi], [_short(lo), _short(hi)], rotation=90)
        ax.set_xlim(lo - 0.15 * (hi - lo), hi + 0.08 * (hi - lo))
        ax.tick_params(axis="y", length=0, labelleft=False)
        # the scale goes to the free corner: below stands the last column's number
        ax.tick_params(
            axis="x",
            labelsize=5.5,
            length=1.5,
            pad=1,
            bottom=False,
            labelbottom=False,
            top=True,
            labeltop=True,
        )
        ax.spines[["bottom", "left"]].set_visible(False)
        ax.spines["top"].set_visible(True)


def _short(value: float) -> str:
    """Write two digits; next to nothing is 0, which a label has more room for than for an exponent."""
    return "0" if abs(value) < 0.005 else f"{value:.2g}"


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
