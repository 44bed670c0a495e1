"""What a criterion makes of every head, with intervals over images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from biaslab.errors import InputError
from biaslab.stats.jackknife import check_confidence, half_width

__all__ = ["HeadRatings", "groups_of", "ratings_of"]

_GROUPS = 20  # of images, of which each is left out once
_FEWEST = 4  # images


@dataclass(frozen=True)
class HeadRatings:
    """Ratings of heads by one criterion.

    Attributes
    ----------
    criterion : str
    layers : list of int
        Decoder layers.
    values : (L, H) array
        Higher is a head that matters more.
    left_out : (G, L, H) array
        The same without each of G groups of images.
    bounds : (float, float)
        Of what values can be; intervals end there.
    """

    criterion: str
    layers: list[int]
    values: np.ndarray
    left_out: np.ndarray
    bounds: tuple[float, float] = (-np.inf, np.inf)

    def table(self, *, confidence: float = 0.95) -> pd.DataFrame:
        """Give a row per head.

        Parameters
        ----------
        confidence : float
            Of the intervals, in (0, 1).

        Returns
        -------
        DataFrame
            criterion, layer, head, value, lo, hi (jackknife over groups of images), rank (1 is the best; equal values
            share the mean of their ranks).
        """
        check_confidence(confidence)
        half = half_width(self.left_out, confidence=confidence)
        layer, head = np.indices(self.values.shape)
        values = self.values.ravel()
        table = pd.DataFrame({
            "criterion": self.criterion, "layer": np.asarray(self.layers)[layer.ravel()], "head": head.ravel(),
            "value": values, "lo": np.maximum(values - half.ravel(), self.bounds[0]),
            "hi": np.minimum(values + half.ravel(), self.bounds[1]),
        })  # fmt: skip
        return table.assign(rank=table["value"].rank(ascending=False))


def groups_of(pictures: Sequence[str]) -> np.ndarray:
    """Put prompts into groups that are left out together, those of one image in the same: numbers from 0.

    Parameters
    ----------
    pictures : sequence of n str
        Which image each prompt is about.

    Returns
    -------
    (n,) int array
        At most 20 groups.

    Raises
    ------
    InputError
        Fewer than 4 images.

    Examples
    --------
    >>> groups_of(["cat", "cat", "dog", "owl", "cow"]).tolist()
    [0, 0, 1, 2, 3]
    """
    number = {name: i for i, name in enumerate(dict.fromkeys(pictures))}
    if len(number) < _FEWEST:
        raise InputError(f"heads are rated on at least {_FEWEST} images, got {len(number)}")
    return np.array([number[name] for name in pictures]) % min(len(number), _GROUPS)


def ratings_of(
    criterion: str,
    layers: Sequence[int],
    groups: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> HeadRatings:
    """Rate heads by a statistic of prompts, with and without each group.

    Parameters
    ----------
    criterion : str
    layers : sequence of int
    groups : (n,) int array
        Of `groups_of`.
    statistic : callable
        (n,) bool mask of the prompts that count -> (L, H) ratings.
    bounds : (float, float)
        Of what they can be.

    Returns
    -------
    HeadRatings

    Examples
    --------
    >>> each = np.arange(24.0).reshape(4, 2, 3)  # prompts, layers, heads
    >>> found = ratings_of("mean", [0, 5], np.arange(4), lambda mask: each[mask].mean(0))
    >>> found.table()[["layer", "head", "value", "rank"]].iloc[-1].tolist()
    [5.0, 2.0, 14.0, 1.0]
    """
    left_out = np.stack([statistic(groups != g) for g in range(groups.max() + 1)])
    return HeadRatings(criterion, list(layers), statistic(np.ones(len(groups), dtype=bool)), left_out, bounds)
