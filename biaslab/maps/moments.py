"""Mean and variance of attention and of its centred logarithm, merged without cancellation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

TINY = 1e-9  # added before the logarithm; attention of a pruned or masked token is exactly 0


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and population variance over images, float64, ``(H or 1, N)`` each; zeros where ``n`` is 0.

    Attributes
    ----------
    n : int
        Number of images.
    mean, var : ndarray
        Of attention.
    log_mean, log_var : ndarray
        Of its centred logarithm, `centred_log`.

    Examples
    --------
    >>> first, second = Moments.of([[0.1, 0.3]]), Moments.of([[0.3, 0.3]])
    >>> both = first.merge(second)
    >>> both.n, both.mean.round(3), both.var.round(3)
    (2, array([[0.2, 0.3]]), array([[0.01, 0.  ]]))
    """

    n: int
    mean: np.ndarray
    var: np.ndarray
    log_mean: np.ndarray
    log_var: np.ndarray

    @staticmethod
    def of(attention: ArrayLike) -> Moments:
        """Moments of a single map ``(..., N)``."""
        x = np.asarray(attention, dtype=np.float64)
        return Moments(1, x, np.zeros_like(x), centred_log(x), np.zeros_like(x))

    @staticmethod
    def empty(shape: tuple[int, ...]) -> Moments:
        """Moments of no image."""
        return Moments(0, *(np.zeros(shape) for _ in range(4)))

    def merge(self, other: Moments) -> Moments:
        """Moments of two disjoint sets of images together."""
        if self.n == 0 or other.n == 0:
            return other if self.n == 0 else self
        n = self.n + other.n
        share = other.n / n

        def pair(
            mean_a: np.ndarray, var_a: np.ndarray, mean_b: np.ndarray, var_b: np.ndarray
        ) -> tuple[np.ndarray, np.ndarray]:
            delta = mean_b - mean_a
            var = (1 - share) * var_a + share * var_b + share * (1 - share) * delta**2
            return mean_a + share * delta, var

        mean, var = pair(self.mean, self.var, other.mean, other.var)
        log_mean, log_var = pair(self.log_mean, self.log_var, other.log_mean, other.log_var)
        return Moments(n, mean, var, log_mean, log_var)

    def __getitem__(self, index: Any) -> Moments:
        arrays = (self.mean, self.var, self.log_mean, self.log_var)
        return Moments(self.n, *(a[index] for a in arrays))


def centred_log(attention: ArrayLike) -> np.ndarray:
    """``log(attention + 1e-9)`` minus its mean over the last axis; exactly 0 where it does not vary.

    Parameters
    ----------
    attention : ndarray (..., N)
        Not negative.

    Returns
    -------
    ndarray (..., N), float64

    Examples
    --------
    >>> centred_log([0.1, 0.1 * np.e]).round(3)
    array([-0.5,  0.5])
    """
    logs = np.log(np.asarray(attention, dtype=np.float64) + TINY)
    even = (logs == logs[..., :1]).all(axis=-1, keepdims=True)  # what rounding leaves there would pass for a map
    return np.where(even, 0.0, logs - logs.mean(axis=-1, keepdims=True))


def moments_of(parts: Iterable[np.ndarray]) -> Moments | None:
    """Moments of single maps of equal shape; None without any.

    Examples
    --------
    >>> moments_of(np.full((1, 4), a) for a in (0.1, 0.2, 0.3)).mean.round(3)
    array([[0.2, 0.2, 0.2, 0.2]])
    """
    total: Moments | None = None
    for part in parts:
        moments = Moments.of(part)
        total = moments if total is None else total.merge(moments)
    return total
