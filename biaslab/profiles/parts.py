"""Moments of the images that share a layout: what estimators are fitted to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from biaslab.core.layout import TokenLayout
from biaslab.maps.moments import Moments
from biaslab.maps.protocol import Maps


class Part(NamedTuple):
    """Moments of the images that share one layout, in float64.

    In fitting ``mean`` and ``var`` are of attention and the log moments stand beside them; what
    :meth:`Profile.log_map` is given holds the log moments as ``mean`` and ``var`` (see :func:`logs`).
    """

    layout: TokenLayout
    n: int
    mean: np.ndarray  # (H or 1, N)
    var: np.ndarray  # (H or 1, N), population variance between images
    log_mean: np.ndarray | None = None  # (H or 1, N), of log attention centred per image
    log_var: np.ndarray | None = None
    #: the same images fold by fold, where the estimator cross-validates; else empty
    pieces: tuple[Part, ...] = ()
    #: provenance of the maps: what else is known of the model and the prompts
    about: Mapping[str, Any] = MappingProxyType({})


def parts_of(maps: Maps, layer: int, *, pieces: bool = False, only: Iterable[int] | None = None) -> list[Part]:
    """Moments of every layout that has images, as float64.

    Parameters
    ----------
    pieces : fill :attr:`Part.pieces`.
    only : the folds to take; default all.
    """
    parts, about = [], maps.provenance
    for key, layout in maps.layouts.items():
        if not pieces and only is None:
            found = [_part(layout, maps.moments(layer, key), about)]
        else:
            wanted = range(maps.folds) if only is None else only
            found = [_part(layout, maps.moments(layer, key, fold=f), about) for f in wanted]
        parts += [p for p in found if p.n]
    return merged(parts, pieces=pieces)


def merged(parts: Iterable[Part], *, pieces: bool = False) -> list[Part]:
    """One part per layout, from parts of disjoint images; they are kept as its pieces if asked."""
    groups: dict[str, list[Part]] = {}
    for p in parts:
        groups.setdefault(p.layout.key, []).append(p)
    return [_together(same)._replace(pieces=tuple(same) if pieces else ()) for same in groups.values()]


def logs(parts: Iterable[Part]) -> list[Part]:
    """The log moments of parts, as :meth:`Profile.log_map` takes them."""
    return [_log_part(p) for p in parts]


def _log_part(p: Part) -> Part:
    if p.log_mean is None or p.log_var is None:
        raise ValueError("this part holds log moments already, or attention without them")
    return Part(p.layout, p.n, p.log_mean, p.log_var, pieces=tuple(logs(p.pieces)), about=p.about)


def _part(layout: TokenLayout, m: Moments, about: Mapping[str, Any]) -> Part:
    mean, var, log_mean, log_var = (np.asarray(x, np.float64) for x in (m.mean, m.var, m.log_mean, m.log_var))
    return Part(layout, int(m.n), mean, var, log_mean, log_var, about=about)


def _together(same: list[Part]) -> Part:
    if len(same) == 1:
        return same[0]
    n = sum(p.n for p in same)
    mean, var = _pooled([(p.n / n, p.mean, p.var) for p in same])
    of_logs = [(p.n / n, p.log_mean, p.log_var) for p in same if p.log_mean is not None and p.log_var is not None]
    log_mean, log_var = _pooled(of_logs) if of_logs else (None, None)
    return Part(same[0].layout, n, mean, var, log_mean, log_var, about=same[0].about)


def _pooled(values: list[tuple[float, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of groups together, from each one's share of the images, mean and variance."""
    zero = np.zeros_like(values[0][1])
    centre = sum((share * mean for share, mean, _ in values), start=zero)
    return centre, sum((share * (var + (mean - centre) ** 2) for share, mean, var in values), start=zero)
