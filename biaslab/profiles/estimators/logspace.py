"""What estimators that work on log attention share: the way back to attention, and the mass of each layout."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, ProfileMismatchError
from biaslab.profiles.base import Profile
from biaslab.profiles.parts import Part, logs
from biaslab.profiles.registry import Arrays

__all__ = ["LogProfile"]

_LEVEL = "level"  # the part that holds what belongs to no layout; layout keys hold slashes
_FLOOR = -60.0  # of the log map below its highest token: float32 attention stays above 0


class LogProfile(Profile):
    """A map of log attention, learned from log attention centred per image.

    Back to attention: ``expected = mass * exp(m) / sum(exp(m))``, where m is the log map and ``mass`` the mean
    attention that all visual tokens of the layout draw together (of a layout that was not fitted: the mean mass
    of those that were). The exponential of a mean of logs lies below the mean; setting the sum right is Duan's
    smearing correction (J. Am. Stat. Assoc. 78, 1983, 605-610) with one factor for all positions. It is
    exact where the spread of log attention is the same everywhere; where it is not, positions that vary much
    come out lower than their mean. The ranking of tokens does not depend on the factor.

    ``std`` is ``expected`` times the coefficient of variation between images, pooled over positions.
    """

    @abstractmethod
    def _learn(self, parts: list[Part]) -> Arrays:
        """Learned arrays from log moments (``mean`` and ``var`` of each part are of log attention)."""

    @abstractmethod
    def _log(self, arrays: Arrays, layout: TokenLayout) -> np.ndarray | None:
        """(H or 1, N) log map of a layout, up to a constant; None where nothing can be predicted."""

    def _pool(self, parts: list[Part]) -> Arrays:
        mass = {p.layout.key: p.mean.sum(axis=1) for p in parts}
        if any((m <= 0).any() for m in mass.values()):
            raise InputError("a head pays no attention to the image at all: leave that layer out, or use heads='mean'")
        arrays = self._learn(logs(parts))
        for key, value in mass.items():
            arrays.setdefault(key, {})["mass"] = value
        squares = sum(p.n * (p.mean**2).sum(axis=1) for p in parts)
        arrays[_LEVEL] = {
            "mass": sum(p.n * mass[p.layout.key] for p in parts) / sum(p.n for p in parts),
            "variation": np.sqrt(sum(p.n * p.var.sum(axis=1) for p in parts) / squares),
        }
        return {part: {k: np.asarray(v, np.float32) for k, v in named.items()} for part, named in arrays.items()}

    def _expand(self, arrays: Arrays, layout: TokenLayout) -> tuple[np.ndarray, np.ndarray]:
        values = self._log(arrays, layout)
        if values is None:
            raise ProfileMismatchError(f"the {self.name!r} profile cannot tell layout {layout.key!r}: fit one on it")
        values = values.astype(np.float64)
        shape = np.exp(np.maximum(values - values.max(axis=1, keepdims=True), _FLOOR))
        mass = arrays.get(layout.key, arrays[_LEVEL])["mass"].astype(np.float64)[:, None]
        expected = shape * (mass / shape.sum(axis=1, keepdims=True))
        return expected, expected * arrays[_LEVEL]["variation"][:, None]

    def log_map(self, parts: list[Part], layout: TokenLayout) -> np.ndarray | None:
        """Predict the centred log map of a layout from log moments of other images; see :class:`Profile`."""
        if not parts:
            return None
        values = self._log(self._learn(parts), layout)
        return None if values is None else values - values.mean(axis=1, keepdims=True)
