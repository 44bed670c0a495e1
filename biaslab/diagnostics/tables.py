"""Rows of the tables that diagnostics make: those of one head, those of one layout."""

from __future__ import annotations

import pandas as pd

from biaslab.errors import InputError

__all__ = ["rows_of_head", "rows_of_layout"]


def rows_of_head(table: pd.DataFrame, head: str | int | None = None) -> tuple[pd.DataFrame, str]:
    """Take the rows of one head.

    Parameters
    ----------
    table : DataFrame
        With or without a column ``head``.
    head : str or int, optional
        Default the mean over heads, else all together ("all"), else the first.

    Returns
    -------
    rows : DataFrame
    label : str
        Of the head; "mean" where the table has no heads.

    Raises
    ------
    InputError
        A head that the table does not hold.

    Examples
    --------
    >>> table = pd.DataFrame({"layer": [0, 0], "head": ["mean", "0"], "r2": [0.4, 0.2]})
    >>> rows_of_head(table)[0]["r2"].tolist(), rows_of_head(table, 0)[1]
    ([0.4], '0')
    """
    if "head" not in table:
        return table, "mean"
    labels = table["head"].astype(str)
    heads = list(dict.fromkeys(labels))
    label = str(head) if head is not None else next((h for h in ("mean", "all") if h in heads), heads[0])
    if label not in heads:
        raise InputError(f"the table has no head {label!r}: choose one of {', '.join(heads)}")
    return table[labels == label], label


def rows_of_layout(table: pd.DataFrame, layout: str | None = None) -> tuple[pd.DataFrame, str | None]:
    """Take the rows of one layout.

    Parameters
    ----------
    table : DataFrame
        With columns ``layout`` (keys) and ``n`` (images), or without layouts.
    layout : str, optional
        Key; default that of most images.

    Returns
    -------
    rows : DataFrame
    key : str or None
        Of the layout; None where there is but one and none was asked for.

    Raises
    ------
    InputError
        A layout that the table does not hold.

    Examples
    --------
    >>> table = pd.DataFrame({"layout": ["small", "large"], "n": [9, 40]})
    >>> rows_of_layout(table)[1]
    'large'
    """
    layouts = list(dict.fromkeys(table["layout"])) if "layout" in table else []
    if layout is None and len(layouts) < 2:
        return table, None
    key = str(table["layout"].to_numpy()[table["n"].to_numpy().argmax()]) if layout is None else layout
    if key not in layouts:
        raise InputError(f"the table has no layout {key!r}: choose one of {', '.join(layouts)}")
    return table[table["layout"] == key], key
