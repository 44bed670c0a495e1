"""Arguments of public functions that are of the wrong kind: one line that names the argument, before any work."""

from __future__ import annotations

import errno
import os
from numbers import Integral
from pathlib import Path
from typing import Any

from biaslab.errors import InputError

__all__ = ["as_path", "at_least_one", "whole_number"]


def as_path(name: str, value: Any) -> Path:
    """Return a path, and refuse what cannot name a file.

    Parameters
    ----------
    name : str
        Of the argument, for the message.
    value : str or Path

    Returns
    -------
    Path

    Raises
    ------
    InputError
        No text or path, an empty one (it would be the present folder), one with a NUL character, too long a one.

    Examples
    --------
    >>> as_path("out", "runs/k4").name
    'k4'
    >>> as_path("out", 5)
    Traceback (most recent call last):
    biaslab.errors.InputError: out must be a path (str or Path), got int
    """
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise InputError(f"{name} must be a path (str or Path), got {type(value).__name__}")
    if value == "":
        raise InputError(f"{name} is an empty path: name a file or folder, '.' for the present one")
    if "\0" in os.fspath(value):
        raise InputError(f"{name} holds a NUL character, which no path may: {os.fspath(value)!r}")
    path = Path(value)
    try:
        path.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            short = f"{os.fspath(value)[:40]}..."
            raise InputError(f"{name}: the path {short} is too long for this file system: use a shorter one") from None
    return path


def at_least_one(name: str, value: Any) -> int:
    """Return a whole number of 1 or more, and refuse anything else.

    Examples
    --------
    >>> at_least_one("n", 3)
    3
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise InputError(f"{name} must be a whole number >= 1, got {value!r}")
    return int(value)


def whole_number(name: str, value: Any) -> int:
    """Return a whole number, and refuse anything else.

    Examples
    --------
    >>> whole_number("seed", 1.5)
    Traceback (most recent call last):
    biaslab.errors.InputError: seed must be a whole number, got 1.5
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"{name} must be a whole number, got {value!r}")
    return int(value)
