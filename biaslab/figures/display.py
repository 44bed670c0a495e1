"""What all displays share: axes, and the small drawing helpers for maps laid over images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke

from biaslab._util.text import last_part
from biaslab._util.watermark import note_of, stamp_table
from biaslab.core.boxes import Box
from biaslab.core.images import load_image
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.figures.letters import lacking_is_said_once
from biaslab.figures.saving import png_bytes
from biaslab.figures.styling import figure_width

__all__ = ["ANSWER", "TARGET", "Display", "draw_box", "image_array", "lay_over", "model_name", "paint", "ratio_ticks"]

#: one look for the same thing in every figure
TARGET: dict[str, Any] = {"edgecolor": "#009E73", "linestyle": "-", "label": "target"}
ANSWER: dict[str, Any] = {"edgecolor": "#D55E00", "linestyle": "--", "label": "answer"}

_CANVAS = 448  # pixels of the longer side of images inside figures: enough at column width, small in the PDF


class Display:
    """Base of the figures: made by a ``from_...`` class method, drawn by ``plot``, which returns self.

    Making and drawing are two steps, other than in scikit-learn, whose ``from_...`` draws at once. A display holds the
    numbers of its figure (:attr:`data`), which one may read, save as CSV or hand on without any figure being made;
    where and how it is drawn is the caller's choice at the time of drawing: into axes of their own, inside
    ``with style("icml")`` for the width of that column, or twice. :func:`~biaslab.figures.save` and notebooks draw by
    themselves what is not drawn yet.

    Parameters
    ----------
    data : DataFrame
        The numbers that are drawn.
    provenance : object
        Where they come from: settings, a model or its name, or the table they were taken from. What comes from a
        rehearsal is stamped, here and thereby in every file of the figure.

    Attributes
    ----------
    data : DataFrame
        The numbers that are drawn.
    source : str
        Model, and of results the data set: what the files' metadata name.
    figure_ : matplotlib Figure
        After :meth:`plot`.
    ax_ : matplotlib Axes or ndarray of Axes
        After :meth:`plot`: one Axes, or an array of them when there are several panels.

    Examples
    --------
    >>> import matplotlib as mpl, matplotlib.pyplot as plt, pandas as pd
    >>> mpl.use("Agg")
    >>> from biaslab.figures import AurocDisplay
    >>> table = pd.DataFrame({"layer": [0, 1], "score": "raw", "auroc": [0.5, 0.7], "lo": 0.4, "hi": 0.8})
    >>> display = AurocDisplay.from_table(table)
    >>> display.data["auroc"].tolist(), display.figure_ is None
    ([0.5, 0.7], True)
    >>> _, axes = plt.subplots(1, 2)
    >>> display.plot(axes[1]).ax_ is axes[1]
    True
    >>> plt.close("all")
    """

    data: pd.DataFrame
    figure_: Figure | None = None
    ax_: Any = None
    _own = True  # whether the figure is the display's, not the caller's

    def __init__(self, data: pd.DataFrame, provenance: Any) -> None:
        self.data = stamp_table(data, provenance)
        self.source = _source(provenance)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "plot" in vars(cls):
            cls.plot = lacking_is_said_once(cls.plot)  # type: ignore[method-assign]

    def heading(self) -> str:
        """Say in a line what the figure shows, for the files' metadata: its kind, and the title that it was drawn with.

        Returns
        -------
        str

        Examples
        --------
        >>> import matplotlib as mpl, matplotlib.pyplot as plt, pandas as pd
        >>> mpl.use("Agg")
        >>> from biaslab.figures import AurocDisplay
        >>> table = pd.DataFrame({"layer": [0, 1], "score": "raw", "auroc": [0.5, 0.7]})
        >>> AurocDisplay.from_table(table, model="grounder").heading()
        'Auroc: grounder'
        >>> plt.close("all")
        """
        kind = "".join(f" {c.lower()}" if c.isupper() else c for c in type(self).__name__.removesuffix("Display"))
        figure = self._drawn_figure()
        panels = list(np.ravel(np.array(self.ax_, dtype=object)))
        said = figure.get_suptitle() or next((ax.get_title() for ax in panels if ax.get_title()), "")
        return ": ".join(text for text in (kind.strip().capitalize(), " ".join(said.split())) if text)

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> Display:
        """Draw in the style of the enclosing context.

        Parameters
        ----------
        ax : Axes or sequence of Axes, optional
            One per panel; default a new figure.

        Returns
        -------
        Display
            Self, with ``figure_`` and ``ax_``.

        Raises
        ------
        InputError
            Not as many axes as panels.
        """
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self.data):,} rows of {', '.join(map(str, self.data.columns[:6]))}>"

    def _repr_png_(self) -> bytes | None:
        """Show the figure where the display is the value of a notebook's cell; draw it if it was not drawn.

        Returns
        -------
        bytes or None
            PNG; None where the notebook shows the figure at the end of this cell anyway.
        """
        drawn = self.figure_ is not None
        figure = self._drawn_figure()
        # the inline backend shows, and then closes, what pyplot holds open: without this a figure would appear twice
        if drawn and "inline" in mpl.get_backend() and _is_open(figure):
            return None
        image = png_bytes(figure, note_of(self.data))
        if not drawn:
            plt.close(figure)
        return image

    def _drawn_figure(self) -> Figure:
        if self.figure_ is None:
            self.plot()
        return cast(Figure, self.figure_)

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
        """Take the caller's Axes, one per panel, or make new ones.

        ``ratio`` is height / width of a panel, or one per row of panels; ``extra`` are inches for the rest of
        the figure. Panels of fixed aspect (images, maps) want ``layout="compressed"``, which closes the
        gaps between them.
        """
        self._own = ax is None
        if ax is not None:
            own: list[Axes] = [ax] if isinstance(ax, Axes) else list(np.ravel(np.asarray(ax, dtype=object)))
            if len(own) != panels:
                raise InputError(f"this display has {panels} panels: pass as many axes, got {len(own)}")
            self.figure_ = cast(Figure, own[0].figure)
            self.ax_ = own[0] if panels == 1 else np.array(own, dtype=object)
            return own
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


def _source(provenance: Any) -> str:
    """Name what the numbers of a figure are from: the model, and of results the data set too."""
    if isinstance(provenance, str):
        return provenance
    if isinstance(provenance, pd.DataFrame):
        names = [provenance[name].dropna() for name in ("model", "dataset", "split") if name in provenance]
        return ", ".join(str(values.iloc[0]) for values in names if values.nunique() == 1)
    if isinstance(provenance, Mapping):
        return str(provenance.get("model", provenance.get("name", "")))
    return str(getattr(provenance, "name", "") or "")


def model_name(model: Any) -> str:
    """Name a model as a title does: the last part of a path or hub id; "" where it is not known."""
    name = model if isinstance(model, str) else _source(model)
    return last_part(name)


def _is_open(figure: Figure) -> bool:
    """Whether pyplot holds the figure; numbers of closed figures are used again."""
    number = getattr(figure, "number", None)
    return number is not None and plt.fignum_exists(number) and plt.figure(number) is figure


def image_array(image: Any) -> np.ndarray:
    """Convert an image of any kind into an RGB array (rows, cols, 3) in 0..1, small enough for a figure."""
    image = load_image(image).copy()
    image.thumbnail((_CANVAS, _CANVAS))
    return np.asarray(image, dtype=np.float64) / 255


def paint(values: np.ndarray, layout: TokenLayout, shape: tuple[int, int], thumbnail: bool = False) -> np.ndarray:
    """Lay token values over the image.

    Parameters
    ----------
    values : ndarray
        (N,), one per token.
    layout : TokenLayout
        Where the tokens lie.
    shape : tuple of int
        (rows, cols) of the image.
    thumbnail : bool
        Paint the thumbnail's tokens instead of the tiles'; they show the same place twice.

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


