"""Operations that remove an expected attention map from attention (pure tensors).

D2Pruner divides: ``A_rel = A_ori / (A_bias + eps)`` with eps about 1e-7 (arXiv 2512.19443, section 3:
"ratio"). The other three are ours: the same removal in log space, by subtraction, and in units of the spread
between images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from biaslab.errors import InputError

__all__ = ["DEBIAS", "DebiasOp", "debias"]


@dataclass(frozen=True)
class DebiasOp:
    """One way to remove an expectation.

    Attributes
    ----------
    name : key in :data:`DEBIAS`.
    apply : ``apply(attention, expected, spread, eps)`` on float tensors that broadcast.
    neutral : value of a token that draws exactly what its position draws on average; figures centre their
        colours there.
    needs_spread : whether ``spread`` (standard deviation between images) is used.
    formula : what is computed, for captions and help.
    """

    name: str
    apply: Callable[[Tensor, Tensor, Tensor | None, float], Tensor]
    neutral: float
    formula: str
    needs_spread: bool = False


DEBIAS: dict[str, DebiasOp] = {
    op.name: op
    for op in (
        DebiasOp("ratio", lambda a, e, s, eps: a / (e + eps), 1.0, "attention / (expected + eps)"),
        # eps enters both terms, so that attention == expected gives exactly 0
        DebiasOp(
            "log",
            lambda a, e, s, eps: torch.log(a + eps) - torch.log(e + eps),
            0.0,
            "log(attention + eps) - log(expected + eps)",
        ),
        DebiasOp("subtract", lambda a, e, s, eps: a - e, 0.0, "attention - expected"),
        DebiasOp(
            "zscore",
            lambda a, e, s, eps: (a - e) / (s + eps),
            0.0,
            "(attention - expected) / (spread + eps)",
            needs_spread=True,
        ),
    )
}


def debias(
    attention: Tensor,
    expected: Tensor,
    spread: Tensor | None = None,
    op: str = "ratio",
    eps: float = 1e-7,
) -> Tensor:
    """Remove the expected attention of each position from attention.

    Parameters
    ----------
    attention : (..., N), (H, N) or (..., H, Q, N) softmax attention to the N visual tokens (probability, not
        renormalised).
    expected : (N,), (1, N) or (H, N) expected attention of the same N tokens, e.g. ``profile.expected(layout,
        layer)``. One row serves any attention; H rows (a per-head profile) need attention whose head axis is
        the third from the end, or attention that is exactly (H, N).
    spread : like ``expected``, standard deviation between images; only ``op="zscore"`` reads it.
    op : a key of :data:`DEBIAS`: "ratio", "log", "subtract" or "zscore".
    eps : added where a division or a logarithm could meet zero. Same unit as what it is added to.

    Returns
    -------
    Tensor
        Same shape as ``attention``, at least float32, on its device. Positions with no expectation at all
        (expected and attention both 0) come out as 0 under "ratio".

    Raises
    ------
    InputError
        Unknown op, shapes that do not fit, z-score without spread, eps not positive.
    """
    if op not in DEBIAS:
        raise InputError(f"unknown debias operation {op!r}: choose one of {', '.join(DEBIAS)}")
    if not eps > 0:
        raise InputError(f"eps must be positive, got {eps}: 1e-7 is the published value")
    rule = DEBIAS[op]
    if rule.needs_spread and spread is None:
        raise InputError(f"debias op {op!r} needs spread=, for example profile.spread(layout, layer)")
    dtype = torch.promote_types(attention.dtype, torch.float32)
    attention = attention.to(dtype)
    expected = _fit(expected, attention, "expected")
    spread = _fit(spread, attention, "spread") if rule.needs_spread else None
    return rule.apply(attention, expected, spread, eps)


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
