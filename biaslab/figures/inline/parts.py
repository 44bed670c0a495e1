"""What drawings of values are made of: escaped text, small images, maps of a pixel per token, tables.

No script, no style sheet, no colour of text or ground: a drawing is light or dark as the notebook is.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from matplotlib.colors import Normalize
from PIL import Image, ImageDraw

from biaslab._util.notebook import Drawing
from biaslab.core.boxes import Box
from biaslab.core.frames import FramesLayout
from biaslab.core.layout import TokenLayout
from biaslab.figures.display import TARGET, image_array, paint
from biaslab.figures.kept_display import faded
from biaslab.figures.profile_display import raster
from biaslab.figures.report.packing import picture_uri
from biaslab.figures.styling import DIVERGING, SEQUENTIAL

__all__ = [
    "MOST", "boxed", "drawn", "facts", "figure", "grid_text", "heat", "line", "map_png", "masked", "overlaid", "placed",
    "png_uri", "ratio_png", "row", "table", "with_box",
]  # fmt: skip

#: images, maps or layers that a drawing holds at most
MOST = 6
_SIDE, _BYTES = 224, 9_000  # of an image


def line(*parts: Any) -> Markup:
    """Write parts of text in one line, divided by dots."""
    return Markup(" \N{MIDDLE DOT} ").join(escape(part) for part in parts if part not in ("", None))


def facts(title: str, rows: Iterable[tuple[str, Any]]) -> str:
    """Write names and values, one pair a line, below a title."""
    cells = Markup("").join(
        Markup('<tr><th style="text-align: left">{}</th><td style="text-align: left">{}</td></tr>').format(name, value)
        for name, value in rows
        if value not in ("", None)
    )
    return Markup("<div><b>{}</b><table>{}</table></div>").format(title, cells)


def figure(uri: str, caption: Any, *, width: int, alt: str, crisp: bool = False) -> Markup:
    """Put an image over its caption; ``crisp`` for maps of a pixel per token."""
    size = f"width: {width}px; image-rendering: pixelated" if crisp else f"max-height: {4 * width // 3}px"
    return Markup(
        '<figure style="display: inline-block; margin: 0 8px 8px 0; vertical-align: top; width: {}px">'
        '<img src="{}" alt="{}" style="max-width: 100%; {}">'
        '<figcaption style="font-size: 85%; overflow-wrap: anywhere">{}</figcaption></figure>'
    ).format(width, uri, alt, size, caption)


def row(head: Any, figures: Sequence[Markup], *, left_out: int = 0) -> str:
    """Put figures side by side below a line."""
    more = Markup("<div>and {} more</div>").format(left_out) if left_out else Markup("")
    return Markup("<div><div>{}</div>{}{}</div>").format(head, Markup("").join(figures), more)


def table(frame: pd.DataFrame, head: Any, *, rows: int = 20) -> str:
    """Write the first rows of a table below a line; cells are escaped."""
    shown = frame.head(rows).astype(object)
    shown = shown.where(shown.notna(), "")
    text = shown.to_html(index=False, border=0, float_format="{:.3g}".format, escape=True)
    more = Markup("<div>and {:,} more rows</div>").format(len(frame) - rows) if len(frame) > rows else ""
    return Markup('<div><div>{}</div><div style="overflow-x: auto">{}</div>{}</div>').format(head, Markup(text), more)


def png_uri(png: bytes) -> str:
    """Write a PNG as a ``data:`` address."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def heat(values: np.ndarray, *, colours: str = SEQUENTIAL, low: float = 0.0, high: float | None = None) -> bytes:
    """Paint numbers as PNG, a pixel each.

    Parameters
    ----------
    values : (rows, cols) array
        NaN is transparent.
    colours : str
        Name of a colour map.
    low, high : float
        Values of its ends; by default 0 and the 99th percentile.

    Returns
    -------
    bytes

    Examples
    --------
    >>> heat(np.array([[0.0, 1.0]]))[1:4]
    b'PNG'
    """
    known = values[np.isfinite(values)]
    high = (float(np.quantile(known, 0.99)) if len(known) else 1.0) if high is None else high
    painted = mpl.colormaps[colours](Normalize(low, max(high, low + 1e-12))(np.ma.masked_invalid(values)), bytes=True)
    painted[~np.isfinite(values), 3] = 0
    return _png(Image.fromarray(painted))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def placed(values: np.ndarray, layout: TokenLayout) -> np.ndarray:
    """Put token values where they lie among the rows and columns of all tiles; of a thumbnail where there is no tile.

    Returns
    -------
    (rows, cols) array
        NaN where no token lies.
    """
    down, across = raster(layout)
    tiles = ~layout.thumbnail if not layout.thumbnail.all() else layout.thumbnail
    out = np.full((int(down[tiles].max()) + 1, int(across[tiles].max()) + 1), np.nan)
    out[down[tiles], across[tiles]] = values[tiles]
    return out


