"""How strongly to remove a profile: the strength that predicts held-out attention best.

Worked on log attention centred per image (and head), as :mod:`biaslab.profiles.variance`. With p the map that
the other folds of images predict, ``strength * p`` misses the held-out images by a sum of squares that is quadratic
in the strength, so its minimum is exact and streamed moments are enough: least squares of held-out on predicted,

    strength = sum_f n_f <m_f, p_f> / sum_f n_f <p_f, p_f>,    m_f being the mean map of fold f,

cut to [0, 1]. It falls below 1 as far as p is noise: a map of few images overstates itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from biaslab.core.layers import resolve_layer
from biaslab.errors import InputError
from biaslab.maps.protocol import Maps, expect_maps
from biaslab.profiles.base import Profile
from biaslab.profiles.parts import Part
from biaslab.profiles.registry import positional
from biaslab.profiles.variance import held_out, log_folds
from biaslab.stats.jackknife import check_confidence, half_width

__all__ = ["StrengthResult", "choose_strength", "reliable_share", "shrink"]


@dataclass(frozen=True)
class StrengthResult:
    """The strength that predicts held-out attention best in one layer.

    Attributes
    ----------
    layer : int
        Decoder layer.
    estimator : str
        Name of the estimator.
    strength, strength_lo, strength_hi : float
        Over all heads together, in [0, 1], and the interval of the uncut value (delete-one-fold jackknife with
        Student's t; NaN with fewer than three folds), cut likewise.
    per_head_strength : (H or 1,) array
        Strength of each head.
    r2 : dict of str to float
        Held-out share of variance explained at strengths 0 ("none"), 1 ("full"), ``strength`` ("chosen"; chosen on the
        same folds, one number for all of them) and with every position shrunk by its own uncertainty ("positionwise",
        :func:`reliable_share`; NaN for estimators other than means of each position).
    n : int
        Images scored.
    """

    layer: int
    estimator: str
    strength: float
    strength_lo: float
    strength_hi: float
    per_head_strength: np.ndarray
    r2: dict[str, float]
    n: int


def choose_strength(
    maps: Maps, *, estimator: Profile | str = "mean", layer: int | None = None, confidence: float = 0.95
) -> StrengthResult:
    """Choose the strength in [0, 1] that minimises the held-out squared error of centred log attention in one layer.

    Parameters
    ----------
    maps : Maps
        Attention maps, stored or streamed.
    estimator : Profile or str
        Name or instance; only its parameters are used.
    layer : int, optional
        Decoder layer; may be left out when ``maps`` holds only one.
    confidence : float
        Of the interval.

    Returns
    -------
    StrengthResult
        For ``debias(..., strength=result.strength)``.

    Raises
    ------
    InputError
        Layer not held, or images in fewer than two folds, or no layout in two of them.

    Examples
    --------
    >>> from biaslab.profiles.strength import choose_strength
    >>> from biaslab import TokenLayout
    >>> from biaslab.maps.simulate import simulate
    >>> layout = TokenLayout.raster(4, 4, size=(56, 56), family="demo")
    >>> maps = simulate("bottom-heavy", {layout: 60}).maps
    >>> few = simulate("bottom-heavy", {layout: 10}).maps  # a noisy map overstates itself: remove less of it
    >>> [round(choose_strength(m).strength, 2) for m in (few, maps)]
    [0.7, 0.93]
    """
    expect_maps(maps)
    layer = resolve_layer(layer, maps.layers, "the maps", "collect")
    check_confidence(confidence)
    estimator = positional(estimator)
    folds = log_folds(maps, layer)
    if len(folds) < 2:
        raise InputError("choosing a strength needs images in at least two folds: collect more images")
    cross, power, total, apart, n = _sums(folds, estimator)
    if n == 0:
        raise InputError("no layout occurs in two folds: collect more images, or use estimator='tile'")
    best = _ratio(cross.sum(), power.sum())
    without = (_sums(folds[:g] + folds[g + 1 :], estimator)[:2] for g in range(len(folds)))
    half = half_width(np.array([_ratio(*(x.sum() for x in sums)) for sums in without]), confidence=confidence)
    strength = float(np.clip(best, 0, 1))

    def explained(s: float) -> float:
        return float(_ratio(2 * s * cross.sum() - s**2 * power.sum(), total.sum()))

    return StrengthResult(
        layer=int(layer),
        estimator=estimator.name,
        strength=strength,
        strength_lo=float(np.clip(best - half, 0, 1)),
        strength_hi=float(np.clip(best + half, 0, 1)),
        per_head_strength=np.clip(_ratio(cross, power), 0, 1),
        r2={"none": 0.0, "full": explained(1.0), "chosen": explained(strength),
            "positionwise": float(_ratio(apart.sum(), total.sum())) if estimator.name in _POSITIONWISE else np.nan},
        n=n,
    )  # fmt: skip


_POSITIONWISE = ("mean", "geometric")  # what they predict at a position is the mean of the images there


def reliable_share(mean: np.ndarray, var: np.ndarray, n: int) -> np.ndarray:
    """Weigh each position in [0, 1] by empirical Bayes: how much of its distance from the image's mean to believe.

    ``tau^2 / (tau^2 + var / n)`` with tau^2, the variance of the true map over positions, estimated by moments: the
    variance of the mean map less the mean squared standard error (Efron and Morris 1975, unequal variances).

    Parameters
    ----------
    mean, var : (H, N) array
        Mean and variance between images (over n) of centred log attention.
    n : int
        Images; the weights are 0 with fewer than 2.

    Returns
    -------
    (H, N) array
        Weights.

    References
    ----------
    Efron and Morris (1975), Data analysis using Stein's estimator and its generalizations, JASA 70.

    Examples
    --------
    >>> import numpy as np
    >>> from biaslab.profiles.strength import reliable_share
    >>> reliable_share(np.array([[-1.0, 0.0, 1.0]]), np.array([[0.1, 0.1, 20.0]]), 21).round(2)
    array([[0.99, 0.99, 0.25]])
    """
    if n < 2:
        return np.zeros_like(mean)
    error = var / (n - 1)  # population variance: n / (n - 1) of it over n
    tau = np.maximum((mean**2).mean(-1, keepdims=True) - error.mean(-1, keepdims=True), 0.0)
    return np.divide(tau, tau + error, out=np.zeros_like(mean), where=tau + error > 0)


def shrink(expected: Tensor, strength: float | np.ndarray | Tensor) -> Tensor:
    """Draw an expectation toward its geometric mean g over the tokens: ``g * (expected / g) ** strength``.

    To be passed to :func:`biaslab.profiles.debias` in place of the expectation. With one strength for all positions
    the ratio ranks as ``debias(..., strength=strength)``; only this form takes one per position, whose unit must
    cancel.

    Parameters
    ----------
    expected : (H or 1, N) Tensor
        Positive.
    strength : float, (N,) or (H, N) array or Tensor
        In [0, 1], for example of :func:`reliable_share`.

    Returns
    -------
    (H, N) Tensor
        Of the kind of ``expected``.

    Raises
    ------
    InputError
        A strength outside [0, 1].

    Examples
    --------
    >>> import torch
    >>> from biaslab.profiles.strength import shrink
    >>> shrink(torch.tensor([[1.0, 4.0]]), 0.5)
    tensor([[1.4142, 2.8284]])
    """
    amount = torch.as_tensor(strength, dtype=expected.dtype, device=expected.device)
    if not bool(((amount >= 0) & (amount <= 1)).all()):
        raise InputError("strength must lie in [0, 1]: 1 removes the expectation fully")
    logs = torch.log(expected.clamp(min=torch.finfo(expected.dtype).tiny))
    level = logs.mean(-1, keepdim=True)
    return torch.exp(level + amount * (logs - level))


def _sums(folds: list[list[Part]], estimator: Profile) -> tuple[Any, Any, Any, Any, int]:
    """Sum over held-out images: the four terms of the strength, and how many images are scored.

    (H,) each: <held out, predicted>, <predicted, predicted>, <held out, held out>, and the explained sum of squares of
    the positionwise shrunk prediction.
    """
    cross, power, total, apart = (np.zeros(1) for _ in range(4))
    images = 0
    for part, predicted, train in held_out(folds, estimator):
        cross = cross + part.n * (part.mean * predicted).sum(1)
        power = power + part.n * (predicted**2).sum(1)
        total = total + part.n * (part.var + part.mean**2).sum(1)
        same = next((p for p in train if p.layout.key == part.layout.key), None)
        if same is not None:
            shrunk = reliable_share(same.mean, same.var, same.n) * predicted
            apart = apart + part.n * (2 * part.mean * shrunk - shrunk**2).sum(1)
        images += part.n
    return cross, power, total, apart, images


def _ratio(top: Any, bottom: Any) -> Any:
    """0 where there is nothing to divide by: a map without shape is removed with any strength alike."""
    return np.divide(top, bottom, out=np.zeros(np.shape(bottom)), where=np.asarray(bottom) > 0)[()]
