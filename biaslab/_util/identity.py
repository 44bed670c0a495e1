"""In what two runs differ, so that one cannot go on with what the other left."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

__all__ = ["Difference", "differences"]


class Difference(NamedTuple):
    """A setting that two runs do not share.

    Attributes
    ----------
    name : str
        With the names of the settings it lies in: ``options.seed``.
    there, here : Any
        Its value in what is on disk and in what is asked for; None where it is missing.
    """

    name: str
    there: Any
    here: Any

    def __str__(self) -> str:
        return f"{self.name}: {self.there!r} there, {self.here!r} here"


def differences(there: Any, here: Any, *, ignore: Collection[str] = (), name: str = "") -> list[Difference]:
    """List the settings that differ, by name; a missing one equals None, and settings within settings are told apart.

    Parameters
    ----------
    there, here : Any
        What is on disk and what is asked for, as JSON gives them back.
    ignore : Collection of str
        Full names of settings that may differ.
    name : str
        Of the setting that the two are values of.

    Returns
    -------
    list of Difference
        In the order of the names.

    Examples
    --------
    >>> from biaslab._util.identity import differences
    >>> there = {"model": "grounder", "options": {"seed": 0, "out": "a"}}
    >>> here = {"model": "grounder", "options": {"seed": 1, "out": "b"}}
    >>> [str(difference) for difference in differences(there, here, ignore=["options.out"])]
    ['options.seed: 0 there, 1 here']
    """
    if name in ignore:
        return []
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        return [
            difference
            for part in sorted({*there, *here})
            for difference in differences(
                there.get(part), here.get(part), ignore=ignore, name=f"{name}.{part}" if name else part
            )
        ]
    return [] if there == here else [Difference(name, there, here)]
