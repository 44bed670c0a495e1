"""A fitted profile against the causal probe: the effect of the location, or of what stood there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from biaslab._util.model_identity import SETTINGS, are_same_weights
from biaslab.core.layers import shared_layers
from biaslab.core.layout import TokenLayout
from biaslab.diagnostics.probe.measuring import footprint
from biaslab.diagnostics.probe.result import ProbeResult, group_means
from biaslab.errors import InputError
from biaslab.maps.base import AttentionMaps
from biaslab.maps.moments import TINY
from biaslab.profiles import Profile
from biaslab.stats.jackknife import check_confidence, half_width
from biaslab.stats.multiple_testing import q_values
from biaslab.stats.spatial import spectral_test

__all__ = ["compare", "profile_effects", "profile_maps", "reliability"]

_HALVES = 200  # random splits behind the reliability
_SCORE = {"score": "attention"}  # what a probe measures


def compare(
    probe: ProbeResult,
    other: Profile | AttentionMaps,
    *,
    seed: int = 0,
    n_resamples: int = 9999,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Compute slope and correlation, in log space, between a profile and the causal effect of the location.

    The profile is read as the probe reads attention: its mean over the tokens of every object shown, weighted
    by what the object covers, the logarithm of that, centred over locations. Both maps are then blurred alike by the
    objects, and cells stand where objects stood. Of attention maps the mean log attention of each token takes the
    profile's place.

    Parameters
    ----------
    probe : ProbeResult
        The measurement.
    other : Profile or AttentionMaps
        Fitted profile of the same model, queries and heads; or its maps.
    seed : int
        Of the random maps, and of the halves behind the reliability.
    n_resamples : int
        Random maps behind each p-value (`spectral_test`).
    confidence : float
        Of the intervals, in (0, 1).

    Returns
    -------
    DataFrame
        A line per layer, head and region (columns layer, head, region, then):

        - slope, slope_lo, slope_hi: of the probe on the profile. 1: dividing by the profile removes just the effect of
          the location. 0: nothing in the profile is that effect. Between: the profile overstates, and division
          overcorrects. Noise of the profile lowers it, noise of the probe does not.
        - r, r_lo, r_hi: Pearson correlation of the two maps.
        - reliability, ceiling: of the probe's map, from correlations of maps of random halves of the groups, stepped up
          by Spearman and Brown; the ceiling, its square root, is the correlation a perfect profile would reach.
        - r_disattenuated: r / ceiling. NaN where the probe is not reliable at all (reliability <= 0).
        - p, q: `spectral_test`, and Benjamini-Hochberg over all lines of the table.
        - profile_sd, probe_sd: of the maps over locations, natural logarithms.
        - groups, locations: n.

        Intervals are delete-one-group jackknives with Student's t (r after Fisher's z): they speak of other objects
        and backgrounds, with this profile. For maps the jackknife over their folds of images is added.

    Raises
    ------
    InputError, ProfileMismatchError
        Nothing in common; a profile of another model, query rule, head reduction, score or layout.

    Examples
    --------
    >>> import biaslab as bl
    >>> import numpy as np
    >>> from biaslab.maps.simulate import planted_bias, simulate
    >>> from biaslab.diagnostics.probe import compare

    Four objects, each at all 8 x 8 cells of a model that looks at the border, and a profile of 60 images of that model:

    >>> layout = bl.TokenLayout.raster(8, 8, size=(224, 224), family="llava")
    >>> effect = planted_bias("u-shaped", layout).reshape(8, 8)
    >>> log = effect + np.random.default_rng(0).normal(0, 0.2, (4, 8, 8))
    >>> corner = 28.0 * np.stack(np.meshgrid(np.arange(8), np.arange(8)), axis=-1)
    >>> boxes = np.tile(np.concatenate([corner, corner + 28], axis=-1)[None, :, :, None], (4, 1, 1, 1, 1))
    >>> settings = {"model": "simulated", "revision": None, "family": "llava", "queries": "last", "heads": "mean"}
    >>> probe = bl.ProbeResult(
    ...     log[..., None, None, None], None, boxes, list("abcd"), [0], ["mean"], ["tiles"], layout, settings
    ... )
    >>> profile = bl.MeanProfile().fit(simulate("u-shaped", [(layout, 60)]).maps)
    >>> compare(probe, profile, n_resamples=199)[["layer", "region", "slope", "r", "ceiling", "p", "groups"]].round(3)
       layer region  slope      r  ceiling      p  groups
    0      0  tiles  0.931  0.933    0.972  0.005       4
    """
    check_confidence(confidence)
    layers, read = _reader(probe, other)
    tokens = [read(layer) for layer in layers]
    # all layers at once: what an object covers is worked out once per image
    together = profile_effects(probe, np.concatenate([version for versions in tokens for version in versions]))
    rows, start = [], 0
    for layer, maps in zip(layers, tokens, strict=True):
        ends = start + np.cumsum([0, *(len(version) for version in maps)])
        versions = [together[..., a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]
        start = ends[-1]
        for h, head in enumerate(probe.heads):
            for k, region in enumerate(probe.regions):
                y = probe.effects[(..., *probe.at(layer, head, region))]
                x = [v[..., k, h] for v in versions]
                line = _line(x, y, confidence, n_resamples, seed)
                rows.append({"layer": layer, "head": head, "region": region, **line})
    table = pd.DataFrame(rows)
    table.insert(list(table.columns).index("p") + 1, "q", q_values(table["p"]))
    return table


def profile_effects(probe: ProbeResult, tokens: np.ndarray) -> np.ndarray:
    """Read a profile at every location as the probe reads attention.

    Parameters
    ----------
    probe : ProbeResult
        Whose boxes and layout are used.
    tokens : ndarray
        (H or 1, N) expected attention.

    Returns
    -------
    ndarray
        (G, R, C, regions, H or 1): logarithm of the mean over the object, centred over locations, mean over a group's
        pairs.
    """
    shape = probe.boxes.shape[:4]
    out = np.empty((*shape, len(probe.regions), len(tokens)))
    for at in np.ndindex(*shape):
        out[at] = footprint(tokens, probe.layout, probe.box(*at))
    logs = np.log(out + TINY).mean(3)
    return group_means(logs - logs.mean((1, 2), keepdims=True), probe.groups)


def profile_maps(probe: ProbeResult, other: Profile | AttentionMaps, layer: int) -> np.ndarray:
    """Give the maps (R, C, regions, heads) of a profile, or of maps, as `compare` reads them: centred logarithms."""
    effects = profile_effects(probe, _reader(probe, other)[1](layer)[0]).mean(0)
    return effects + np.zeros(len(probe.heads))


def reliability(maps: np.ndarray, seed: int = 0) -> float:
    """Estimate the reliability of the mean of G maps: mean correlation of random halves, stepped up.

    Spearman and Brown's formula, for the length of the whole.

    Parameters
    ----------
    maps : ndarray
        (G, R, C) effects per group.
    seed : int
        Of the halves.

    Returns
    -------
    float
        NaN with fewer than two groups.
    """
    flat = maps.reshape(len(maps), -1)
    flat = flat - flat.mean(1, keepdims=True)
    n, half = len(flat), len(flat) // 2
    if n < 2 or not flat.any():
        return np.nan
    gram, rng = flat @ flat.T, np.random.default_rng(seed)
    first = np.argsort(rng.random((_HALVES, n)), axis=1) < half
    a = first / half
    b = ~first / (n - half)
    cross, own_a, own_b = (np.einsum("si,ij,sj->s", u, gram, v) for u, v in ((a, b), (a, a), (b, b)))
    r = float((cross / np.sqrt(own_a * own_b)).mean())
    length = n / np.sqrt(half * (n - half))  # 2, a little more where the halves are uneven
    return length * r / (1 + (length - 1) * r)


def _reader(probe: ProbeResult, other: Any) -> tuple[list[int], Callable[[int], list[np.ndarray]]]:
    """Layers in common, and the function that gives a layer's tokens: whole, then (of maps) without each fold."""
    settings, heads = probe.settings, "mean" if probe.heads == ["mean"] else len(probe.heads)
    layout: TokenLayout = probe.layout
    if isinstance(other, AttentionMaps):
        mine = {"model": settings["model"], "queries": settings["queries"], "heads": settings["heads"], **_SCORE}
        theirs = {**_SCORE, **other.settings}
        same = are_same_weights(settings, theirs)
        if same is False:
            raise InputError("the maps are of a model with other weights than the probe's: measure both alike")
        if same:
            del mine["model"]  # its folder may have been moved
        for name, value in mine.items():
            if theirs.get(name) != value:
                found = theirs.get(name)
                raise InputError(f"the maps have {name} {found!r}, the probe {value!r}: measure both alike")
        if layout.key not in other.layouts:
            raise InputError(f"the maps hold {sorted(other.layouts)}, not the probe's {layout.key!r}: choose its size")

        def read(layer: int) -> list[np.ndarray]:
            without = [other.moments(layer, layout.key, exclude_fold=f) for f in range(other.folds)]
            return [np.exp(m.log_mean) for m in (other.moments(layer, layout.key), *without) if m.n]
    else:
        keys = (*SETTINGS, "queries")
        other.check(**{k: settings.get(k) for k in keys}, **_SCORE, heads=heads, layout=layout)

        def read(layer: int) -> list[np.ndarray]:
            return [other.expected(layout, layer).double().numpy()]

    held, what = (other.layers, "the maps") if isinstance(other, AttentionMaps) else (other.layers_, "the profile")
    return shared_layers(probe.layers, held, ("the probe", what)), read


def _line(x: list[np.ndarray], y: np.ndarray, confidence: float, n_resamples: int, seed: int) -> dict[str, Any]:
    """One comparison; ``x`` are (G, R, C) maps of the profile, whole and then without each fold; ``y`` the probe's."""
    whole, groups = x[0], len(y)
    value = _statistics(whole, y)
    rest = np.arange(groups)
    left_out = [_statistics(whole[rest != g], y[rest != g]) for g in rest] if groups > 1 else [np.full(2, np.nan)]
    spread = half_width(np.array(left_out), confidence=confidence)
    if len(x) > 3:
        spread = np.hypot(spread, half_width(np.array([_statistics(v, y) for v in x[1:]]), confidence=confidence))
    lo, hi = value - spread, value + spread
    _, p = spectral_test(whole.mean(0), y.mean(0), n_resamples=n_resamples, seed=seed)
    of_probe = reliability(y, seed)
    ceiling = np.sqrt(of_probe) if of_probe > 0 else np.nan
    r = float(np.tanh(value[1]))
    return {
        "slope": value[0], "slope_lo": lo[0], "slope_hi": hi[0], "r": r, "r_lo": np.tanh(lo[1]), "r_hi": np.tanh(hi[1]),
        "reliability": of_probe, "ceiling": ceiling, "r_disattenuated": r / ceiling, "p": p,
        "profile_sd": whole.mean(0).std(), "probe_sd": y.mean(0).std(), "groups": groups, "locations": y[0].size,
    }  # fmt: skip


def _statistics(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Slope of y on x, and Fisher's z of their correlation, of the mean maps of some groups."""
    a, b = (m.mean(0).ravel() - m.mean() for m in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = a @ b / np.sqrt((a @ a) * (b @ b))
        return np.array([a @ b / (a @ a), np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))])
