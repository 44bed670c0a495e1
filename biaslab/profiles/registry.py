"""Profile estimators by name."""

from __future__ import annotations

from typing import Any

import numpy as np

from biaslab._util.registry import Registry
from biaslab.errors import InputError

#: arrays of one layer: part (a layout key, or an estimator's own word) -> name -> array
Arrays = dict[str, dict[str, np.ndarray]]


#: estimator name -> class
ESTIMATORS: Registry[type[Any]] = Registry(
    "profile estimator", package="biaslab.profiles.estimators", group="biaslab.estimators"
)


def register(cls: type[Any]) -> type[Any]:
    """Class decorator: make an estimator known by its ``name``. A name can be taken only once."""
    return ESTIMATORS.register(cls)


def make(name: str, **params: Any) -> Any:
    """A fresh estimator by name.

    Raises
    ------
    InputError
        Unknown name or parameter.
    """
    cls = ESTIMATORS.get(name)
    try:
        return cls(**params)
    except TypeError as err:
        raise InputError(f"estimator {name!r}: {err}") from None
