"""Profile estimators by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from biaslab._util.registry import Registry
from biaslab.core.frames import FramesLayout
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError

if TYPE_CHECKING:
    from biaslab.profiles.base import Profile

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
    ['exponential', 'factorised', 'geometric', 'localization_heads', 'lookahead', 'mean', 'rope', 'smooth', 'tile']
    """
    cls = ESTIMATORS.get(name)
    try:
        return cls(**params)
    except TypeError as err:
        raise InputError(f"estimator {name!r}: {err}") from None


def positional(estimator: Profile | str) -> Profile:
    """Return an estimator of position alone, of which one is given or named.

    Parameters
    ----------
    estimator : str or Profile

    Raises
    ------
    InputError
        Unknown name, or a conditional estimator.

    Examples
    --------
    >>> from biaslab.profiles.registry import positional
    >>> positional("tile").name
    'tile'
    >>> positional("lookahead")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    biaslab.errors.InputError: 'lookahead' predicts from what is shown and asked: name an estimator of position ...
    """
    found: Profile = make(estimator) if isinstance(estimator, str) else estimator
    if getattr(found, "kind", "positional") == "heads":
        known = ", ".join(positional_names())
        raise InputError(f"{found.name!r} chooses heads: name an estimator of position ({known})")
    if getattr(found, "conditional", False):
        raise InputError(
            f"{found.name!r} predicts from what is shown and asked: name an estimator of position "
            f"({', '.join(positional_names())}), or ask its own .explained(maps)"
        )
    return found


def check_frames(estimator: Any, layouts: Iterable[TokenLayout]) -> None:
    """Refuse maps of several frames for an estimator that does not serve them.

    Raises
    ------
    InputError
    """
    if any(isinstance(layout, FramesLayout) for layout in layouts):
        check_knows_frames(estimator)


def check_knows_frames(estimator: Any) -> None:
    """Refuse an estimator that does not serve layouts of several frames.

    Raises
    ------
    InputError

    Examples
    --------
    >>> check_knows_frames(make("smooth"))
    Traceback (most recent call last):
    biaslab.errors.InputError: 'smooth' knows no frames: choose among exponential, factorised, geometric, mean, tile
    """
    if not estimator.frames:
        able = [name for name in positional_names() if ESTIMATORS[name].frames]
        raise InputError(f"{estimator.name!r} knows no frames: choose among {', '.join(able)}")


def positional_names() -> list[str]:
    """List the estimators of position alone, in alphabetical order."""
    return sorted(name for name, cls in ESTIMATORS.items() if getattr(cls, "kind", "positional") == "positional")
