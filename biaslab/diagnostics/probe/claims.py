"""What a comparison of profile and probe allows to say: agreement, and whether division removes the right amount."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from biaslab._util.number_text import count_text, has_values, interval_text, is_number, p_text
from biaslab.errors import InputError
from biaslab.stats.claims import ALPHA, is_within, side_of

__all__ = [
    "FEWEST_OBJECTS",
    "SLOPE_MARGIN",
    "Agreement",
    "Amount",
    "agreement_of",
    "amount_of",
    "check_margin",
    "comparison_text",
    "few_objects_text",
    "margin_text",
    "remedy_text",
]

#: slopes between which division is said to remove about the right amount. A slope s leaves the power s - 1 of the
#: profile in the attention, so inside at most a quarter of the profile (in logarithms) stays, or at most a fifth is
#: taken off in excess; the ends are reciprocal, as for any ratio, and those of the usual tests of equivalence.
SLOPE_MARGIN = (0.8, 1.25)

#: different objects that a probe should show. Intervals over objects exist from 3 on, but with Student's t of 2
#: degrees of freedom they reach 4.3 standard errors, too far to tell most effects from none; with 6 they reach 2.6.
FEWEST_OBJECTS = 6

Agreement = Literal["flat", "unreliable", "unknown", "open", "agrees", "opposed"]
Amount = Literal["too little", "too much", "right", "open", "unknown"]


def check_margin(margin: tuple[float, float]) -> None:
    """Refuse a margin of slopes that does not hold 1.

    Raises
    ------
    InputError
        Not two numbers around 1.
    """
    if len(margin) != 2 or not margin[0] < 1 < margin[1]:
        raise InputError(f"margin must be two slopes with 1 between them, got {margin}: (0.8, 1.25) is usual")


def agreement_of(row: Mapping[Any, Any]) -> Agreement:
    """Tell what a row of :func:`~biaslab.diagnostics.probe.compare` allows to say of profile and causal map.

    Parameters
    ----------
    row : mapping
        With slope, r, r_lo, r_hi, reliability, r_disattenuated and q.

    Returns
    -------
    str
        "flat": one of the maps does not vary, so that there is nothing to compare; "unreliable": the probe's own map
        does not repeat from object to object; "agrees" or "opposed": q is at most 0.05 and the interval of r lies
        above, or below, 0; "open": neither; "unknown": no reliability, interval or q.
    """
    if not has_values(row, "r", "slope"):
        return "flat"
    if not is_number(row.get("r_disattenuated")):
        return "unreliable" if is_number(row.get("reliability")) else "unknown"
    side = side_of(row.get("r_lo"), row.get("r_hi"), 0.0)
    if side is None or not has_values(row, "q"):
        return "unknown"
    if not side or row["q"] > ALPHA:
        return "open"
    return "agrees" if side > 0 else "opposed"


def amount_of(row: Mapping[Any, Any], margin: tuple[float, float] = SLOPE_MARGIN) -> Amount:
    """Tell what the interval of a slope allows to say of dividing by the profile.

    Parameters
    ----------
    row : mapping
        With slope_lo and slope_hi.
    margin : (float, float)
        Slopes that count as the right amount; :data:`SLOPE_MARGIN` says why these.

    Returns
    -------
    str
        "right": the whole interval lies within the margin; else "too little" or "too much": it lies above 1, or below;
        "open": it holds 1; "unknown": no interval.

    Examples
    --------
    >>> from biaslab.diagnostics.probe.claims import amount_of
    >>> [amount_of({"slope_lo": lo, "slope_hi": hi}) for lo, hi in ((0.9, 1.1), (1.1, 1.5), (0.5, 1.5))]
    ['right', 'too little', 'open']
    """
    lo, hi = row.get("slope_lo"), row.get("slope_hi")
    side = side_of(lo, hi, 1.0)
    if side is None:
        return "unknown"
    if is_within(lo, hi, margin):
        return "right"
    names: dict[int, Amount] = {1: "too little", -1: "too much", 0: "open"}
    return names[side]


def comparison_text(row: Mapping[Any, Any], margin: tuple[float, float] = SLOPE_MARGIN) -> str:
    r"""Write one row of :func:`~biaslab.diagnostics.probe.compare` as a clause: small first letter, no full stop.

    Parameters
    ----------
    row : mapping
        Of the table.
    margin : (float, float)
        Slopes that count as the right amount.

    Returns
    -------
    str

    Examples
    --------
    >>> from biaslab.diagnostics.probe.claims import comparison_text
    >>> row = {"slope": 1.64, "r": 0.7, "q": 0.001, "reliability": 0.6, "r_disattenuated": 0.9, "groups": 2}
    >>> print(comparison_text(row).replace(" (r", "\n(r"))
    whether the profile agrees with the causal effect of the place is not known
    (r 0.70 without an interval, q 0.001): too few different objects (2): at least 6
    """
    agreement = agreement_of(row)
    if agreement == "flat":
        return "the profile or the probe's map does not vary over places: no comparison"
    if agreement == "unreliable":
        return (
            "the probe's own map does not repeat significantly from object to object (estimated reliability "
            f"{interval_text(row['reliability'])}), so nothing is said of the profile: {remedy_text(row)}"
        )
    r = f"r {interval_text(row['r'], row.get('r_lo'), row.get('r_hi'))}"
    tests = ", ".join(p_text(name, row[name]) for name in "pq" if name in row)
    if agreement == "unknown":
        without = "" if side_of(row.get("r_lo"), row.get("r_hi"), 0.0) is not None else " without an interval"
        return (
            "whether the profile agrees with the causal effect of the place is not known "
            f"({r}{without}{tests and f', {tests}'}): {remedy_text(row)}"
        )
    possible = f", at most {row['ceiling']:.2f} possible" if has_values(row, "ceiling") else ""
    objects = f", n = {count_text(int(row['groups']), 'object')}" if has_values(row, "groups") else ""
    numbers = f"({r}{possible}, {tests}{objects})"
    if agreement == "open":
        return f"the profile does not agree significantly with the causal effect of the place {numbers}"
    if agreement == "opposed":
        return f"the profile is opposed to the causal effect of the place beyond chance {numbers}"
    share = f"{100 * min(row['r_disattenuated'] ** 2, 1.0):.0f}"
    return (
        f"the profile agrees with the causal effect of the place beyond chance {numbers}, by an estimated {share} % of "
        f"the variance once the probe's noise is allowed for; {_amount_text(row, margin)}"
    )


def _amount_text(row: Mapping[Any, Any], margin: tuple[float, float]) -> str:
    amount, lo, hi = amount_of(row, margin), row.get("slope_lo"), row.get("slope_hi")
    slope = f"slope {interval_text(row['slope'], lo, hi, null=1)}"
    if amount == "unknown":
        return (
            f"whether dividing by it removes the right amount is not known ({slope} without an interval): "
            f"{remedy_text(row)}"
        )
    if amount == "open":
        return (
            f"dividing by it removes neither significantly too much nor too little, nor is the right amount "
            f"established ({slope}, interval "
            f"width {hi - lo:.2f})"  # type: ignore[operator]  # an open interval has both ends
        )
    if amount == "right":
        slight = {1: ", slightly too little", -1: ", slightly too much", 0: ""}[side_of(lo, hi, 1.0) or 0]
        return f"dividing by it removes about the right amount{slight} ({slope}, wholly {margin_text(margin)})"
    return f"dividing by it removes {amount} ({slope})"


def margin_text(margin: tuple[float, float]) -> str:
    """Write a margin as "within 0.8 to 1.25"."""
    return f"within {margin[0]:g} to {margin[1]:g}"


def few_objects_text(pairs: int, objects: int) -> str:
    """Say that a probe shows too few different objects, and what would do; "" where they are enough.

    Parameters
    ----------
    pairs : int
        Pairs of object and background.
    objects : int
        Different objects among them: pairs of one object are not independent.

    Returns
    -------
    str
        One line.

    Examples
    --------
    >>> from biaslab.diagnostics.probe.claims import few_objects_text
    >>> few_objects_text(2, 2)
    'a probe of 2 pairs is too small for intervals over objects: show at least 6 pairs'
    >>> few_objects_text(12, 12)
    ''
    """
    if objects >= FEWEST_OBJECTS:
        return ""
    trouble = "too small for intervals over objects" if objects < 3 else "so small that its intervals are very wide"
    if pairs >= FEWEST_OBJECTS:
        return (
            f"a probe of {count_text(objects, 'different object')} is {trouble}: give at least {FEWEST_OBJECTS} "
            "different objects"
        )
    return f"a probe of {count_text(pairs, 'pair')} is {trouble}: show at least {FEWEST_OBJECTS} pairs"


def remedy_text(row: Mapping[Any, Any]) -> str:
    """Say what would be needed to know more."""
    objects = row.get("groups")
    if is_number(objects) and objects < FEWEST_OBJECTS:  # type: ignore[operator]  # a number
        return f"too few different objects ({objects:.0f}): at least {FEWEST_OBJECTS}"
    return "more pairs of different objects would tell"
