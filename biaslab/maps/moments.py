"""Mean and variance of attention and of its centred logarithm, merged without cancellation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from biaslab._util.one_line import OneLine

TINY = 1e-9  # added before the logarithm; attention of a pruned or masked token is exactly 0
_PART = 2**14  # values of an image that are worked on at a time: what they need stays in the processor's cache


@dataclass(frozen=True, eq=False, repr=False)
class Moments(OneLine):
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

    def plus(self, images: Sequence[ArrayLike]) -> Moments:
        """Add single maps, one after the other: ``merge(Moments.of(image))`` of each, bit by bit.

        A part of all maps is done at a time, because arrays of whole maps are slow to make and to go through.

        Parameters
        ----------
        images : sequence of ndarray (..., N)

        Examples
        --------
        >>> Moments.empty((1, 2)).plus([[[0.1, 0.3]], [[0.3, 0.3]]]).mean.round(3)
        array([[0.2, 0.3]])
        """
        fields = (self.mean, self.var, self.log_mean, self.log_var)
        tokens = self.mean.shape[-1]
        before = [field.reshape(-1, tokens) for field in fields]
        after = [np.empty_like(field) for field in before]
        maps = [np.asarray(image).reshape(before[0].shape) for image in images]
        step = max(1, _PART // tokens)
        for start in range(0, len(before[0]), step):
            part = slice(start, start + step)
            mean, var, log_mean, log_var = (new[part] for new in after)
            for new, old in zip(after, before, strict=True):
                new[part] = old[part]
            for n, image in enumerate(maps, self.n + 1):
                attention = image[part].astype(np.float64)
                _add(n, attention, mean, var)
                _add(n, centred_log(attention), log_mean, log_var)
        return Moments(self.n + len(maps), *(new.reshape(self.mean.shape) for new in after))

    def __getitem__(self, index: Any) -> Moments:
        arrays = (self.mean, self.var, self.log_mean, self.log_var)
        return Moments(self.n, *(a[index] for a in arrays))


def _add(n: int, value: np.ndarray, mean: np.ndarray, var: np.ndarray) -> None:
    """Make the moments of n - 1 images those of n, in place: `Moments.merge` with a single one."""
    if n == 1:
        mean[...], var[...] = value, 0.0
        return
    share = 1 / n
    delta = value - mean
    var *= 1 - share
    var += share * (1 - share) * delta**2
    delta *= share
    mean += delta


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
    logs = np.asarray(attention, dtype=np.float64) + TINY
    np.log(logs, out=logs)
    even = (logs == logs[..., :1]).all(axis=-1)  # what rounding leaves there would pass for a map
    logs -= logs.mean(axis=-1, keepdims=True)
    logs[even] = 0.0
    return logs


def moments_of(parts: Iterable[np.ndarray]) -> Moments | None:
    """Moments of single maps of equal shape; None without any.

    Examples
    --------
    >>> moments_of(np.full((1, 4), a) for a in (0.1, 0.2, 0.3)).mean.round(3)
    array([[0.2, 0.2, 0.2, 0.2]])
    """
    total: Moments | None = None
    for part in parts:
        total = (Moments.empty(part.shape) if total is None else total).plus([part])
    return total
