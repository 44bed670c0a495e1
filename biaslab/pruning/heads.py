"""Which attention heads a method reads: all alike, those that look at something, or named ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, TypeAlias

import numpy as np

from biaslab.errors import InputError

__all__ = ["Heads", "as_heads", "named_weights"]

#: a word, heads that count alike, or pairs of a head and its weight
Heads: TypeAlias = "str | tuple[int, ...] | tuple[tuple[int, float], ...]"


def as_heads(value: Any, words: Sequence[str]) -> Heads:
    """Check the option ``heads`` of a method.

    Parameters
    ----------
    value : str, int, or sequence of int or of (int, float)
        One of ``words``; a head; heads that count alike; heads with their weights, which need not sum to 1.
    words : sequence of str
        That the method knows.

    Returns
    -------
    str, tuple of int, or tuple of (int, float)

    Raises
    ------
    InputError
        Anything else, a head named twice, or weights that are negative, not finite or all 0.

    Examples
    --------
    >>> as_heads([2, 3], ["mean"]), as_heads([[2, 3], [3, 1]], ["mean"]), as_heads(1, ["mean"])
    ((2, 3), ((2, 3.0), (3, 1.0)), (1,))
    >>> as_heads("best", ["mean", "quality"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    biaslab.errors.InputError: heads must be 'mean', 'quality', heads such as [2, 3] or pairs of a head and ...
    """
    if isinstance(value, str) and value in words:
        return value
    single = _is_head(value)
    items = [value] if single else list(value) if isinstance(value, (list, tuple)) else []
    if items and all(map(_is_head, items)):
        heads, weights = items, []
    elif items and all(isinstance(i, (list, tuple)) and len(i) == 2 and _is_head(i[0]) for i in items):
        heads, weights = [head for head, _ in items], [weight for _, weight in items]
    else:
        heads, weights = [], []
    if not heads or len(set(heads)) < len(heads) or not _are_weights(weights):
        known = ", ".join(repr(word) for word in words)
        raise InputError(
            f"heads must be {known}, heads such as [2, 3] or pairs of a head and its weight such as [[2, 0.7], "
            f"[3, 0.3]], each head once; got {value!r}"
        )
    if weights:
        return tuple((int(head), float(weight)) for head, weight in zip(heads, weights, strict=True))
    return tuple(int(head) for head in heads)


def named_weights(heads: Heads, n_heads: int) -> np.ndarray | None:
    """Weigh the heads of a layer as named.

    Parameters
    ----------
    heads : of `as_heads`
    n_heads : int
        Heads of the layer.

    Returns
    -------
    (H,) float32 array or None
        Of sum 1; None for a word.

    Raises
    ------
    InputError
        A head that the layer does not have.

    Examples
    --------
    >>> named_weights((0, 2), 3), named_weights(((1, 3.0), (2, 1.0)), 3), named_weights("mean", 3)
    (array([0.5, 0. , 0.5], dtype=float32), array([0.  , 0.75, 0.25], dtype=float32), None)
    """
    if isinstance(heads, str):
        return None
    weights = np.zeros(n_heads, dtype=np.float32)
    for item in heads:
        head, weight = item if isinstance(item, tuple) else (item, 1.0)
        if head >= n_heads:
            raise InputError(f"no head {head}: this model has heads 0 .. {n_heads - 1}")
        weights[head] = weight
    return weights / weights.sum()


def _is_head(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 0


def _are_weights(values: Sequence[Any]) -> bool:
    numbers: list[Any] = [v for v in values if isinstance(v, Real) and not isinstance(v, bool)]
    fine = len(numbers) == len(values) and all(math.isfinite(v) and v >= 0 for v in numbers)
    return fine and (not values or sum(numbers) > 0)
