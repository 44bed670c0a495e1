"""A count of tokens to keep that no image has: it is allowed, and prunes nothing."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

__all__ = ["warn_of_counts"]


def warn_of_counts(keeps: Iterable[float | int], most: int, *, stacklevel: int = 2) -> None:
    """Warn, once for each, of counts above the visual tokens of every image of a run.

    Parameters
    ----------
    keeps : iterable of float or int
        Ratios are never warned of.
    most : int
        Most visual tokens of an image; 0 where none is known.
    stacklevel : int
        As of ``warnings.warn``, seen from here.

    Examples
    --------
    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as said:
    ...     warn_of_counts([0.5, 64, 300, 300], most=256)
    >>> [str(warning.message) for warning in said]
    ['keep 300: an image has 256 visual tokens here, so all are kept']
    """
    for keep in sorted({keep for keep in keeps if isinstance(keep, int) and keep > most > 0}):
        text = f"keep {keep}: an image has {most} visual tokens here, so all are kept"
        warnings.warn(text, stacklevel=stacklevel + 1)
