"""Profile estimators by name."""

from __future__ import annotations

from typing import Any

import numpy as np

from biaslab.errors import InputError

#: arrays of one layer: part (a layout key, or an estimator's own word) -> name -> array
Arrays = dict[str, dict[str, np.ndarray]]


#: estimator name -> class
ESTIMATORS: dict[str, type[Any]] = {}


def register(cls: type[Any]) -> type[Any]:
    """Class decorator: make an estimator known by its ``name``."""
    ESTIMATORS[cls.name] = cls
    return cls


def make(name: str, **params: Any) -> Any:
    """A fresh estimator by name.

    Raises
    ------
    InputError
        Unknown name or parameter.
    """
    if name not in ESTIMATORS:
        raise InputError(f"unknown profile estimator {name!r}: choose one of {', '.join(sorted(ESTIMATORS))}")
    try:
        return ESTIMATORS[name](**params)
    except TypeError as err:
        raise InputError(f"estimator {name!r}: {err}") from None
