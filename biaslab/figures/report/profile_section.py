"""The profiles of a run: the expected attention of every visual position as small maps, and their cards."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from PIL import Image

from biaslab._util.number_text import count_text
from biaslab.core.layout import TokenLayout
from biaslab.figures.layers import evenly
from biaslab.figures.report.cards import card_html
from biaslab.figures.report.page import Block
from biaslab.profiles import Profile
from biaslab.profiles.file import card

__all__ = ["colour_bar", "colour_limit", "heat_image", "profile_blocks"]

_LAYERS = 12
_LAYOUTS = 3
_SIDE = 96
_CLIPPED = 0.05  # share of the places whose colour may be that of the end of the scale: one sink must not hide the rest
_UNMEASURED = (
    "How much of the variance of attention this profile explains is not in its file, which is of an earlier version or "
    "of too few images: `biaslab fit-bias` measures it on held-out images, and a run with that profile shows it."
)


def profile_blocks(profiles: Mapping[str, Profile]) -> list[Block]:
    """Draw and describe profiles.

    Parameters
    ----------
    profiles : mapping of str to Profile
        Hash -> profile.

    Returns
    -------
    list of Block
        Per profile the maps of up to 12 layers of the layouts that most images have, mean over heads, relative to
        uniform attention over the image's tokens, on one scale of colours; then its card, with the variance that
        position explains.
    """
    blocks = []
    for name, profile in profiles.items():
        if profile.kind == "positional":
            blocks += _maps(name, profile)
            if not len(profile.variance_):
                blocks.append(Block("text", _UNMEASURED))
        blocks.append(Block("card", card_html(card(profile)), ""))
    return blocks


def _maps(name: str, profile: Profile) -> list[Block]:
    layers = evenly(profile.layers_, _LAYERS)
    frequent = sorted(profile.layouts_, key=lambda key: -profile.counts_.get(key, 0))[:_LAYOUTS]
    relative: dict[tuple[str, int], np.ndarray] = {}
    for key in frequent:
        for layer in layers:
            expected = profile.expected(profile.layouts_[key], layer).numpy().mean(0)
            relative[key, layer] = expected / expected.mean()
    limit = colour_limit(list(relative.values()))
    blocks = []
    for key in frequent:
        drawn = []
        for layer in layers:
            values = relative[key, layer]
            where = f"layer {layer}: {values.min():.2f} to {values.max():.2f} times uniform attention"
            image = heat_image(values, profile.layouts_[key], label=f"expected attention, {where}", limit=limit)
            drawn.append((where, image))
        n = count_text(profile.counts_.get(key, 0), "image")
        blocks.append(Block("figures", drawn, f"{profile.name} profile {name}, layout {key}, {n}"))
    said = f"{_of(layers, profile.layers_, 'layer')}, {_of(frequent, list(profile.layouts_), 'layout')}."
    if len(frequent) < len(profile.layouts_):
        said += " Layouts are those of the most calibration images."
    return [*blocks, Block("figures", [("times uniform attention, of all these maps", colour_bar(limit))]),
            Block("text", f"Drawn: {said}")]  # fmt: skip


def _of(shown: Sequence[object], there: Sequence[object], what: str) -> str:
    if len(shown) < len(there):
        return f"{len(shown)} of {count_text(len(there), what)}"
    return f"all {count_text(len(there), what)}" if len(there) > 1 else f"the one {what}"


def colour_limit(maps: Sequence[np.ndarray]) -> float:
    """Choose the end of the colours of several maps: a natural logarithm, beyond which 5 % of their places lie.

    Parameters
    ----------
    maps : sequence of (N,) arrays
        Ratios: 1 is neutral.

    Returns
    -------
    float
        Above 0.

    Examples
    --------
    >>> import numpy as np
    >>> from biaslab.figures.report.profile_section import colour_limit
    >>> round(float(np.exp(colour_limit([np.array([0.5, 1.0, 2.0])]))), 1)
    2.0
    """
    logs = np.abs(_logs(np.concatenate([np.asarray(values, float) for values in maps])))
    return max(float(np.quantile(logs, 1 - _CLIPPED, method="higher")), 0.01)


def heat_image(values: np.ndarray, layout: TokenLayout, *, label: str, limit: float) -> Markup:
    """Draw values of tokens where these lie in the image, tiles only, as a PNG of few bytes.

    Parameters
    ----------
    values : (N,) array
        Ratios: 1 is neutral.
    layout : TokenLayout
    label : str
        For screen readers.
    limit : float
        Of `colour_limit`.

    Returns
    -------
    Markup
        ``<img>``; blue below 1, red above, on a log scale.
    """
    tokens = ~layout.thumbnail
    size = (_SIDE, max(round(_SIDE * layout.size[1] / layout.size[0]), 8))
    x, y = ((np.arange(n) + 0.5) / n for n in size)
    shown = np.full((size[1], size[0]), np.nan)
    for (x0, y0, x1, y1), value in zip(layout.boxes[tokens], np.asarray(values)[tokens], strict=True):
        rows, columns = (y >= y0) & (y < y1), (x >= x0) & (x < x1)
        shown[np.ix_(rows, columns)] = value
    colours = _colours(_logs(shown) / limit)
    colours[np.isnan(shown)] = (128, 128, 128)
    file = io.BytesIO()
    Image.fromarray(colours).save(file, "PNG", optimize=True)
    address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
    return Markup('<img class="heat" alt="{}" src="{}">').format(label, address)


def colour_bar(limit: float) -> Markup:
    """Draw the scale of `heat_image` with the ratios at its ends and in the middle.

    Parameters
    ----------
    limit : float
        Of `colour_limit`.

    Returns
    -------
    Markup
        ``<svg>``.

    Examples
    --------
    >>> from biaslab.figures.report.profile_section import colour_bar
    >>> str(colour_bar(1.0)).count("<rect"), "0.37 or less" in colour_bar(1.0), "2.7 or more" in colour_bar(1.0)
    (41, True, True)
    """
    steps, step = 41, 6
    width = steps * step
    most = np.exp(limit)
    most_text = f"{most:.2g}" if most < 100 else f"{most:.0f}"
    texts = (
        (0, "start", f"{1 / most:.2g} or less"),
        (width / 2, "middle", "1"),
        (width, "end", f"{most_text} or more"),
    )
    label = f"colours from {texts[0][2]} by 1 to {texts[2][2]} times uniform attention"
    out = [f'<svg width="{width}" height="34" viewBox="0 0 {width} 34" role="img" aria-label="{escape(label)}">']
    for i, colour in enumerate(_colours(np.linspace(-1, 1, steps)).tolist()):
        out.append(f'<rect x="{step * i}" y="0" width="{step}" height="14" fill="rgb({",".join(map(str, colour))})"/>')
    for x, anchor, text in texts:
        out.append(f'<text x="{x:g}" y="29" text-anchor="{anchor}">{text}</text>')
    return Markup("".join([*out, "</svg>"]))


def _logs(ratios: np.ndarray) -> np.ndarray:
    return np.log(np.clip(ratios, 1e-6, None))


def _colours(shares: np.ndarray) -> np.ndarray:
    """Colour values from -1 to 1: (..., 3) bytes."""
    return mpl.colormaps["RdBu_r"](0.5 + 0.5 * np.clip(shares, -1, 1), bytes=True)[..., :3].copy()
