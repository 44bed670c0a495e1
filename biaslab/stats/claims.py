"""What an interval allows to say: on one side of a null, equal to it within a margin, or neither.

A claim never rests on missing evidence. An interval that merely holds the null does not show that the null is true:
equivalence is claimed only where the whole interval lies within a margin that was chosen beforehand (Schuirmann 1987).
"""

from __future__ import annotations

from typing import Any

from biaslab._util.number_text import is_number

__all__ = ["ALPHA", "is_within", "side_of"]

#: claims are made at this level: intervals must exclude the null, and p or q must not exceed it
ALPHA = 0.05


def side_of(lo: Any, hi: Any, null: float) -> int | None:
    """Tell on which side of a null an interval lies.

    Parameters
    ----------
    lo, hi : float or None
        Ends of the interval.
    null : float
        Value of no effect.

    Returns
    -------
    int or None
        1 where the whole interval lies above the null, -1 below, 0 where it holds the null; None where an end is no
        finite number, so that nothing is known.

    Examples
    --------
    >>> from biaslab.stats.claims import side_of
    >>> side_of(1.1, 1.5, 1), side_of(0.2, 0.9, 1), side_of(0.9, 1.5, 1), side_of(float("nan"), 1.5, 1)
    (1, -1, 0, None)
    """
    if not (is_number(lo) and is_number(hi)):
        return None
    return int(lo > null) - int(hi < null)


def is_within(lo: Any, hi: Any, margin: tuple[float, float]) -> bool:
    """Tell whether a whole interval lies within a margin: the only ground on which equivalence is claimed.

    Parameters
    ----------
    lo, hi : float or None
        Ends of the interval; one that is no finite number is never within.
    margin : (float, float)
        What counts as equal.

    Returns
    -------
    bool

    References
    ----------
    Schuirmann (1987), "A comparison of the two one-sided tests procedure and the power approach for assessing the
    equivalence of average bioavailability", J. Pharmacokinet. Biopharm. 15, 657-680.

    Examples
    --------
    >>> from biaslab.stats.claims import is_within
    >>> is_within(0.96, 1.1, (0.8, 1.25)), is_within(0.77, 1.19, (0.8, 1.25)), is_within(None, 1.1, (0.8, 1.25))
    (True, False, False)
    """
    return is_number(lo) and is_number(hi) and margin[0] <= lo and hi <= margin[1]
