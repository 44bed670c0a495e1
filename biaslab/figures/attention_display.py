"""Attention laid over the picture, before and after the positional bias is removed."""

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
from biaslab.figures.display import TARGET, Display, draw_box, paint, picture, ratio_ticks
from biaslab.figures.style import DIVERGING, SEQUENTIAL, style

if TYPE_CHECKING:
    from biaslab.profiles import Profile

__all__ = ["AttentionDisplay"]


_UNITS = {
    "ratio": "relative to its position",
    "log": "log ratio to its position",
    "subtract": "above its position, in even shares",
    "zscore": "standard deviations",
}


class AttentionDisplay(Display):
    """A row per picture: attention on the left, debiased attention on the right, the target outlined.

    Attention is drawn relative to an even share on a sequential scale from 0 to its 99th percentile; the
    debiased score on a diverging scale centred where a token draws just what its position always draws (1 for
    a ratio, 0 otherwise; ratios are drawn by their logarithm).

    ``data`` has a line per picture and token: image, token, tile, row, col, thumbnail, attention, debiased,
    on_target (share of the token's cell that the target box covers).
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
        images : PIL image, or several; likewise ``layouts``, ``attention``, ``targets`` and ``titles``.
        attention : per image (N,), or (..., N) whose leading axes (heads, queries) are averaged first.
        profile, layer : fitted profile, or one per image (each fitted without it), and the layer the attention comes
            from.
        debias : debias operation, a key of ``biaslab.profiles.DEBIAS``.

        Raises
        ------
        InputError
            Lists of different length, or attention that does not have the layout's tokens.
        """
        import torch

        from biaslab.attention import debiasing

        if isinstance(layouts, TokenLayout):
            images, layouts, attention = [images], [layouts], [attention]
            targets, titles = [targets], [titles or ""]
        targets = [None] * len(layouts) if targets is None else list(targets)
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
            maps = [f(layout, layer).mean(0) for f in (own.expected, own.std)]
            after = debiasing.debias(raw, *maps, operation=debias, eps=eps)
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
        data, drawn = pd.concat(tables, ignore_index=True), [picture(x) for x in images]
        return cls(data, drawn, list(layouts), targets, titles, debias, layer, provenance=profiles[0].provenance_)

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> AttentionDisplay:
        """Draw two panels per picture."""
        ratios = [image.shape[0] / image.shape[1] + 0.2 for image in self.images]
        with style():
            axes = self._axes(ax, 2 * len(self.images), per_row=2, ratio=ratios, extra=0.35, layout="compressed")
            for i, image in enumerate(self.images):
                self._row(axes[2 * i : 2 * i + 2], i, image, last=i == len(self.images) - 1)
            axes[0].set_title("attention" + ("" if self.layer is None else f", layer {self.layer}"))
            axes[1].set_title(f"debiased ({self.debias})")
        return self

    def _row(self, axes: Sequence[Axes], i: int, image: np.ndarray, last: bool) -> None:
        layout, part = self.layouts[i], self.data[self.data["image"] == i]
        shape = image.shape[:2]
        raw = part["attention"].to_numpy() / part["attention"].mean()
        after = part["debiased"].to_numpy()
        if self.debias == "ratio":
            after = np.log2(np.maximum(after, 1e-6))
        elif self.debias == "subtract":
            after = after / part["attention"].mean()
        top = max(float(np.quantile(raw, 0.99)), 1e-6)
        limit = max(float(np.quantile(np.abs(after), 0.98)), 1e-6)
        grey = np.repeat(
            (0.3 + 0.7 * image.mean(axis=2))[..., None], 3, axis=2
        )  # colour then belongs to attention alone
        scales = ((raw, SEQUENTIAL, Normalize(0, top)), (after, DIVERGING, Normalize(-limit, limit)))
        for ax, (values, colours, norm) in zip(axes, scales, strict=True):
            ax.imshow(grey)
            laid = paint(values, layout, shape)
            # the stronger, the more opaque: where nothing stands out the picture stays visible
            strength = np.clip(np.abs(np.nan_to_num(laid)) / norm.vmax, 0, 1)
            drawn = ax.imshow(laid, cmap=colours, norm=norm, alpha=0.12 + 0.68 * strength)
            if self.targets[i] is not None:
                draw_box(ax, self.targets[i], shape, layout.size, TARGET)
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
                bar.set_label("relative to an even share" if colours == SEQUENTIAL else _UNITS[self.debias], fontsize=7)
        if self.titles[i]:
            white = {"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 1.5}
            axes[0].text(0.02, 0.03, self.titles[i], transform=axes[0].transAxes, fontsize=6, bbox=white, zorder=6)
