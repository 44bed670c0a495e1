"""Operations that remove an expected attention map from attention (pure tensors).

D2Pruner divides: ``A_rel = A_ori / (A_bias + eps)`` with eps about 1e-7 (arXiv 2512.19443, section 3:
"ratio"). The others are ours: the same removal in log space, by subtraction, in units of the standard deviation between
images, and as the rank within the position. All but the first two need attention and expectation on one scale:
:func:`normalised` puts them there, leaving out padding and sinks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from biaslab._util.registry import Registry
from biaslab.errors import InputError

__all__ = ["DEBIAS", "DebiasOp", "debias", "head_weights", "lognormal", "normalised", "sinks"]


@dataclass(frozen=True)
class DebiasOp:
    """One way to remove an expectation.

    Attributes
    ----------
    name : key in :data:`DEBIAS`.
    apply : ``apply(attention, expected, std, eps, strength)`` on float tensors that broadcast.
    needs_std : whether ``std`` (standard deviation between images) is used.
    """

    name: str
    apply: Callable[[Tensor, Tensor, Tensor | None, float, float], Tensor]
    needs_std: bool = False


def lognormal(expected: Tensor, std: Tensor, *, eps: float = 1e-7) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of log attention, if attention with this mean and std is log-normal."""
    var = torch.log1p((std / (expected + eps)) ** 2)
    return torch.log(expected + eps) - var / 2, var.sqrt()


def _rank(a: Tensor, e: Tensor, s: Tensor, eps: float, strength: float) -> Tensor:
    mean, sd = lognormal(e, s, eps=eps)
    sd = sd.clamp(min=1e-3)  # no std: a step at the expectation
    if strength < 1:  # toward one place and one std for all positions, which ranks as raw attention does
        mean = torch.lerp(mean.mean(-1, keepdim=True), mean, strength)
        sd = torch.exp(torch.lerp(sd.log().mean(-1, keepdim=True), sd.log(), strength))
    return torch.special.ndtr((torch.log(a + eps) - mean) / sd)


def _power(x: Tensor, strength: float) -> Tensor:
    return x if strength == 1 else x**strength


#: name -> operation
DEBIAS: Registry[DebiasOp] = Registry("debias operation")
for _operation in (
    DebiasOp("ratio", lambda a, e, s, eps, w: a / _power(e + eps, w)),
    # eps enters both terms, so that attention == expected gives exactly 0
    DebiasOp("log", lambda a, e, s, eps, w: torch.log(a + eps) - w * torch.log(e + eps)),
    DebiasOp("subtract", lambda a, e, s, eps, w: a - w * e),
    DebiasOp("zscore", lambda a, e, s, eps, w: (a - w * e) / _power(s + eps, w), needs_std=True),
    # the normal CDF of (log attention - log-normal mean) / log-normal std
    DebiasOp("lognormal_rank", _rank, needs_std=True),
):
    DEBIAS.register(_operation)


def debias(
    attention: Tensor,
    expected: Tensor,
    std: Tensor | None = None,
    *,
    operation: str = "ratio",
    eps: float = 1e-7,
    strength: float = 1.0,
) -> Tensor:
    """Remove the expected attention of each position from attention.

    Parameters
    ----------
    attention : (..., N), (H, N) or (..., H, Q, N) softmax attention to the N visual tokens (probability, not
        renormalised).
    expected : (N,), (1, N) or (H, N) expected attention of the same N tokens, e.g. ``profile.expected(layout,
        layer)``. One row serves any attention; H rows (a per-head profile) need attention whose head axis is
        the third from the end, or attention that is exactly (H, N).
    std : like ``expected``, standard deviation between images; only "zscore" and "lognormal_rank" read it.
    operation : a key of :data:`DEBIAS`: "ratio", "log", "subtract", "zscore" or "lognormal_rank". The last is the share
        of images whose attention at this position would be lower. A profile holds no quantiles, so it is read off the
        log-normal distribution that has the profile's mean and std: an approximation.
    eps : added where a division or a logarithm could meet zero. Same unit as what it is added to.
    strength : in [0, 1]; 1 removes the expectation fully, 0 ranks the tokens as raw attention does. The ratio
        divides by ``(expected + eps) ** strength``, log and subtraction take off ``strength`` times as much, the
        z-score also divides by ``(std + eps) ** strength``, the rank's mean and std are drawn toward their
        averages over the tokens. :func:`biaslab.profiles.strength.choose_strength` chooses it.

    Returns
    -------
    Tensor
        Same shape as ``attention``, at least float32, on its device. Positions with no expectation at all
        (expected and attention both 0) come out as 0 under "ratio".

    Raises
    ------
    InputError
        Unknown operation, shapes that do not fit, no std where it is needed, eps not positive, strength outside [0, 1].
    """
    rule = DEBIAS.get(operation)
    if not eps > 0:
        raise InputError(f"eps must be positive, got {eps}: 1e-7 is the published value")
    if not 0 <= strength <= 1:
        raise InputError(f"strength must lie in [0, 1], got {strength}: 1 removes the expectation fully")
    if rule.needs_std and std is None:
        raise InputError(f"debias operation {operation!r} needs std=, for example profile.std(layout, layer)")
    dtype = torch.promote_types(attention.dtype, torch.float32)
    attention = attention.to(dtype)
    expected = _fit(expected, attention, "expected")
    std = _fit(std, attention, "std") if rule.needs_std else None
    return rule.apply(attention, expected, std, eps, float(strength))