def lay_over(ax: Axes, image: np.ndarray, painted: np.ndarray, cmap: str, norm: Normalize) -> AxesImage:
    """Draw values over a grey image: the stronger, the more opaque, so that it shows where nothing stands out.

    Parameters
    ----------
    ax : Axes
    image : ndarray
        (rows, cols, 3) in 0..1.
    painted : ndarray
        (rows, cols), of `paint`.
    cmap : str
    norm : Normalize
        ``vmax`` is full strength.

    Returns
    -------
    AxesImage
        For a colour bar.
    """
    grey = (0.15 + 0.85 * image.mean(axis=2))[..., None]  # colour then belongs to the values alone
    ax.imshow(np.repeat(grey, 3, axis=2))
    strength = np.clip(np.abs(np.nan_to_num(painted)) / (norm.vmax or 1.0), 0, 1)
    return ax.imshow(painted, cmap=cmap, norm=norm, alpha=0.75 * strength)


def draw_box(ax: Axes, box: Box, shape: tuple[int, int], size: tuple[int, int], look: Mapping[str, Any]) -> Rectangle:
    """Outline a box on an image.

    Parameters
    ----------
    ax : Axes
        With the image.
    box : Box
        In pixels of the original image.
    shape : tuple of int
        (rows, cols) of the image that is drawn.
    size : tuple of int
        (width, height) of the original image, pixels.
    look : mapping
        Keyword arguments of matplotlib's Rectangle.

    Returns
    -------
    Rectangle
    """
    sx, sy = shape[1] / size[0], shape[0] / size[1]
    # an answer may lie outside; what lies at the edge is drawn whole
    x0, x1 = (min(max(x * sx, 0), shape[1]) for x in (box.x0, box.x1))
    y0, y1 = (min(max(y * sy, 0), shape[0]) for y in (box.y0, box.y1))
    patch = Rectangle(
        (x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, linewidth=1.1, zorder=5, clip_on=False, **look
    )
    # a white rim: visible on any image
    patch.set_path_effects([Stroke(linewidth=2.2, foreground="white"), Normal()])
    ax.add_patch(patch)
    return patch


def ratio_ticks(limit: float) -> tuple[list[float], list[str]]:
    """Choose at most five ticks of a log2 axis of ratios within +-limit; labels: 1/4x, 1x, 4x, or 0.84x, 1x, 1.19x."""
    step = next((s for s in (0.25, 0.5, 1.0, 2.0, 4.0) if limit / s < 2.5), 8.0)
    ticks = [float(t) for t in np.arange(-np.floor(limit / step), np.floor(limit / step) + 1) * step]
    whole = step >= 1  # one notation in a figure: fractions where all are powers of two, else decimals
    names = [(f"1/{2**-t:g}" if whole and t < 0 else f"{2**t:.3g}" if whole else f"{2**t:.2f}") for t in ticks]
    names = ["1" if t == 0 else name for t, name in zip(ticks, names, strict=True)]
    return ticks, [name + "\N{MULTIPLICATION SIGN}" for name in names]
