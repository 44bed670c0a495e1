"""Mean and variance of attention and of its centred logarithm, merged without cancellation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

TINY = 1e-9  # added before the logarithm; attention of a pruned or masked token is exactly 0


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and population variance over images, float64, ``(H or 1, N)`` each; zeros where ``n`` is 0."""

    n: int
    mean: np.ndarray
    var: np.ndarray
    log_mean: np.ndarray
    log_var: np.ndarray

    @staticmethod
    def of(attention: np.ndarray) -> Moments:
        """Moments of a single map ``(..., N)``."""
        x = np.asarray(attention, dtype=np.float64)
        return Moments(1, x, np.zeros_like(x), centred_log(x), np.zeros_like(x))

    @staticmethod
    def empty(shape: tuple[int, ...]) -> Moments:
        return Moments(0, *(np.zeros(shape) for _ in range(4)))

    def merge(self, other: Moments) -> Moments:
        """Moments of two disjoint sets of images together."""
        if self.n == 0 or other.n == 0:
            return other if self.n == 0 else self
        n = self.n + other.n
        share = other.n / n

        def pair(mean_a, var_a, mean_b, var_b):
            delta = mean_b - mean_a
            var = (1 - share) * var_a + share * var_b + share * (1 - share) * delta**2
            return mean_a + share * delta, var

        mean, var = pair(self.mean, self.var, other.mean, other.var)
        log_mean, log_var = pair(self.log_mean, self.log_var, other.log_mean, other.log_var)
        return Moments(n, mean, var, log_mean, log_var)

    def __getitem__(self, index: Any) -> Moments:
        arrays = (self.mean, self.var, self.log_mean, self.log_var)
        return Moments(self.n, *(a[index] for a in arrays))


def centred_log(attention: np.ndarray) -> np.ndarray:
    """``log(attention + 1e-9)`` minus its mean over the last axis; exactly 0 where it does not vary."""
    logs = np.log(np.asarray(attention, dtype=np.float64) + TINY)
    even = (logs == logs[..., :1]).all(axis=-1, keepdims=True)  # what rounding leaves there would pass for a map
    return np.where(even, 0.0, logs - logs.mean(axis=-1, keepdims=True))


def moments_of(parts: Iterable[np.ndarray]) -> Moments | None:
    """Moments of single maps of equal shape; None without any."""
    total: Moments | None = None
    for part in parts:
        one = Moments.of(part)
        total = one if total is None else total.merge(one)
    return total
