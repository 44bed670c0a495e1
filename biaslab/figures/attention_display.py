"""Attention laid over the image, before and after the positional bias is removed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from biaslab.core.boxes import Box
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.figures.display import TARGET, Display, draw_box, image_array, lay_over, paint, ratio_ticks
from biaslab.figures.fitting import inward_ticks, snug, title_above, wrapped
from biaslab.figures.styling import DIVERGING, SEQUENTIAL, SMALLEST, figure_width, style

if TYPE_CHECKING:
    from biaslab.profiles import Profile

__all__ = ["AttentionDisplay"]

_THICK = 0.07  # inches of a colour bar, at least
_TITLE, _NARROW = 8.0, 1.4  # points of the panels' titles, and inches of panels below which they are smaller
_UNITS = {
    "ratio": "relative to its position",
    "log": "log ratio to its position",
    "subtract": "above its position (1 = uniform)",
    "zscore": "standard deviations",
}


class AttentionDisplay(Display):
    """Two panels per image: attention on the left, debiased attention on the right, the target outlined.

    Attention is drawn relative to uniform attention on a sequential scale from 0 to its 99th percentile; the
    debiased score on a diverging scale centred where a token draws just what its position always draws (1 for
    a ratio, 0 otherwise; ratios are drawn by their logarithm). Both scales are those of all images, so that images can
    be compared. Several images stand side by side over the page.

    ``data`` has a line per image and token: image, token, tile, row, col, thumbnail, attention, debiased,
    on_target (share of the token's cell that the target box covers).

    Examples
    --------
    >>> import matplotlib as mpl, matplotlib.pyplot as plt
    >>> mpl.use("Agg")
    >>> from PIL import Image
    >>> from biaslab.maps.simulate import simulate
    >>> from biaslab.profiles import MeanProfile
    >>> layout = TokenLayout.raster(6, 6, size=(60, 60), family="internvl")
    >>> profile = MeanProfile().fit(simulate("bottom-heavy", {layout: 12}, layers=2).maps)
    >>> expected = profile.expected(layout, 1).mean(0)
    >>> display = AttentionDisplay.from_attention(
    ...     Image.new("RGB", (60, 60)), layout, 2 * expected, profile=profile, layer=1
    ... ).plot()
    >>> display.data["debiased"].round(1).unique()
    array([2.], dtype=float32)
    >>> plt.close(display.figure_)
    """

    def __init__(
        self,
        data: pd.DataFrame,
        images: list[np.ndarray],
        layouts: list[TokenLayout],
        targets: list[Box | None],
        titles: list[str],
        debias: str,
        layer: int | None = None,
        *,
        provenance: Any,
    ) -> None:
        super().__init__(data, provenance)
        self.images, self.layouts, self.targets, self.titles = images, layouts, targets, titles
        self.debias, self.layer = debias, layer

    @classmethod
    def from_attention(
        cls,
        images: Any,
        layouts: TokenLayout | Sequence[TokenLayout],
        attention: Any,
        *,
        profile: Profile | Sequence[Profile],
        layer: int,
        targets: Box | Sequence[Box | None] | None = None,
        titles: str | Sequence[str] | None = None,
        debias: str = "ratio",
        eps: float = 1e-7,
    ) -> AttentionDisplay:
        """Debias attention with a profile and keep both.

        Parameters
        ----------
        images : PIL image or list of PIL image
            What was seen.
        layouts : TokenLayout or sequence of TokenLayout
            One per image.
        attention : array-like or list of array-like
            Per image (N,), or (..., N) whose leading axes (heads, queries) are averaged first.
        profile : Profile or sequence of Profile
            Fitted, or one per image (each fitted without it).
        layer : int
            Where the attention comes from.
        targets : Box or sequence of Box, optional
            One per image, in its pixels; None where there is none.
        titles : str or sequence of str, optional
            One per image, written below it.
        debias : str
            Debias operation, a key of ``biaslab.profiles.DEBIAS``.
        eps : float
            Of the operation: keeps quotients and logarithms finite.

        Returns
        -------
        AttentionDisplay

        Raises
        ------
        InputError
            Lists of different length, or attention that does not have the layout's tokens.
        """
        import torch

        from biaslab.attention import debiasing

        if isinstance(layouts, TokenLayout):
            images, layouts, attention = [images], [layouts], [attention]
            targets, titles = [cast("Box | None", targets)], [str(titles or "")]
        targets = [None] * len(layouts) if targets is None else list(cast("Sequence[Box | None]", targets))
        titles = [""] * len(layouts) if titles is None else list(titles)
        profiles = list(profile) if isinstance(profile, Sequence) else [profile] * len(layouts)
        if len({len(x) for x in (images, layouts, attention, targets, titles, profiles)}) != 1:
            raise InputError(
                "images, layouts, attention, targets, titles and profiles must be lists of the same length"
            )
        tables = []
        for i, (layout, rows, target, own) in enumerate(zip(layouts, attention, targets, profiles, strict=True)):
            raw = torch.as_tensor(rows, dtype=torch.float32).cpu()
            if raw.shape[-1] != layout.n:
                raise InputError(f"attention covers {raw.shape[-1]} tokens but the layout has {layout.n}")
            raw = raw.reshape(-1, layout.n).mean(0)
            expected, std = (f(layout, layer).mean(0) for f in (own.expected, own.std))
            after = debiasing.debias(raw, expected, std, operation=debias, eps=eps)
            tables.append(
                pd.DataFrame(
                    {
                        "image": i,
                        "token": np.arange(layout.n),
                        "tile": layout.tile,
                        "row": layout.row,
                        "col": layout.col,
                        "thumbnail": layout.thumbnail,
                        "attention": raw.numpy(),
                        "debiased": after.numpy(),
                        "on_target": np.nan if target is None else layout.overlap(target),
                    }
                )
            )
        data, drawn = pd.concat(tables, ignore_index=True), [image_array(x) for x in images]
        return cls(data, drawn, list(layouts), targets, titles, debias, layer, provenance=profiles[0].provenance_)

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> AttentionDisplay:
        """Draw two panels per image.

        Parameters
        ----------
        ax : Axes or sequence of Axes, optional
            One per panel; default a new figure.

        Returns
        -------
        AttentionDisplay
            Self.
        """
        count = len(self.images)
        pairs = 1 if count == 1 else 3 if count % 3 == 0 or count > 4 else 2  # images side by side
        columns = 1 if count == 1 else 2
        with style():
            room = figure_width(columns) / (2 * pairs) - 0.06 if ax is None else np.inf
            below = [wrapped(title, room, SMALLEST) if title else "" for title in self.titles]
            tall = [image.shape[0] / image.shape[1] for image in self.images]
            rows = [max(tall[k : k + pairs]) + 0.3 for k in range(0, count, pairs)]
            axes = self._axes(
                ax, 2 * count, per_row=2 * pairs, columns=columns, ratio=rows, extra=0.8, layout="compressed"
            )
            scales = self._scales()
            for i, image in enumerate(self.images):
                drawn = self._pair(axes[2 * i : 2 * i + 2], i, image, scales)
                if below[i]:  # under the image: on it, it would cover what the words speak of
                    axes[2 * i].set_xlabel(below[i], fontsize=SMALLEST, labelpad=2)
                where = "" if self.layer is None else f", layer {self.layer}"
                if i < pairs:
                    size = _TITLE if room > _NARROW else SMALLEST
                    for panel, name in zip(
                        axes[2 * i :], (f"attention{where}", f"debiased ({self.debias})"), strict=False
                    ):
                        panel.set_title(name if i == 0 or ax is not None else name.split(",")[0], fontsize=size, pad=3)
            self._bars(axes, drawn, own=ax is None)
            if ax is None:
                model = PurePath(self.source).name
                title_above(self._drawn_figure(), ", ".join(t for t in (model, f"layer {self.layer}") if t))
                snug(self._drawn_figure(), axes)
        return self

    def _scales(self) -> tuple[tuple[str, Normalize], tuple[str, Normalize]]:
        """Choose one scale for the attention of all images and one for their debiased scores."""
        raw, after = self._values(self.data)
        top = max(float(np.quantile(raw, 0.99)), 1e-6)
        limit = max(float(np.quantile(np.abs(after), 0.98)), 1e-6)
        return (SEQUENTIAL, Normalize(0, top)), (DIVERGING, Normalize(-limit, limit))

    def _values(self, part: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Give what is drawn of both: attention relative to its image's mean, and the score, ratios as log2."""
        mean = part.groupby("image")["attention"].transform("mean").to_numpy()
        raw, after = part["attention"].to_numpy() / mean, part["debiased"].to_numpy()
        if self.debias == "ratio":
            after = np.log2(np.maximum(after, 1e-6))
        elif self.debias == "subtract":
            after = after / mean
        return raw, after

    def _pair(self, axes: Sequence[Axes], i: int, image: np.ndarray, scales: Any) -> list[Any]:
        layout, target, part = self.layouts[i], self.targets[i], self.data[self.data["image"] == i]
        shape, drawn = image.shape[:2], []
        for ax, values, (colours, norm) in zip(axes, self._values(part), scales, strict=True):
            drawn.append(lay_over(ax, image, paint(values, layout, shape), colours, norm))
            if target is not None:
                draw_box(ax, target, shape, layout.size, TARGET)
            ax.set(xticks=[], yticks=[], xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5))
            ax.spines[:].set_visible(False)
        return drawn

    def _bars(self, axes: Sequence[Axes], drawn: Sequence[Any], *, own: bool) -> None:
        """Draw a colour bar for attention and one for the score, under all panels or under two of the caller's."""
        fraction, aspect = self._bar_shape(axes) if own else (0.05, 22.0)
        for k, image in enumerate(drawn):
            ratio = k == 1 and self.debias == "ratio"
            last = len(axes) // 2 - 1
            under = [
                ax for i, ax in enumerate(axes) if (i % 2 == k if last < 1 or not own else self._half(i, axes) == k)
            ]
            bar = axes[0].figure.colorbar(
                image, ax=under if own else under[-1:], location="bottom", fraction=fraction,
                pad=0.03 if own else 0.14, aspect=aspect, shrink=0.9,
            )  # fmt: skip
            bar.outline.set_linewidth(0.4)
            ticks, names = ratio_ticks(image.norm.vmax) if ratio else _plain_ticks(image.norm)
            inward_ticks(bar, ticks, names)
            bar.set_label("relative to uniform attention" if k == 0 else _UNITS[self.debias], fontsize=7, labelpad=1)

    def _bar_shape(self, axes: Sequence[Axes]) -> tuple[float, float]:
        """Choose a bar's share of the height and its length over its thickness: low panels would make it short."""
        per_row = _per_row(axes)
        width = axes[0].figure.get_figwidth()  # type: ignore[union-attr]
        tall = [image.shape[0] / image.shape[1] * width / per_row for image in self.images]
        inches = sum(max(tall[i : i + per_row // 2]) for i in range(0, len(tall), per_row // 2))
        return max(0.05, _THICK / inches), 0.8 * width / 2 / max(_THICK, 0.05 * inches)

    @staticmethod
    def _half(i: int, axes: Sequence[Axes]) -> int:
        """Tell in which half of the figure a panel stands: the bars lie beside each other."""
        return int(2 * (i % _per_row(axes)) >= _per_row(axes))


def _per_row(axes: Sequence[Axes]) -> int:
    spec = axes[0].get_subplotspec()
    return spec.get_gridspec().ncols if spec is not None else 2


def _plain_ticks(norm: Normalize) -> tuple[list[float], list[str]]:
    """Choose at most five ticks of a linear scale."""
    low, high = float(norm.vmin or 0), float(norm.vmax or 1)
    ticks = [float(t) for t in MaxNLocator(nbins=4, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= t <= high]
    return ticks, [f"{t:g}" for t in ticks]
