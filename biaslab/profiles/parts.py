"""Moments of the images that share a layout: what estimators are fitted to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from biaslab.core.layout import TokenLayout


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


def parts_of(maps: Any, layer: int, folds: bool = False, only: Iterable[int] | None = None) -> list[Part]:
    """Moments of every layout that has images, as float64.

    Parameters
    ----------
    folds : fill :attr:`Part.pieces`.
    only : the folds to take; default all.
    """
    parts, about = [], maps.provenance
    for key, layout in maps.layouts.items():
        if not folds and only is None:
            pieces = [_part(layout, maps.moments(layer, key), about)]
        else:
            wanted = range(maps.folds) if only is None else only
            pieces = [_part(layout, maps.moments(layer, key, fold=f), about) for f in wanted]
        parts += [p for p in pieces if p.n]
    return merged(parts, pieces=folds)


def merged(parts: Iterable[Part], pieces: bool = False) -> list[Part]:
    """One part per layout, from parts of disjoint images; they are kept as its pieces if asked."""
    groups: dict[str, list[Part]] = {}
    for p in parts:
        groups.setdefault(p.layout.key, []).append(p)
    return [_together(same)._replace(pieces=tuple(same) if pieces else ()) for same in groups.values()]


def logs(parts: Iterable[Part]) -> list[Part]:
    """The log moments of parts, as :meth:`Profile.log_map` takes them."""
    return [Part(p.layout, p.n, p.log_mean, p.log_var, pieces=tuple(logs(p.pieces)), about=p.about) for p in parts]


def _part(layout: TokenLayout, m: Any, about: Mapping[str, Any]) -> Part:
    moments = (np.asarray(x, np.float64) for x in (m.mean, m.var, m.log_mean, m.log_var))
    return Part(layout, int(m.n), *moments, about=about)


def _together(same: list[Part]) -> Part:
    if len(same) == 1:
        return same[0]
    n = sum(p.n for p in same)

    def pooled(mean: str, var: str) -> tuple[np.ndarray | None, np.ndarray | None]:
        values = [(p.n / n, getattr(p, mean), getattr(p, var)) for p in same]
        if values[0][1] is None:
            return None, None
        centre = sum(share * m for share, m, _ in values)
        return centre, sum(share * (v + (m - centre) ** 2) for share, m, v in values)

    moments = (*pooled("mean", "var"), *pooled("log_mean", "log_var"))
    return Part(same[0].layout, n, *moments, about=same[0].about)
