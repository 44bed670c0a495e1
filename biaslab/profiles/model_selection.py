"""Which estimator predicts the attention of images it has not seen: grouped cross-validation, two criteria."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from biaslab.core.layers import resolve_layers
from biaslab.errors import InputError
from biaslab.maps.moments import TINY, centred_log
from biaslab.maps.protocol import Maps, expect_maps
from biaslab.profiles.base import Profile
from biaslab.profiles.parts import Part, logs, parts_of
from biaslab.profiles.registry import ESTIMATORS, positional, positional_names
from biaslab.stats.jackknife import check_confidence, half_width

__all__ = ["CRITERIA", "EstimatorChoice", "select_estimator"]

#: criterion -> what its value is
CRITERIA = {
    "r2": "share of the variance of log attention, centred per image, that is explained",
    "deviance": "gamma deviance of attention saved per token against a flat map",
}

_COLUMNS = [
    "estimator", "criterion", "value", "value_lo", "value_hi", "behind", "behind_lo", "behind_hi", "n", "transports",
]  # fmt: skip
_TIE = 1e-6


@dataclass(frozen=True)
class EstimatorChoice:
    """The estimator that predicts held-out images best, and how all candidates fared.

    Attributes
    ----------
    best : str
        Name of the estimator.
    criterion : str
        What it is best by, "r2" or "deviance".
    estimator : Profile
        The estimator itself, unfitted.
    table : DataFrame
        Estimator x criterion over all layers, best first. ``value`` (more is better) with its interval ``value_lo``,
        ``value_hi``; ``behind``: the best value of the criterion minus this one, with the interval of that difference
        (images are the same, so it is far narrower); ``n`` images; ``transports`` to other layouts or not.
    by_layer : DataFrame
        The same for every layer, with a column ``layer``.
    unseen : int
        Images of a layout that the other folds do not hold.

    Examples
    --------
    >>> from biaslab import TokenLayout
    >>> from biaslab.maps.simulate import simulate
    >>> maps = simulate("bottom-heavy", {TokenLayout.raster(4, 4, size=(56, 56), family="demo"): 60}).maps
    >>> choice = select_estimator(maps, candidates=["mean", "smooth"])
    >>> choice.best, choice.criterion, choice.unseen
    ('smooth', 'r2', 0)
    """

    best: str
    criterion: str
    estimator: Profile
    table: pd.DataFrame
    by_layer: pd.DataFrame
    unseen: int

    def __repr__(self) -> str:
        return f"EstimatorChoice(best={self.best!r}, criterion={self.criterion!r})"


def select_estimator(
    maps: Maps,
    *,
    layers: int | Iterable[int] | None = None,
    candidates: Iterable[str | Profile] | None = None,
    criterion: str = "r2",
    confidence: float = 0.95,
) -> EstimatorChoice:
    """Compare estimators on held-out images and choose one.

    Every fold of images is predicted from the others; parameters that an estimator tunes are tuned within those.
    Two criteria are always computed, since each has its favourite:

    ``"r2"``: the share of the variance of log attention, centred per image, that the logarithm of the expected
        attention explains (0 is a flat map). Log error is least for the mean of logs, so it favours ``geometric`` over
        ``mean``. (:func:`~biaslab.profiles.variance_explained` asks what position explains, and lets each
        estimator pool logs for it: there the two are the same.)
    ``"deviance"``: the unit gamma deviance ``2 (x / m - 1 - log(x / m))`` of attention x from its expectation m,
        saved per token against a flat map of the same mass. Least for the mean: it favours ``mean``. The saving
        needs only the mean attention of each fold, so streamed maps do; the deviance itself would need the
        mean level of log attention, which they do not keep.

    A layout that the other folds do not hold counts as predicted flat by an estimator that does not transport to it:
    all are scored on the same images.

    Intervals are a delete-one-fold jackknife of the held-out scores with Student's t. Predictions are not refitted
    without the fold, and the training sets of the folds overlap, so they are approximate (Bengio and Grandvalet,
    JMLR 5, 2004: no unbiased estimate of this variance exists).

    Parameters
    ----------
    maps : Maps
        Attention maps, stored or streamed.
    layers : int or iterable of int, optional
        Decoder layers; default all that ``maps`` holds. One estimator is chosen for all of them.
    candidates : iterable of str or Profile, optional
        Names or unfitted instances; default every registered estimator that can be fitted to these maps.
    criterion : {"r2", "deviance"}
        Of the choice. Of equals (to 1e-6), one that transports is taken.
    confidence : float
        Of the intervals.

    Returns
    -------
    EstimatorChoice
        The best estimator, unfitted, and the table of all candidates.

    Raises
    ------
    InputError
        Unknown criterion, estimator or layer, a candidate that cannot be fitted to these maps, or images in fewer
        than two folds.

    References
    ----------
    Bengio and Grandvalet (2004), No unbiased estimator of the variance of K-fold cross-validation, JMLR 5.

    Examples
    --------
    >>> from biaslab.profiles import select_estimator
    >>> from biaslab import TokenLayout
    >>> from biaslab.maps.simulate import simulate
    >>> layout = TokenLayout.raster(4, 4, size=(56, 56), family="demo")
    >>> maps = simulate("bottom-heavy", {layout: 60}).maps
    >>> choice = select_estimator(maps, candidates=["mean", "geometric", "smooth"])
    >>> choice.best
    'smooth'
    >>> rows = choice.table[choice.table["criterion"] == "r2"]
    >>> rows[["estimator", "value", "value_lo", "value_hi", "behind"]].round(2)
       estimator  value  value_lo  value_hi  behind
    0     smooth   0.22      0.18      0.27    0.00
    1  geometric   0.21      0.16      0.27    0.01
    2       mean   0.20      0.14      0.26    0.02
    >>> profile = choice.estimator.fit(maps)
    """
    expect_maps(maps)
    if criterion not in CRITERIA:
        raise InputError(f"unknown criterion {criterion!r}: choose one of {', '.join(CRITERIA)}")
    check_confidence(confidence)
    layers = resolve_layers(layers, maps.layers, "the maps", "collect")
    named = _named(candidates, maps.provenance)
    scores = [_layer(maps, layer, list(named.values())) for layer in layers]  # (folds, candidates, 2, 2) each
    sums = np.stack([s for s, _, _ in scores])
    _, n, unseen = scores[0]
    tables = [_table(s, named, n, confidence) for s in sums]
    table = _table(sums.sum(axis=0), named, n, confidence)
    by_layer = pd.concat(
        [t.assign(layer=x)[["layer", *_COLUMNS]] for x, t in zip(layers, tables, strict=True)], ignore_index=True
    )
    best = _best(table[table["criterion"] == criterion])
    return EstimatorChoice(best, criterion, clone(named[best]), table, by_layer, unseen)


def _named(candidates: Iterable[str | Profile] | None, provenance: Mapping[str, Any]) -> dict[str, Profile]:
    """Label -> estimator; instances of one class are told apart by their parameters."""
    able = (name for name in positional_names() if ESTIMATORS[name].frames or not provenance.get("frames"))
    fitting = (name for name in able if ESTIMATORS[name].refuses(provenance) is None)
    estimators = [positional(c) for c in (fitting if candidates is None else candidates)]
    if not estimators:
        raise InputError(f"no candidates: give some of {', '.join(positional_names())}")
    if reason := next((why for e in estimators if (why := e.refuses(provenance))), None):
        raise InputError(reason)
    names = [e.name for e in estimators]
    return {e.name if names.count(e.name) == 1 else " ".join(repr(e).split()): e for e in estimators}


def _layer(maps: Maps, layer: int, candidates: Sequence[Profile]) -> tuple[np.ndarray, int, int]:
    """(folds, candidates, criteria, 2) numerators and denominators of one layer, images, and those of unseen layouts.

    Numerators are sums of what is gained over a flat map.
    """
    filled = [f for f in range(maps.folds) if parts_of(maps, layer, only=[f])]
    if len(filled) < 2:
        raise InputError("choosing an estimator needs images in at least two folds: collect more images")
    out = np.zeros((len(filled), len(candidates), len(CRITERIA), 2))
    n = unseen = 0
    for i, fold in enumerate(filled):
        train = parts_of(maps, layer, pieces=True, only=[f for f in filled if f != fold])
        keys = {p.layout.key for p in train}
        test = parts_of(maps, layer, only=[fold])
        n += sum(p.n for p in test)
        unseen += sum(p.n for p in test if p.layout.key not in keys)
        for k, candidate in enumerate(candidates):
            out[i, k] = _gains(candidate, train, test)
    return out, n, unseen


def _gains(estimator: Profile, train: list[Part], test: list[Part]) -> np.ndarray:
    """(criteria, 2) gain over a flat map and what it is divided by, of one fold."""
    arrays = estimator._pool(train)
    mass = {p.layout.key: p.mean.sum(axis=1, keepdims=True) for p in train}
    pooled = sum(p.n * mass[p.layout.key] for p in train) / sum(p.n for p in train)
    explained = variation = saved = tokens = 0.0
    for p, log in zip(test, logs(test), strict=True):
        key = p.layout.key
        variation += p.n * (log.var + log.mean**2).sum()
        tokens += p.n * p.mean.size
        if key not in mass and "layout" not in estimator.transports:
            continue
        shape = estimator._expand(arrays, p.layout)[0].astype(np.float64)
        scale = np.maximum(mass.get(key, pooled), TINY)
        flat = scale / p.layout.n
        expected = scale * shape / shape.sum(axis=1, keepdims=True)
        explained += p.n * (log.mean**2 - (log.mean - centred_log(expected)) ** 2).sum()
        expected = np.maximum(expected, TINY)
        saved += 2 * p.n * (p.mean * (1 / flat - 1 / expected) + np.log(flat / expected)).sum()
    return np.array([[explained, variation], [saved, tokens]])


def _table(sums: np.ndarray, named: dict[str, Profile], n: int, confidence: float) -> pd.DataFrame:
    """Values of one layer, or of all together, from (folds, candidates, criteria, 2)."""
    total = sums.sum(axis=0)
    value, left_out = _ratio(total), _ratio(total - sums)
    half = half_width(left_out, confidence=confidence, least=2)
    rows = []
    for c, criterion in enumerate(CRITERIA):
        top = int(np.nanargmax(value[:, c])) if np.isfinite(value[:, c]).any() else 0
        behind = value[top, c] - value[:, c]
        width = half_width(left_out[:, [top], c] - left_out[:, :, c], confidence=confidence, least=2)
        candidates = [
            (label, criterion, value[k, c], value[k, c] - half[k, c], value[k, c] + half[k, c],
             behind[k], behind[k] - width[k], behind[k] + width[k], n, "layout" in candidate.transports)
            for k, (label, candidate) in enumerate(named.items())
        ]  # fmt: skip
        rows += sorted(candidates, key=lambda row: row[5])
    return pd.DataFrame(rows, columns=_COLUMNS)


def _ratio(sums: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan)


def _best(rows: pd.DataFrame) -> str:
    equal = rows[~(rows["behind"] > _TIE)]
    transporting = equal[equal["transports"]]
    return str((transporting if len(transporting) else equal)["estimator"].iloc[0])
