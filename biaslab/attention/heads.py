"""Which heads are kept: every one (``"all"``) or their mean (``"mean"``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from biaslab.errors import InputError

__all__ = ["HEADS", "check_heads", "heads_from_disk", "heads_on_disk"]

#: values of ``heads`` wherever attention is recorded
HEADS = ("all", "mean")


def check_heads(heads: Any) -> None:
    """Refuse a value of ``heads`` that is not one of `HEADS`.

    Parameters
    ----------
    heads : Any
        "all" or "mean".

    Raises
    ------
    InputError
        Any other value, with the fix.

    Examples
    --------
    >>> check_heads("mean")
    >>> check_heads(None)
    Traceback (most recent call last):
    biaslab.errors.InputError: heads must be 'all' or 'mean', got None: write heads='all' for every head
    """
    if not (isinstance(heads, str) and heads in HEADS):
        raise InputError(f"heads must be 'all' or 'mean', got {heads!r}: write heads='all' for every head")


def heads_on_disk(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as files hold them: ``heads`` is null there where every head is kept.

    Examples
    --------
    >>> heads_on_disk({"heads": "all", "folds": 5})
    {'heads': None, 'folds': 5}
    """
    return {name: None if name == "heads" and value == "all" else value for name, value in settings.items()}


def heads_from_disk(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that were read from a file as Python names them; undoes `heads_on_disk`.

    Examples
    --------
    >>> heads_from_disk({"heads": None, "folds": 5})
    {'heads': 'all', 'folds': 5}
    """
    return {name: "all" if name == "heads" and value is None else value for name, value in settings.items()}
