"""A count of tokens to keep that no picture has: it is allowed, and prunes nothing."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

__all__ = ["warn_of_counts"]


def warn_of_counts(keeps: Iterable[float | int], most: int, *, stacklevel: int = 2) -> None:
    """Warn, once for each, of counts above the visual tokens of every picture of a run.

    Parameters
    ----------
    keeps : iterable of float or int
        Ratios are never warned of.
    most : int
        Most visual tokens of a picture; 0 where none is known.
    stacklevel : int
        As of ``warnings.warn``, seen from here.

    Examples
    --------
    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as said:
    ...     warn_of_counts([0.5, 64, 300, 300], most=256)
    >>> [str(warning.message) for warning in said]
    ['keep 300: a picture has 256 visual tokens here, so all are kept']
    """
    for keep in sorted({keep for keep in keeps if isinstance(keep, int) and keep > most > 0}):
        text = f"keep {keep}: a picture has {most} visual tokens here, so all are kept"
        warnings.warn(text, stacklevel=stacklevel + 1)