def normalised(values: Tensor, *, within: Tensor | None = None, by: Tensor | None = None) -> Tensor:
    """Values over their sum over the tokens ``within``, along the last axis.

    Parameters
    ----------
    values : (..., N) attention, expectation or std.
    within : (N,) or broadcastable bool, the tokens whose sum is 1 afterwards; default all. The others are scaled
        alike, so that a sink or padding does not decide what the rest is compared with.
    by : (..., N) take the sum of these instead: a std is divided by what its expectation is divided by.

    Raises
    ------
    InputError
        No token within.
    """
    of = values if by is None else by
    if within is not None:
        if not bool(within.any(-1).all()):
            raise InputError("no token is left to normalise by: raise the threshold for sinks, or keep padding")
        of = of * within.to(of)
    return values / of.sum(-1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)


def sinks(expected: Tensor, factor: float) -> Tensor:
    """(..., N) bool: expected attention above ``factor`` times the median over the tokens.

    Raises
    ------
    InputError
        A factor not above 1.
    """
    if not (factor > 1 and math.isfinite(factor)):
        raise InputError(f"a sink draws many times the median: factor must be above 1, such as 20; got {factor}")
    return expected > factor * expected.median(-1, keepdim=True).values


def head_weights(expected: Tensor, std: Tensor) -> Tensor:
    """(H,) weights that sum to 1, the larger the less of a head's attention is positional.

    The positional share of a head is the variance of its log map over the tokens, over that plus the mean
    variance of log attention between images (log-normal approximation, not centred per image, so that an image's
    level counts as content); the weight is one minus the share. Heads that are all position weigh alike.

    Parameters
    ----------
    expected, std : (H, N) of a per-head profile.
    """
    mean, sd = lognormal(expected, std)
    content, position = (sd**2).mean(-1), mean.var(-1, unbiased=False)
    free = content / (content + position).clamp(min=1e-12)
    total = free.sum()
    return free / total if total > 0 else torch.full_like(free, 1 / len(free))


def _fit(values: Tensor, attention: Tensor, what: str) -> Tensor:
    """``values`` in a shape that broadcasts against ``attention`` along its head and token axes."""
    values = values.to(device=attention.device, dtype=attention.dtype)
    if values.shape[-1] != attention.shape[-1]:
        raise InputError(
            f"{what} covers {values.shape[-1]} visual tokens but attention has {attention.shape[-1]}: "
            "use the profile's map for this image's layout"
        )
    if values.ndim == 1 or (values.ndim == 2 and values.shape[0] == 1):
        return values.reshape(-1)
    if values.ndim == 2 and tuple(values.shape) == tuple(attention.shape):
        return values
    if values.ndim == 2 and attention.ndim >= 3 and attention.shape[-3] == values.shape[0]:
        return values.unsqueeze(-2)
    raise InputError(
        f"{what} of shape {tuple(values.shape)} does not fit attention of shape {tuple(attention.shape)}: "
        "a per-head profile needs attention (..., heads, queries, tokens) with the same heads"
    )
