"""Attention laid over the image, before and after the positional bias is removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from biaslab.core.boxes import Box
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.figures.display import TARGET, Display, draw_box, image_array, lay_over, paint, ratio_ticks
from biaslab.figures.styling import DIVERGING, SEQUENTIAL, style

if TYPE_CHECKING:
    from biaslab.profiles import Profile

__all__ = ["AttentionDisplay"]


_UNITS = {
    "ratio": "relative to its position",
    "log": "log ratio to its position",
    "subtract": "above its position (1 = uniform)",
    "zscore": "standard deviations",
}


class AttentionDisplay(Display):
    """A row per image: attention on the left, debiased attention on the right, the target outlined.

    Attention is drawn relative to uniform attention on a sequential scale from 0 to its 99th percentile; the
    debiased score on a diverging scale centred where a token draws just what its position always draws (1 for
    a ratio, 0 otherwise; ratios are drawn by their logarithm).

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
            One per image, written into its corner.
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
        ratios = [image.shape[0] / image.shape[1] + 0.2 for image in self.images]
        with style():
            axes = self._axes(ax, 2 * len(self.images), per_row=2, ratio=ratios, extra=0.35, layout="compressed")
            for i, image in enumerate(self.images):
                self._row(axes[2 * i : 2 * i + 2], i, image, last=i == len(self.images) - 1)
            axes[0].set_title("attention" + ("" if self.layer is None else f", layer {self.layer}"))
            axes[1].set_title(f"debiased ({self.debias})")
        return self

    def _row(self, axes: Sequence[Axes], i: int, image: np.ndarray, last: bool) -> None:
        layout, target, part = self.layouts[i], self.targets[i], self.data[self.data["image"] == i]
        shape = image.shape[:2]
        raw = part["attention"].to_numpy() / part["attention"].mean()
        after = part["debiased"].to_numpy()
        if self.debias == "ratio":
            after = np.log2(np.maximum(after, 1e-6))
        elif self.debias == "subtract":
            after = after / part["attention"].mean()
        top = max(float(np.quantile(raw, 0.99)), 1e-6)
        limit = max(float(np.quantile(np.abs(after), 0.98)), 1e-6)
        scales = ((raw, SEQUENTIAL, Normalize(0, top)), (after, DIVERGING, Normalize(-limit, limit)))
        for ax, (values, colours, norm) in zip(axes, scales, strict=True):
            drawn = lay_over(ax, image, paint(values, layout, shape), colours, norm)
            if target is not None:
                draw_box(ax, target, shape, layout.size, TARGET)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
            bar = ax.figure.colorbar(drawn, ax=ax, location="bottom", fraction=0.05, pad=0.03, aspect=22)
            bar.outline.set_linewidth(0.4)
            bar.ax.tick_params(labelsize=6, length=2, pad=1)
            if colours == DIVERGING and self.debias == "ratio":
                ticks, labels = ratio_ticks(limit)
                bar.set_ticks(ticks, labels=labels)
            if last:
                bar.set_label(
                    "relative to uniform attention" if colours == SEQUENTIAL else _UNITS[self.debias], fontsize=7
                )
        if self.titles[i]:
            white = {"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 1.5}
            axes[0].text(0.02, 0.03, self.titles[i], transform=axes[0].transAxes, fontsize=6, bbox=white, zorder=6)
