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
    provenance: Mapping[str, Any] = MappingProxyType({})


def parts_of(maps: Maps, layer: int, *, pieces: bool = False, only: Iterable[int] | None = None) -> list[Part]:
    """Read the moments of every layout that has images, as float64.

    Parameters
    ----------
    maps : Maps
        Attention maps, stored or streamed.
    layer : int
        Decoder layer.
    pieces : bool
        Whether to fill :attr:`Part.pieces`.
    only : iterable of int, optional
        Folds to take; default all.

    Returns
    -------
    list of Part
        One per layout.
    """
    parts, provenance = [], maps.provenance
    for key, layout in maps.layouts.items():
        if not pieces and only is None:
            of_layout = [_part(layout, maps.moments(layer, key), provenance)]
        else:
            folds = range(maps.folds) if only is None else only
            of_layout = [_part(layout, maps.moments(layer, key, fold=f), provenance) for f in folds]
        parts += [p for p in of_layout if p.n]
    return merged(parts, pieces=pieces)


def merged(parts: Iterable[Part], *, pieces: bool = False) -> list[Part]:
    """Merge parts of disjoint images into one part per layout.

    Parameters
    ----------
    parts : iterable of Part
        Of any layouts.
    pieces : bool
        Whether to keep the parts as the merged part's pieces.

    Returns
    -------
    list of Part
        One per layout, in the order the layouts came.
    """
    groups: dict[str, list[Part]] = {}
    for p in parts:
        groups.setdefault(p.layout.key, []).append(p)
    return [_together(same)._replace(pieces=tuple(same) if pieces else ()) for same in groups.values()]


def logs(parts: Iterable[Part]) -> list[Part]:
    """Give the log moments of parts, as :meth:`Profile.log_map` takes them."""
    return [_log_part(p) for p in parts]


def _log_part(p: Part) -> Part:
    if p.log_mean is None or p.log_var is None:
        raise ValueError("this part holds log moments already, or attention without them")
    return Part(p.layout, p.n, p.log_mean, p.log_var, pieces=tuple(logs(p.pieces)), provenance=p.provenance)


def _part(layout: TokenLayout, m: Moments, provenance: Mapping[str, Any]) -> Part:
    mean, var, log_mean, log_var = (np.asarray(x, np.float64) for x in (m.mean, m.var, m.log_mean, m.log_var))
    return Part(layout, int(m.n), mean, var, log_mean, log_var, provenance=provenance)


def _together(same: list[Part]) -> Part:
    if len(same) == 1:
        return same[0]
    n = sum(p.n for p in same)
    mean, var = _pooled([(p.n / n, p.mean, p.var) for p in same])
    of_logs = [(p.n / n, p.log_mean, p.log_var) for p in same if p.log_mean is not None and p.log_var is not None]
    log_mean, log_var = _pooled(of_logs) if of_logs else (None, None)
    return Part(same[0].layout, n, mean, var, log_mean, log_var, provenance=same[0].provenance)


def _pooled(values: list[tuple[float, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of groups together, from each one's share of the images, mean and variance."""
    zero = np.zeros_like(values[0][1])
    centre = sum((share * mean for share, mean, _ in values), start=zero)
    return centre, sum((share * (var + (mean - centre) ** 2) for share, mean, var in values), start=zero)
