"""The profiles of a run: the expected attention of every visual position as small maps, and their cards."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from PIL import Image

from biaslab.core.layout import TokenLayout
from biaslab.figures.layers import evenly
from biaslab.figures.report.cards import card_html
from biaslab.figures.report.page import Block
from biaslab.profiles import Profile
from biaslab.profiles.file import card

__all__ = ["heat_image", "profile_blocks"]

_LAYERS = 12
_SIDE = 96


def profile_blocks(profiles: Mapping[str, Profile]) -> list[Block]:
    """Draw and describe profiles.

    Parameters
    ----------
    profiles : mapping of str to Profile
        Hash -> profile.

    Returns
    -------
    list of Block
        Per profile the maps of up to 12 layers, mean over heads, relative to uniform attention over the image's
        tokens; then its card.
    """
    blocks = []
    for name, profile in profiles.items():
        drawn = []
        key, layout = next(iter(profile.layouts_.items()))
        for layer in evenly(profile.layers_, _LAYERS) if not profile.conditional else []:
            expected = profile.expected(layout, layer).numpy().mean(0)
            relative = expected / expected.mean()
            where = f"layer {layer}: {relative.min():.2f} to {relative.max():.2f} times uniform attention"
            drawn.append((where, heat_image(relative, layout, label=f"expected attention, {where}")))
        if drawn:
            blocks.append(Block("figures", drawn, f"{profile.name} profile {name}, layout {key}"))
        blocks.append(Block("card", card_html(card(profile)), ""))
    return blocks


def heat_image(values: np.ndarray, layout: TokenLayout, *, label: str) -> Markup:
    """Draw values of tokens where these lie in the image, tiles only, as a PNG of few bytes.

    Parameters
    ----------
    values : (N,) array
        Ratios: 1 is neutral.
    layout : TokenLayout
    label : str
        For screen readers.

    Returns
    -------
    Markup
        ``<img>``; blue below 1, red above, on a log scale of its own.
    """
    tokens = ~layout.thumbnail
    size = (_SIDE, max(round(_SIDE * layout.size[1] / layout.size[0]), 8))
    x, y = ((np.arange(n) + 0.5) / n for n in size)
    shown = np.full((size[1], size[0]), np.nan)
    for (x0, y0, x1, y1), value in zip(layout.boxes[tokens], np.asarray(values)[tokens], strict=True):
        rows, columns = (y >= y0) & (y < y1), (x >= x0) & (x < x1)
        shown[np.ix_(rows, columns)] = value
    logs = np.log(np.clip(shown, 1e-6, None))
    extent = np.nanmax(np.abs(logs)) if np.isfinite(logs).any() else 0.0
    colours = mpl.colormaps["RdBu_r"](0.5 + 0.5 * logs / (extent or 1.0), bytes=True)
    colours[np.isnan(shown)] = (128, 128, 128, 255)
    file = io.BytesIO()
    Image.fromarray(colours[..., :3]).save(file, "PNG", optimize=True)
    address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
    return Markup('<img class="heat" alt="{}" src="{}">').format(label, address)
