"""Whether two settings describe the same work."""

from __future__ import annotations

from typing import Any


def first_difference(mine: dict[str, Any], found: dict[str, Any]) -> str | None:
    """Name of a setting in which two collections differ, so that one cannot go on with the other; None if in none.

    The rotary embedding is read off the model, which is compared: older collections lack it, and devices round it.
    """
    names = sorted({*mine, *found} - {"rotary"})
    return next((name for name in names if mine.get(name) != found.get(name)), None)
