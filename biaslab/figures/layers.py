"""What figures over many layers share: which layers fit on a page, which head and layout of a table is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import pandas as pd
from matplotlib.colors import Colormap, ListedColormap

from biaslab.errors import InputError

__all__ = ["depth_colours", "evenly", "one_head", "one_layout"]

Item = TypeVar("Item")


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """All items, or ``most`` of them at even steps, the first and the last among them."""
    n = len(items)
    if n <= most:
        return list(items)
    return [items[round(i * (n - 1) / (most - 1))] for i in range(most)] if most > 1 else [items[0]]


def one_head(table: pd.DataFrame, head: str | int | None = None) -> tuple[pd.DataFrame, str]:
    """Rows of one head, and its label: the one asked for, else the mean over heads, else all together, else the first.

    Raises
    ------
    InputError
        A head that the table does not hold.
    """
    if "head" not in table:
        return table, "mean"
    labels = table["head"].astype(str)
    known = list(dict.fromkeys(labels))
    wanted = str(head) if head is not None else next((h for h in ("mean", "all") if h in known), known[0])
    if wanted not in known:
        raise InputError(f"the table has no head {wanted!r}: choose one of {', '.join(known)}")
    return table[labels == wanted], wanted


def one_layout(table: pd.DataFrame, layout: str | None = None) -> tuple[pd.DataFrame, str | None]:
    """Rows of one layout and its key: the one asked for, else that of most images; None where there is but one.

    Raises
    ------
    InputError
        A layout that the table does not hold.
    """
    known = list(dict.fromkeys(table["layout"])) if "layout" in table else []
    if layout is None and len(known) < 2:
        return table, None
    wanted = table.loc[table["n"].idxmax(), "layout"] if layout is None else layout
    if wanted not in known:
        raise InputError(f"the table has no layout {wanted!r}: choose one of {', '.join(known)}")
    return table[table["layout"] == wanted], wanted


def depth_colours(n: int) -> Colormap:
    """A colour per layer from dark to bright (viridis without its palest end, which is lost on white paper)."""
    import matplotlib as mpl

    steps: Any = [0.9 * i / max(n - 1, 1) for i in range(n)]
    return ListedColormap(mpl.colormaps["viridis"](steps))
