"""What all displays share: axes, and the small drawing helpers for maps laid over pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke

from biaslab._util.watermark import stamp_table
from biaslab.core.boxes import Box
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.figures.style import figure_width

__all__ = ["ANSWER", "TARGET", "Display", "draw_box", "paint", "picture", "ratio_ticks"]

#: one look for the same thing in every figure
TARGET = {"edgecolor": "#009E73", "linestyle": "-", "label": "target"}
ANSWER = {"edgecolor": "#D55E00", "linestyle": "--", "label": "answer"}

_CANVAS = 448  # pixels of the longer side of pictures inside figures: enough at column width, small in the PDF


class Display:
    """Base of the figures: made by a ``from_...`` class method, drawn by ``plot(ax=None)``, which returns
    self.

    Parameters
    ----------
    data : what is drawn.
    provenance : where it comes from: settings, a model or its name, or the table it was taken from. What comes from a
        rehearsal is stamped, here and thereby in every file of the figure.

    Attributes
    ----------
    data : DataFrame of the numbers that are drawn.
    figure_, ax_ : after :meth:`plot`; ``ax_`` is one Axes, or an array of them when there are several panels.
    """

    data: pd.DataFrame
    figure_: Figure | None = None
    ax_: Any = None

    def __init__(self, data: pd.DataFrame, provenance: Any) -> None:
        self.data = stamp_table(data, provenance)

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> Display:
        """Draw, into ``ax`` (one Axes per panel) or a new figure, in the style of the enclosing context."""
        raise NotImplementedError

    def _axes(
        self,
        ax: Axes | Sequence[Axes] | None,
        panels: int,
        per_row: int | None = None,
        columns: int = 1,
        ratio: float | Sequence[float] = 0.72,
        extra: float = 0.0,
        layout: str = "constrained",
        **subplots: Any,
    ) -> list[Axes]:
        """One Axes per panel: those given, or new ones.

        ``ratio`` is height / width of a panel, or one per row of panels; ``extra`` are inches for the rest of
        the figure. Panels of fixed aspect (pictures, maps) want ``layout="compressed"``, which closes the
        gaps between them.
        """
        if ax is not None:
            given = [ax] if isinstance(ax, Axes) else list(np.ravel(ax))
            if len(given) != panels:
                raise InputError(f"this display has {panels} panels: pass as many axes, got {len(given)}")
            self.figure_ = given[0].figure
            self.ax_ = given[0] if panels == 1 else np.array(given, dtype=object)
            return given
        per_row = min(panels, per_row or panels)
        rows = -(-panels // per_row)
        width = figure_width(columns)
        ratios = [ratio] * rows if isinstance(ratio, float | int) else list(ratio)
        size = (width, sum(ratios) * width / per_row + extra)
        self.figure_, grid = plt.subplots(
            rows, per_row, figsize=size, squeeze=False, layout=layout, height_ratios=ratios, **subplots
        )
        flat = list(grid.flat)
        for empty in flat[panels:]:
            empty.remove()
        self.ax_ = flat[0] if panels == 1 else np.array(flat[:panels], dtype=object)
        return flat[:panels]


def picture(image: Any) -> np.ndarray:
    """A PIL image as an RGB array (rows, cols, 3) in 0..1, small enough for a figure."""
    image = image.convert("RGB")
    image.thumbnail((_CANVAS, _CANVAS))  # convert() has made a copy
    return np.asarray(image, dtype=np.float64) / 255


def paint(values: np.ndarray, layout: TokenLayout, shape: tuple[int, int], thumbnail: bool = False) -> np.ndarray:
    """Lay (N,) token values over the picture.

    Parameters
    ----------
    shape : (rows, cols) of the picture.
    thumbnail : paint the thumbnail's tokens instead of the tiles'; they show the same place twice.

    Returns
    -------
    ndarray
        (rows, cols), NaN where no token lies; cells that overlap are averaged.
    """
    rows, cols = shape
    total, count = np.zeros(shape), np.zeros(shape)
    x0, y0, x1, y1 = (np.rint(layout.boxes * [cols, rows, cols, rows]).astype(int).clip(0)).T
    for i in np.flatnonzero(layout.thumbnail == thumbnail):
        total[y0[i] : y1[i], x0[i] : x1[i]] += values[i]
        count[y0[i] : y1[i], x0[i] : x1[i]] += 1
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, total / count, np.nan)


def draw_box(ax: Axes, box: Box, shape: tuple[int, int], size: tuple[int, int], look: Mapping[str, Any]) -> Rectangle:
    """Outline a box (pixels of the original image of ``size`` = (width, height)) on a picture of ``shape`` =
    (rows, cols).
    """
    sx, sy = shape[1] / size[0], shape[0] / size[1]
    patch = Rectangle(
        (box.x0 * sx - 0.5, box.y0 * sy - 0.5),
        box.width * sx,
        box.height * sy,
        fill=False,
        linewidth=1.1,
        zorder=5,
        **look,
    )
    # a white rim: visible on any picture
    patch.set_path_effects([Stroke(linewidth=2.2, foreground="white"), Normal()])
    return ax.add_patch(patch)


def ratio_ticks(limit: float) -> tuple[list[float], list[str]]:
    """At most five ticks of a log2 axis of ratios within +-limit, and labels such as 0.5x or 1/16x."""
    step = next((s for s in (0.25, 0.5, 1.0, 2.0, 4.0) if limit / s < 2.5), 8.0)
    ticks = [float(t) for t in np.arange(-np.floor(limit / step), np.floor(limit / step) + 1) * step]
    return ticks, [(f"1/{2**-t:g}" if t <= -3 else f"{2**t:.3g}") + "\N{MULTIPLICATION SIGN}" for t in ticks]
