"""What a conditional profile foresees of one image and question, what is kept, what the model then attends to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from biaslab.core.boxes import Box
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.figures.display import TARGET, Display, draw_box, image_array, lay_over, model_name, paint
from biaslab.figures.fitting import snug, title_above, wrapped
from biaslab.figures.kept_display import KEPT, THUMBNAIL, cells, faded, outline, quoted, selected_tokens
from biaslab.figures.styling import SEQUENTIAL, figure_width, style

if TYPE_CHECKING:
    from biaslab.profiles.lookahead.foresight import Foresight

__all__ = ["RelevanceDisplay"]

_TOP = 99  # percentile of a map that is drawn in the fullest colour


class RelevanceDisplay(Display):
    r"""The image, the relevance foreseen before the decoder runs, the model's own later attention, the tokens kept.

    Both maps are in standard deviations above the image's mean, what lies below it is left blank; above the later
    attention stands its correlation with what was foreseen. The panel of the later attention is there where it is
    given, that of the kept tokens likewise.

    ``data`` has a line per token: token, tile, row, col, thumbnail, relevance, attention (both standardised; NaN
    where not given), kept, on_target (share of the cell that the target covers).

    Examples
    --------
    >>> import matplotlib as mpl, matplotlib.pyplot as plt
    >>> mpl.use("Agg")
    >>> from PIL import Image
    >>> layout = TokenLayout.raster(4, 4, size=(64, 64), family="internvl")
    >>> display = RelevanceDisplay.from_relevance(
    ...     Image.new("RGB", (64, 64)), layout, np.arange(16.0), attention=np.arange(16.0) ** 2, kept=[14, 15],
    ...     expression="the red ball",
    ... ).plot()
    >>> [panel.get_title() for panel in display.ax_]
    ['image', 'foreseen\nbefore the decoder', 'attended to later\nr = 0.96', 'kept\n2 of 16 tokens']
    >>> plt.close(display.figure_)
    """

    def __init__(
        self, data: pd.DataFrame, image: np.ndarray, layout: TokenLayout, target: Box | None, expression: str | None,
        heads: str = "", *, provenance: Any,
    ) -> None:  # fmt: skip
        super().__init__(data, provenance)
        self.image, self.layout, self.target, self.expression, self.heads = image, layout, target, expression, heads

    @classmethod
    def from_foresight(
        cls,
        image: Any,
        foresight: Foresight,
        *,
        profile: Any,
        kept: Any = None,
        target: Box | None = None,
        expression: str | None = None,
    ) -> RelevanceDisplay:
        """Take what `biaslab.profiles.lookahead.foresight.foresee` found.

        Parameters
        ----------
        image : PIL image
            The one that was shown.
        foresight : Foresight
        profile : LookaheadProfile
            That foresaw it.
        kept, target, expression
            As of `from_relevance`.

        Returns
        -------
        RelevanceDisplay
        """
        return cls.from_relevance(
            image, foresight.layout, foresight.relevance, attention=foresight.attention, kept=kept, target=target,
            expression=expression, heads=profile.teacher.names, model=profile.provenance_,
        )  # fmt: skip

    @classmethod
    def from_relevance(
        cls,
        image: Any,
        layout: TokenLayout,
        relevance: Any,
        *,
        attention: Any = None,
        kept: Any = None,
        target: Box | None = None,
        expression: str | None = None,
        heads: str = "",
        model: Any = None,
    ) -> RelevanceDisplay:
        """Take the relevance of each token of one image.

        Parameters
        ----------
        image : PIL image
            The one that was shown.
        layout : TokenLayout
            Of its tokens.
        relevance : array-like
            (N,), as `biaslab.LookaheadProfile.relevance` gives it.
        attention : array-like, optional
            (N,), what the model attends to later, on any scale.
        kept : Selection or sequence of int, optional
            The tokens that are kept.
        target : Box, optional
            Of the expression, in pixels of the original image.
        expression : str, optional
            Shown above the panels.
        heads : str, optional
            Whose attention it is, for the title of its panel.
        model : VLM, mapping or str, optional
            What it comes from: the figure of a rehearsal says so.

        Returns
        -------
        RelevanceDisplay

        Raises
        ------
        InputError
            Values for another number of tokens, or a token outside the layout.
        """
        maps = {"relevance": relevance, "attention": attention}
        values = {name: _standardised(own, layout.n, name) for name, own in maps.items()}
        tokens = selected_tokens(() if kept is None else kept, layout)
        data = pd.DataFrame(
            {
                "token": np.arange(layout.n), "tile": layout.tile, "row": layout.row, "col": layout.col,
                "thumbnail": layout.thumbnail, **values, "kept": np.isin(np.arange(layout.n), tokens),
                "on_target": np.nan if target is None else layout.overlap(target),
            }
        )  # fmt: skip
        return cls(data, image_array(image), layout, target, expression, heads, provenance=model)

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> RelevanceDisplay:
        """Draw two to four panels in a row.

        Parameters
        ----------
        ax : sequence of Axes, optional
            One per panel; default a new figure.

        Returns
        -------
        RelevanceDisplay
            Self.
        """
        later, chosen = self.data["attention"].notna().any(), self.data["kept"].any()
        shape = self.image.shape[:2]
        with style():
            axes = self._axes(
                ax, 2 + int(later) + int(chosen), columns=2 if later or chosen else 1,
                ratio=shape[0] / shape[1] + 0.28, extra=0.15 if self.expression else 0.0, layout="compressed",
            )  # fmt: skip
            panels = iter(axes)
            self._bare(next(panels), self.image, "image" if self.target is None else "image\ntarget outlined")
            self._map(next(panels), "relevance", "foreseen\nbefore the decoder")
            if later:
                r = np.corrcoef(self.data["relevance"], self.data["attention"])[0, 1]
                heads = f", r = {r:.2f}\n{self.heads}" if self.heads else f"\nr = {r:.2f}"
                self._map(next(panels), "attention", f"attended to later{heads}")
            if chosen:
                panel, tokens = next(panels), np.flatnonzero(self.data["kept"])
                whole = self.layout.thumbnail[tokens]
                title = "kept (dotted: thumbnail)" if whole.any() else "kept"
                title += f"\n{len(tokens)} of {self.layout.n} tokens"
                self._bare(panel, faded(self.image, self.layout, tokens[~whole]), title)
                for some, look in ((tokens[~whole], KEPT), (tokens[whole], THUMBNAIL)):
                    outline(panel, cells(self.layout, some, shape), look)
            if ax is None:
                if title := ": ".join(t for t in (quoted(self.expression), model_name(self.source)) if t):
                    title_above(self._drawn_figure(), title)
                snug(self._drawn_figure(), axes)
        return self

    def _map(self, ax: Axes, name: str, title: str) -> None:
        values = self.data[name].to_numpy()
        drawn_maps = self.data[["relevance", "attention"]].dropna(axis=1, how="all")
        top = max(*(float(np.percentile(drawn_maps[c], _TOP)) for c in drawn_maps), 1e-6)  # one scale for both
        shape = self.image.shape[:2]
        drawn = lay_over(ax, self.image, paint(values.clip(0), self.layout, shape), SEQUENTIAL, Normalize(0, top))
        self._bare(ax, None, title)
        bar = ax.figure.colorbar(drawn, cax=ax.inset_axes((0.0, -0.075, 1.0, 0.035)), orientation="horizontal")
        bar.outline.set_linewidth(0.4)
        bar.ax.tick_params(labelsize=6, length=2, pad=1)
        bar.set_label("sd above the mean", fontsize=6, labelpad=1)

    def _bare(self, ax: Axes, image: np.ndarray | None, title: str) -> None:
        shape = self.image.shape[:2]
        if image is not None:
            ax.imshow(image)
        if self.target is not None:
            draw_box(ax, self.target, shape, self.layout.size, TARGET)
        ax.set(xticks=[], yticks=[], xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5))
        ax.spines[:].set_visible(False)
        wide = self.data["attention"].notna().any() or self.data["kept"].any()
        count = 2 + int(self.data["attention"].notna().any()) + int(self.data["kept"].any())
        room = figure_width(2 if wide else 1) / count - 0.06 if self._own else np.inf
        ax.set_title("\n".join(wrapped(line, room, 7) for line in title.split("\n")), fontsize=7, pad=3)


def _standardised(values: Any, n: int, name: str) -> np.ndarray:
    if values is None:
        return np.full(n, np.nan)
    values = values.detach().cpu() if hasattr(values, "detach") else values
    values = np.asarray(values, dtype=np.float64).reshape(-1)
    if len(values) != n:
        raise InputError(f"{name} covers {len(values)} tokens but the layout has {n}")
    return (values - values.mean()) / max(float(values.std()), 1e-9)
