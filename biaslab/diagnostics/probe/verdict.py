"""How far a profile agrees with the causal effect of the place, over all lines of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from biaslab._util.number_text import list_text
from biaslab.diagnostics.probe.claims import (
    SLOPE_MARGIN,
    agreement_of,
    amount_of,
    check_margin,
    margin_text,
    remedy_text,
)
from biaslab.stats.claims import ALPHA, side_of

__all__ = ["verdict"]

_AGREES = (
    f"The profile agrees with the causal effect of the place beyond chance (q <= {ALPHA:g}, interval of r above 0)"
)


def verdict(table: pd.DataFrame, *, margin: tuple[float, float] = SLOPE_MARGIN) -> str:
    r"""Say how far a profile agrees with the causal effect of the place, over all lines of `compare`'s table.

    Every map is counted once: where the two agree, with what division would remove, and where they do not, or where
    it is not known, with the reason.

    Parameters
    ----------
    table : DataFrame
        Of :func:`~biaslab.diagnostics.probe.compare`, a line or more.
    margin : (float, float)
        Slopes that count as the right amount: "about the right amount" needs the whole interval inside. An interval
        that merely holds 1 is "not significantly too much or too little", and no interval "not known". The default,
        0.8 to 1.25, leaves at most a quarter of the profile in the attention, or takes at most a fifth off in excess
        (in logarithms).

    Returns
    -------
    str
        Sentences.

    Raises
    ------
    InputError
        A margin that does not hold 1.

    Examples
    --------
    >>> import pandas as pd
    >>> from biaslab.diagnostics.probe.verdict import verdict
    >>> line = {"layer": 1, "slope": 1.3, "slope_lo": 1.1, "slope_hi": 1.5, "r": 0.8, "r_lo": 0.7, "r_hi": 0.9,
    ...         "q": 0.01, "reliability": 0.8, "r_disattenuated": 0.89, "groups": 12}
    >>> print(verdict(pd.DataFrame([line])).replace(" (", "\n(").replace(". ", ".\n"))
    The profile agrees with the causal effect of the place beyond chance
    (q <= 0.05, interval of r above 0) in the one map compared.
    There it shares an estimated 79 % of its variance with the causal map, once the probe's noise is allowed for.
    Dividing by it would there remove too little
    (slope above 1).
    """
    check_margin(margin)
    rows = table.to_dict("records")
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(agreement_of(row), []).append(row)
    texts = []
    if agreeing := groups.get("agrees", []):
        texts += [f"{_AGREES} in {_share_of(agreeing, rows)}.", _variance_text(agreeing), _amounts(agreeing, margin)]
    if opposed := groups.get("opposed"):
        texts.append(
            f"In {_share_of(opposed, rows)} the two are opposed beyond chance (interval of r below 0): division would "
            "add to the effect of the place."
        )
    if uncertain := groups.get("open"):
        texts.append(
            f"In {_share_of(uncertain, rows)} the two do not agree significantly: whether the profile is the "
            f"model's or "
            "the images' is open."
        )
    if unknown := groups.get("unknown"):
        texts.append(f"In {_share_of(unknown, rows)} it is not known whether the two agree: {remedy_text(unknown[0])}.")
    if unreliable := groups.get("unreliable"):
        texts.append(
            f"In {_share_of(unreliable, rows)} the probe's own map does not repeat significantly from object to "
            f"object, so "
            f"nothing is said of the profile: {remedy_text(unreliable[0])}."
        )
    if flat := groups.get("flat"):
        texts.append(f"In {_share_of(flat, rows)} the profile or the probe's map does not vary over places.")
    return " ".join(texts)


def _share_of(part: Sequence[Any], whole: Sequence[Any]) -> str:
    """Write "3 of 10 maps"; all of them, and the only one, in words."""
    if len(whole) == 1:
        return "the one map compared"
    if len(part) == len(whole):
        return "both maps" if len(whole) == 2 else f"all {len(whole)} maps"
    return f"{len(part)} of {len(whole)} maps"


def _variance_text(agreeing: list[dict]) -> str:
    shares = [100 * min(row["r_disattenuated"] ** 2, 1.0) for row in agreeing]
    low, high = f"{min(shares):.0f}", f"{max(shares):.0f}"
    size = f"{low} %" if low == high else f"{low} to {high} %"
    best = agreeing[shares.index(max(shares))]
    most = "" if low == high else f" (the highest estimate is of layer {best['layer']})"
    return (
        f"There it shares an estimated {size} of its variance with the causal map, once the probe's noise is allowed "
        f"for{most}."
    )


def _amounts(agreeing: list[dict], margin: tuple[float, float]) -> str:
    """Say what division would remove where the two agree."""
    groups: dict[str, list[dict]] = {}
    for row in agreeing:
        groups.setdefault(amount_of(row, margin), []).append(row)
    removed = []
    for amount, reason in (
        ("too much", "slope below 1"), ("too little", "slope above 1"),
        ("right", f"the whole interval {margin_text(margin)}{_sides(groups.get('right', []))}"),
    ):  # fmt: skip
        if amount in groups:
            name = "about the right amount" if amount == "right" else amount
            removed.append(f"{name}{_where(groups[amount], agreeing)} ({reason})")
    sentences = [f"Dividing by it would there remove {list_text(removed)}."] if removed else []
    if uncertain := groups.get("open"):
        widths = [row["slope_hi"] - row["slope_lo"] for row in uncertain]
        low, high = f"{min(widths):.2f}", f"{max(widths):.2f}"
        sentences.append(
            f"The amount{_where(uncertain, agreeing)} is not significantly too much or too little, nor "
            f"established to be right (the "
            f"interval holds 1 but does not lie wholly {margin_text(margin)}; interval width "
            f"{low if low == high else f'{low} to {high}'})."
        )
    if unknown := groups.get("unknown"):
        sentences.append(
            f"Whether division{_where(unknown, agreeing)} removes the right amount is not known: "
            f"{remedy_text(unknown[0])}."
        )
    return " ".join(sentences)


def _where(part: list[dict], agreeing: list[dict]) -> str:
    if len(part) < len(agreeing):
        return f" in {len(part)}"
    return {1: "", 2: " in both"}.get(len(agreeing), f" in all {len(agreeing)}")


def _sides(right: list[dict]) -> str:
    """Count the intervals within the margin that exclude 1 all the same."""
    sides = [side_of(row["slope_lo"], row["slope_hi"], 1.0) for row in right]
    parts = [
        f"{'' if len(right) == 1 else f'in {sides.count(side)} '}{word} 1"
        for side, word in ((1, "above"), (-1, "below"))
        if side in sides
    ]
    return f", {' and '.join(parts)}" if parts else ""
