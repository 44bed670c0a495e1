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
from numbers import Real
from typing import Any

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
    name : str
        Key in :data:`DEBIAS`.
    apply : callable
        ``apply(attention, expected, std, eps, strength)`` on float tensors that broadcast.
    needs_std : bool
        Whether ``std`` (standard deviation between images) is used.
    """

    name: str
    apply: Callable[[Tensor, Tensor, Any, float, float], Tensor]  # the std is None for those that do not read it
    needs_std: bool = False


def lognormal(expected: Tensor, std: Tensor, *, eps: float = 1e-7) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of log attention, if attention with this mean and std is log-normal.

    Parameters
    ----------
    expected, std : Tensor
        Mean and standard deviation of attention, of one shape.
    eps : float
        Added to the mean.

    Returns
    -------
    mean, std : Tensor
        Of log attention, same shape.

    Examples
    --------
    >>> mean, std = lognormal(torch.tensor([0.02]), torch.tensor([0.01]))
    >>> [round(float(v), 3) for v in (mean, std)]
    [-4.024, 0.472]
    """
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
    attention : Tensor (..., N), (H, N) or (..., H, Q, N)
        Softmax attention to the N visual tokens (probability, not renormalised).
    expected : Tensor (N,), (1, N) or (H, N)
        Expected attention of the same N tokens, e.g. ``profile.expected(layout, layer)``. One row serves any
        attention; H rows (a per-head profile) need attention whose head axis is the third from the end, or attention
        that is exactly (H, N).
    std : Tensor, optional
        Like ``expected``, standard deviation between images; only "zscore" and "lognormal_rank" read it.
    operation : str
        A key of :data:`DEBIAS`: "ratio", "log", "subtract", "zscore" or "lognormal_rank". The last is the share of
        images whose attention at this position would be lower. A profile holds no quantiles, so it is read off the
        log-normal distribution that has the profile's mean and std: an approximation.
    eps : float
        Added where a division or a logarithm could meet zero. Same unit as what it is added to.
    strength : float
        In [0, 1]; 1 removes the expectation fully, 0 ranks the tokens as raw attention does. The ratio divides by
        ``(expected + eps) ** strength``, log and subtraction take off ``strength`` times as much, the z-score also
        divides by ``(std + eps) ** strength``, the rank's mean and std are drawn toward their averages over the
        tokens. :func:`biaslab.profiles.strength.choose_strength` chooses it.

    Returns
    -------
    Tensor
        Same shape as ``attention``, at least float32, on its device. Positions with no expectation at all
        (expected and attention both 0) come out as 0 under "ratio".

    Raises
    ------
    InputError
        What is no tensor of real numbers, unknown operation, shapes that do not fit, no std where it is needed, eps not
        positive, strength outside [0, 1].

    References
    ----------
    "ratio" is that of D2Pruner (arXiv 2512.19443, section 3); the others are ours.

    Examples
    --------
    The last token draws most in every image. In this one, the second draws twice what is expected of it:

    >>> import torch
    >>> import biaslab as bl
    >>> attention, expected = torch.tensor([0.1, 0.4, 0.5]), torch.tensor([0.1, 0.2, 0.7])
    >>> int(attention.argmax()), int(bl.debias(attention, expected).argmax())
    (2, 1)
    >>> bl.debias(attention, expected)
    tensor([1.0000, 2.0000, 0.7143])
    >>> bl.debias(attention, expected, operation="subtract", strength=0.5)
    tensor([0.0500, 0.3000, 0.1500])
    """
    if not isinstance(operation, str):
        raise InputError(f"operation must be one of {', '.join(DEBIAS)}; got {operation!r}")
    rule = DEBIAS.get(operation)
    if not (_is_number(eps) and 0 < eps < math.inf):
        raise InputError(f"eps must be positive, got {eps!r}: 1e-7 is the published value")
    if not (_is_number(strength) and 0 <= strength <= 1):
        raise InputError(f"strength must lie in [0, 1], got {strength!r}: 1 removes the expectation fully")
    if rule.needs_std and std is None:
        raise InputError(f"debias operation {operation!r} needs std=, for example profile.std(layout, layer)")
    for name, values in {"attention": attention, "expected": expected, "std": std}.items():
        if values is not None or name != "std":
            _expect_tensor(name, values)
    dtype = torch.promote_types(attention.dtype, torch.float32)
    attention = attention.to(dtype)
    expected = _fit(expected, attention, "expected")
    std = _fit(std, attention, "std") if rule.needs_std and std is not None else None
    return rule.apply(attention, expected, std, eps, float(strength))


def normalised(values: Tensor, *, within: Tensor | None = None, by: Tensor | None = None) -> Tensor:
    """Values over their sum over the tokens ``within``, along the last axis.

    Parameters
    ----------
    values : Tensor (..., N)
        Attention, expectation or std.
    within : Tensor (N,) or broadcastable, bool, optional
        The tokens whose sum is 1 afterwards; default all. The others are scaled alike, so that a sink or padding does
        not decide what the rest is compared with.
    by : Tensor (..., N), optional
        Take the sum of these instead: a std is divided by what its expectation is divided by.

    Returns
    -------
    Tensor (..., N)
        The values over that sum.

    Raises
    ------
    InputError
        No token within.

    Examples
    --------
    >>> normalised(torch.tensor([8.0, 1.0, 3.0]), within=torch.tensor([False, True, True]))  # a sink in front
    tensor([2.0000, 0.2500, 0.7500])
    """
    of = values if by is None else by
    if within is not None:
        if not bool(within.any(-1).all()):
            raise InputError("no token is left to normalise by: raise the threshold for sinks, or keep padding")
        of = of * within.to(of)
    return values / of.sum(-1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)


def sinks(expected: Tensor, factor: float) -> Tensor:
    """Mark tokens whose expected attention is above ``factor`` times the median over the tokens.

    Parameters
    ----------
    expected : Tensor (..., N)
        Expected attention.
    factor : float
        Above 1.

    Returns
    -------
    Tensor (..., N), bool

    Raises
    ------
    InputError
        A factor not above 1.

    Examples
    --------
    >>> sinks(torch.tensor([0.01, 0.01, 0.30, 0.02]), factor=20)
    tensor([False, False,  True, False])
    """
    if not (factor > 1 and math.isfinite(factor)):
        raise InputError(f"a sink draws many times the median: factor must be above 1, such as 20; got {factor}")
    return expected > factor * expected.median(-1, keepdim=True).values


def head_weights(expected: Tensor, std: Tensor) -> Tensor:
    """Weights of heads, the larger the less of a head's attention is positional.

    The positional share of a head is the variance of its log map over the tokens, over that plus the mean
    variance of log attention between images (log-normal approximation, not centred per image, so that an image's
    level counts as content); the weight is one minus the share. Heads that are all position weigh alike.

    Parameters
    ----------
    expected, std : Tensor (H, N)
        Of a per-head profile.

    Returns
    -------
    Tensor (H,)
        Sums to 1.

    Examples
    --------
    A head that looks at one place in every image, and one that varies between images:

    >>> expected = torch.tensor([[0.01, 0.01, 0.50], [0.10, 0.10, 0.10]])
    >>> head_weights(expected, 0.5 * expected)[0] < 0.1
    tensor(True)
    """
    mean, sd = lognormal(expected, std)
    content, position = (sd**2).mean(-1), mean.var(-1, unbiased=False)
    free = content / (content + position).clamp(min=1e-12)
    total = free.sum()
    return free / total if total > 0 else torch.full_like(free, 1 / len(free))


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _expect_tensor(name: str, values: Any) -> None:
    if not isinstance(values, Tensor):
        kind = type(values).__name__
        raise InputError(
            f"{name} must be a tensor (..., visual tokens), got {kind}: torch.as_tensor makes one of numbers"
        )
    if values.ndim == 0 or values.is_complex():
        raise InputError(
            f"{name} must be a tensor (..., visual tokens) of real numbers, got shape {tuple(values.shape)} of "
            f"{values.dtype}: give one value per visual token"
        )


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
