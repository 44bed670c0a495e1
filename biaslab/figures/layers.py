"""Shared by figures over many layers: which of them fit on a page, and a colour for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from matplotlib.colors import Colormap, ListedColormap

__all__ = ["depth_colours", "evenly", "full_rows"]

Item = TypeVar("Item")


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """Take all items, or ``most`` of them at even steps, the first and the last among them."""
    n = len(items)
    if n <= most:
        return list(items)
    return [items[round(i * (n - 1) / (most - 1))] for i in range(most)] if most > 1 else [items[0]]


def full_rows(panels: int, most: int) -> int:
    """Choose how many panels a row has, up to ``most`` or one more, so that the last row is as full as it can be.

    Examples
    --------
    >>> from biaslab.figures.layers import full_rows
    >>> [full_rows(n, 4) for n in (3, 6, 8, 10, 12)]
    [3, 3, 4, 5, 4]
    """
    if panels <= most:
        return panels
    return min(
        (most, most - 1, most + 1), key=lambda per_row: (-(-panels // per_row) * per_row - panels, per_row != most)
    )


def depth_colours(n: int) -> Colormap:
    """Make a colour per layer from dark to bright (viridis without its palest end, which is lost on white paper)."""
    import matplotlib as mpl

    steps: Any = [0.9 * i / max(n - 1, 1) for i in range(n)]
    return ListedColormap(mpl.colormaps["viridis"](steps))
