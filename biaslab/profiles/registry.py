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
    """Make an estimator known by its ``name``; a class decorator. A name can be taken only once.

    Parameters
    ----------
    cls : type
        Subclass of :class:`~biaslab.profiles.Profile` with a ``name``.

    Returns
    -------
    type
        The class itself.

    Raises
    ------
    InputError
        The name is taken.

    Examples
    --------
    >>> from biaslab.profiles import MeanProfile, register
    >>> class Other(MeanProfile):
    ...     pass
    >>> register(Other)
    Traceback (most recent call last):
    biaslab.errors.InputError: a profile estimator named 'mean' exists already: choose another name
    """
    return ESTIMATORS.register(cls)


def make(name: str, **params: Any) -> Any:
    """Make a fresh estimator by name.

    Parameters
    ----------
    name : str
        One of ``ESTIMATORS``.
    **params
        Parameters of its constructor.

    Returns
    -------
    Profile
        Unfitted.

    Raises
    ------
    InputError
        Unknown name or parameter.

    Examples
    --------
    >>> from biaslab.profiles import ESTIMATORS, make
    >>> make("smooth", strength=10.0)
    SmoothProfile(strength=10.0)
    >>> sorted(ESTIMATORS)
    ['exponential', 'factorised', 'geometric', 'mean', 'rope', 'smooth', 'tile']
    """
    cls = ESTIMATORS.get(name)
    try:
        return cls(**params)
    except TypeError as err:
        raise InputError(f"estimator {name!r}: {err}") from None