def map_png(values: np.ndarray, layout: TokenLayout) -> bytes:
    """Paint amounts of attention, one per token, from 0."""
    return heat(placed(np.asarray(values, dtype=np.float64), layout))


def ratio_png(values: np.ndarray, layout: TokenLayout, *, limit: float = 2.0) -> bytes:
    """Paint ratios to the mean, one per token: blue below, red above, in steps of doubling up to 2 ** limit."""
    ratio = np.asarray(values, dtype=np.float64) / max(float(np.mean(values)), 1e-12)
    logs = np.log2(np.maximum(placed(ratio, layout), 1e-6))
    return heat(logs, colours=DIVERGING, low=-limit, high=limit)


def with_box(image: Image.Image, boxes: Iterable[Box]) -> str:
    """Draw boxes into an image, as a ``data:`` address of a small JPEG."""
    return picture_uri(boxed(image, boxes), side=_SIDE, limit=_BYTES)


def boxed(image: Image.Image, boxes: Iterable[Box]) -> Image.Image:
    """Draw boxes into a small copy of an image, with a white rim that is seen on any ground."""
    small = image.convert("RGB")
    small.thumbnail((2 * _SIDE, 2 * _SIDE))
    pen = ImageDraw.Draw(small)
    scale = small.width / image.width
    for box in boxes:
        x0, y0, x1, y1 = (v * scale for v in box.as_tuple())
        if x1 < x0 or y1 < y0:
            continue  # corners in the wrong order: there is nothing to outline
        pen.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline="white", width=5)
        pen.rectangle((x0, y0, x1, y1), outline=TARGET["edgecolor"], width=3)
    return small


def overlaid(image: Image.Image, values: np.ndarray, layout: TokenLayout) -> str:
    """Lay amounts of attention over an image in grey, as a ``data:`` address of a small JPEG."""
    grey = image.convert("L").convert("RGB")
    grey.thumbnail((_SIDE, _SIDE))
    over = paint(np.asarray(values, dtype=np.float64), layout, (grey.height, grey.width))
    with Image.open(io.BytesIO(heat(over))) as opened:
        painted = np.asarray(opened.convert("RGBA"), dtype=np.float64)
    share = 0.55 * painted[..., 3:] / 255
    mixed = (1 - share) * np.asarray(grey, dtype=np.float64) + share * painted[..., :3]
    return picture_uri(Image.fromarray(mixed.round().astype(np.uint8)), side=_SIDE, limit=_BYTES)


def masked(image: Image.Image, kept: np.ndarray, layout: TokenLayout) -> str:
    """Fade what no kept token shows, as a ``data:`` address of a small JPEG."""
    left = faded(image_array(image), layout, kept)
    return picture_uri(Image.fromarray((255 * left).round().astype(np.uint8)), side=_SIDE, limit=_BYTES)


def grid_text(layout: TokenLayout) -> str:
    """Say how the tokens of an image lie."""
    tiles = f", {layout.tiles[0]} x {layout.tiles[1]} tiles" if layout.tiles != (1, 1) else ""
    frames = f", {layout.n_frames} frames" if isinstance(layout, FramesLayout) else ""
    thumbnail = " and a thumbnail" if layout.thumbnail.any() else ""
    return f"{layout.n:,} tokens, {layout.grid[0]} x {layout.grid[1]}{tiles}{frames}{thumbnail}"


def drawn(html: str, png: bytes | None = None) -> Drawing:
    """Make a drawing of text that may be `Markup`."""
    return Drawing(str(html), png)
