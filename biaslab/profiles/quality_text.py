"""The quality of heads in words: which look at something, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from biaslab._util.cards import table_lines
from biaslab._util.number_text import count_text, interval_text, list_text
from biaslab.profiles.chosen_heads import SHARE

__all__ = ["quality_lines", "quality_sentence"]

_NAMED = 4  # heads in a sentence
_LISTED = 16  # rows of a card's table


def quality_sentence(quality: pd.DataFrame) -> str:
    """Say how many heads look at something, and which most.

    Parameters
    ----------
    quality : DataFrame
        Of :func:`biaslab.profiles.head_quality`.

    Returns
    -------
    str
        "" of an empty table.

    Examples
    --------
    >>> columns = ["layer", "head", "quality", "lo", "hi"]
    >>> rows = [[3, 0, 0.5, 0.4, 0.6], [3, 1, 0.2, 0.0, 0.4], [3, 2, 0.01, 0.0, 0.1]]
    >>> print(quality_sentence(pd.DataFrame(rows, columns=columns)).split(":")[1].strip())
    layer 3 head 0 (0.50 [0.40, 0.60]) and layer 3 head 1 (0.20 [0.00, 0.40]); the interval of 1 lies above 0.
    """
    if not len(quality):
        return ""
    chosen = _chosen(quality)
    if not len(chosen):
        return f"None of {count_text(len(quality), 'head')} looks at anything that position does not explain."
    named = [f"layer {r['layer']} head {r['head']} ({_interval(r)})" for r in _rows(chosen[:_NAMED])]
    more = len(chosen) - len(named)
    above = int((chosen["lo"] > 0).sum())
    verb = "look" if len(chosen) > 1 else "looks"
    return (
        f"Of {count_text(len(quality), 'head')} {len(chosen)} {verb} at something that position does not explain, by a "
        "quality that asks for no labels (at least a quarter of the best head's): "
        f"{list_text([*named, f'{more} more'] if more else named)}; "
        + ("the intervals of all lie above 0." if above == len(chosen) else f"the interval of {above} lies above 0.")
    )


def quality_lines(quality: pd.DataFrame) -> list[str]:
    """Write the section of a profile's card: Markdown lines; none of an empty table."""
    if not len(quality):
        return []
    best = _chosen(quality)[:_LISTED]
    rows = [
        [r["layer"], r["head"], f"{r['quality']:.2f}", f"{r['lo']:.2f} to {r['hi']:.2f}", _percent(r["position"]),
         f"{r['moran']:.2f}", f"{r['skewness']:.2f}", _percent(r["mass"])]
        for r in _rows(best)
    ]  # fmt: skip
    lines = ["", "## Heads that look at something", "", quality_sentence(quality)]
    if rows:
        names = ["layer", "head", "quality", "95 % interval", "explained by position", "Moran", "skewness",
                 "share of its attention"]  # fmt: skip
        lines += ["", *table_lines(names, rows)]
    return lines


def _chosen(quality: pd.DataFrame) -> pd.DataFrame:
    best = float(quality["quality"].max())
    found = quality[(quality["quality"] > 0) & (quality["quality"] >= SHARE * best)]
    return found.sort_values("quality", ascending=False, kind="stable")


def _rows(table: pd.DataFrame) -> Iterable[dict[Any, Any]]:
    return ({**row, "layer": int(row["layer"]), "head": int(row["head"])} for row in table.to_dict("records"))


def _interval(row: dict[Any, Any]) -> str:
    return interval_text(row["quality"], row["lo"], row["hi"])


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
