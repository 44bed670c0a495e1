"""Attention on regions of the image, relative to their area."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from biaslab.core.layers import resolve_layers
from biaslab.core.layout import TokenLayout
from biaslab.diagnostics.log_maps import fold_means, head_names
from biaslab.diagnostics.registry import register
from biaslab.maps.protocol import Maps, expect_maps
from biaslab.stats.jackknife import jackknife_interval

__all__ = ["REGIONS", "attention_mass", "region_mask"]

REGIONS = ("border", "top", "bottom", "left", "right", "corners", "tile_border", "thumbnail")


def region_mask(layout: TokenLayout, region: str) -> np.ndarray | None:
    """Mark the tokens of a region.

    ``border``, ``top``, ``bottom``, ``left``, ``right``, ``corners`` are the outermost ring, rows, columns and their
    meeting points of the image's own raster (cells that show padding only do not count); ``tile_border`` is the ring
    of every tile, of images of several tiles; ``thumbnail`` is the thumbnail.

    Parameters
    ----------
    layout : TokenLayout
        Layout of N tokens.
    region : str
        One of :data:`REGIONS`.

    Returns
    -------
    ndarray or None
        (N,) bool; None if the layout has no such region, or nothing else.

    Examples
    --------
    >>> from biaslab import TokenLayout
    >>> from biaslab.diagnostics.measures.mass import region_mask
    >>> layout = TokenLayout.raster(6, 6, size=(336, 336), family="llava")
    >>> int(region_mask(layout, "border").sum())
    20
    >>> region_mask(layout, "thumbnail") is None
    True
    """
    if region == "thumbnail":
        mask = layout.thumbnail
    else:
        plane = ~layout.thumbnail & layout.in_image
        if not plane.any() or (region == "tile_border" and layout.tiles == (1, 1)):
            return None
        down, across = np.divmod(layout.tile, layout.tiles[1])
        whole = region != "tile_border"
        row = layout.row + whole * down * layout.grid[0]
        col = layout.col + whole * across * layout.grid[1]
        last = (row[plane].max(), col[plane].max()) if whole else (layout.grid[0] - 1, layout.grid[1] - 1)
        first = (row[plane].min(), col[plane].min()) if whole else (0, 0)
        side = {"top": row == first[0], "bottom": row == last[0], "left": col == first[1], "right": col == last[1]}
        if region == "corners":
            mask = (side["top"] | side["bottom"]) & (side["left"] | side["right"])
        elif region in side:
            mask = side[region]
        else:
            mask = side["top"] | side["bottom"] | side["left"] | side["right"]
        mask = mask & plane
    return mask if mask.any() and not mask.all() else None


@register("mass", "Attention share over area share of regions of the image")
def attention_mass(maps: Maps, *, layers: int | Iterable[int] | None = None, confidence: float = 0.95) -> pd.DataFrame:
    """Measure the share of visual attention that a region draws, over its share of the area.

    1 is uniform attention. A ratio of sums over images: an image that draws more attention as a whole counts more. A
    region is compared with the image's cells (without thumbnail and padding), all of one size; the thumbnail with all
    tokens. Images whose layout lacks a region do not enter its row.

    Intervals: delete-one-fold jackknife of the log ratio with Student's t, so streamed moments are enough; it has
    few degrees of freedom (4 for 5 folds), hence wide intervals.

    Parameters
    ----------
    maps : Maps
        Stored or streamed.
    layers : int or iterable of int, optional
        Default all that ``maps`` holds.
    confidence : float
        Of the intervals, in (0, 1).

    Returns
    -------
    DataFrame
        One row per layer, head and region: layer, head, region, share, area, ratio, ratio_lo, ratio_hi, n (images),
        folds.

    Raises
    ------
    InputError
        No images, unknown layers, or a confidence outside (0, 1).

    Examples
    --------
    >>> from biaslab import TokenLayout
    >>> from biaslab.diagnostics.measures.mass import attention_mass
    >>> from biaslab.maps.simulate import simulate
    >>> layout = TokenLayout.raster(6, 6, size=(336, 336), family="llava")
    >>> table = attention_mass(simulate("u-shaped", [(layout, 40)]).maps)
    >>> table.loc[table["region"] == "border", ["region", "area", "ratio", "ratio_lo", "ratio_hi", "n"]].round(2)
       region  area  ratio  ratio_lo  ratio_hi   n
    0  border  0.56   1.31      1.24      1.38  40
    """
    expect_maps(maps)
    rows = []
    for layer in resolve_layers(layers, maps.layers, "the maps", "collect"):
        folds = fold_means(maps, layer, log=False)
        for region in REGIONS:
            sums = [totals for layouts in folds if (totals := _sums(layouts, region)) is not None]
            if not sums:
                continue
            drawn, even, whole = (np.stack([s[k] for s in sums]) for k in range(3))  # (folds, H)
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.log(drawn.sum(0) / even.sum(0))
                without = np.log((drawn.sum(0) - drawn) / (even.sum(0) - even))
                share, area = drawn.sum(0) / whole.sum(0), even.sum(0) / whole.sum(0)
            lo, hi = jackknife_interval(ratio, without, confidence=confidence)
            images = sum(s[3] for s in sums)
            for h, head in enumerate(head_names(maps)):
                rows.append(
                    {"layer": layer, "head": head, "region": region,
                     "share": share[h], "area": area[h],
                     "ratio": np.exp(ratio[h]), "ratio_lo": np.exp(lo[h]), "ratio_hi": np.exp(hi[h]),
                     "n": images, "folds": len(sums)}
                )  # fmt: skip
    return pd.DataFrame(rows)


def _sums(layouts: list[tuple[TokenLayout, int, np.ndarray]], region: str) -> tuple | None:
    """(H,) attention on the region, the same if uniform, attention on the base it is compared with; images."""
    columns = []
    for layout, n, mean in layouts:
        mask = region_mask(layout, region)
        if mask is None:
            continue
        base = np.ones(layout.n, bool) if region == "thumbnail" else ~layout.thumbnail & layout.in_image
        whole = n * mean[:, base].sum(1)
        columns.append((n * mean[:, mask].sum(1), whole * mask.sum() / base.sum(), whole, n))
    return tuple(sum(column) for column in zip(*columns, strict=True)) if columns else None
