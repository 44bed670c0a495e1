"""Attention on parts of the picture, relative to their area."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from biaslab.core.layers import resolve_layers
from biaslab.core.layout import TokenLayout
from biaslab.diagnostics.registry import register
from biaslab.diagnostics.stacks import fold_means, head_names
from biaslab.maps.protocol import Maps
from biaslab.stats.jackknife import jackknife_interval

__all__ = ["PARTS", "mass", "part_of"]

PARTS = ("border", "top", "bottom", "left", "right", "corners", "tile_border", "thumbnail")


def part_of(layout: TokenLayout, part: str) -> np.ndarray | None:
    """(N,) bool of the tokens in a part, or None if the layout has no such part, or nothing else.

    ``border``, ``top``, ``bottom``, ``left``, ``right``, ``corners`` are the outermost ring, rows, columns and their
    meeting points of the picture's own raster (cells that show padding only do not count); ``tile_border`` is the
    ring of every tile, of pictures of several tiles; ``thumbnail`` is the thumbnail.
    """
    if part == "thumbnail":
        chosen = layout.thumbnail
    else:
        plane = ~layout.thumbnail & layout.in_image
        if not plane.any() or (part == "tile_border" and layout.tiles == (1, 1)):
            return None
        down, across = np.divmod(layout.tile, layout.tiles[1])
        whole = part != "tile_border"
        row = layout.row + whole * down * layout.grid[0]
        col = layout.col + whole * across * layout.grid[1]
        last = (row[plane].max(), col[plane].max()) if whole else (layout.grid[0] - 1, layout.grid[1] - 1)
        first = (row[plane].min(), col[plane].min()) if whole else (0, 0)
        side = {"top": row == first[0], "bottom": row == last[0], "left": col == first[1], "right": col == last[1]}
        if part == "corners":
            chosen = (side["top"] | side["bottom"]) & (side["left"] | side["right"])
        elif part in side:
            chosen = side[part]
        else:
            chosen = side["top"] | side["bottom"] | side["left"] | side["right"]
        chosen = chosen & plane
    return chosen if chosen.any() and not chosen.all() else None


@register("mass", "Attention share over area share of parts of the picture")
def mass(maps: Maps, layers: int | Iterable[int] | None = None, confidence: float = 0.95) -> pd.DataFrame:
    """Share of visual attention that a part draws, over its share of the area: 1 is what evenness would give.

    Ratio of sums over images: an image that draws more attention as a whole counts more. A part is compared with the
    picture's cells (without thumbnail and padding), all of one size; the thumbnail with all tokens. Pictures whose
    layout lacks a part do not enter its row.

    Intervals: delete-one-fold jackknife of the log ratio with Student's t, so streamed moments are enough; it has
    few degrees of freedom (4 for 5 folds), hence wide intervals.

    Returns
    -------
    DataFrame
        One row per layer, head and part: layer, head, part, share, area, ratio, lo, hi, n (images), folds.
    """
    rows = []
    for layer in resolve_layers(layers, maps.layers, "the maps", "collect"):
        folds = fold_means(maps, layer, log=False)
        for part in PARTS:
            sums = [found for parts in folds if (found := _sums(parts, part)) is not None]
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
                    {"layer": layer, "head": head, "part": part,
                     "share": share[h], "area": area[h],
                     "ratio": np.exp(ratio[h]), "lo": np.exp(lo[h]), "hi": np.exp(hi[h]),
                     "n": images, "folds": len(sums)}
                )  # fmt: skip
    return pd.DataFrame(rows)


def _sums(parts: list[tuple[TokenLayout, int, np.ndarray]], part: str) -> tuple | None:
    """(H,) attention on the part, what it would be if even, attention on what it is compared with; images."""
    found = []
    for layout, n, mean in parts:
        chosen = part_of(layout, part)
        if chosen is None:
            continue
        base = np.ones(layout.n, bool) if part == "thumbnail" else ~layout.thumbnail & layout.in_image
        whole = n * mean[:, base].sum(1)
        found.append((n * mean[:, chosen].sum(1), whole * chosen.sum() / base.sum(), whole, n))
    return tuple(sum(column) for column in zip(*found, strict=True)) if found else None
