"""What a text token makes of each visual token, as scores by name.

One interface for `capture`, `collect` and the pruning methods (their option ``score``).

A score is a pure function of what the attention of one layer is handed in the running forward; none needs a
profile or a second forward. All of them compute the query rows asked for only, in float32.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor

from biaslab._util.registry import Registry
from biaslab.attention.hook import attention_rows
from biaslab.attention.rotary_scores import no_rope, rope_corrected
from biaslab.errors import InputError

__all__ = ["SCORES", "attention", "no_rope", "reads_rope", "resolve", "rope_corrected", "score_name", "value_norm"]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    *,
    rows: Tensor,
    cols: Tensor,
    scaling: float,
    attention_mask: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Plain softmax attention, as a score: arguments as in `attention_rows`.

    Parameters
    ----------
    query, key, value : Tensor (B, H, Q, D), (B, Hkv, N, D), (B, Hkv, N, D)
        As for `attention_rows`; values before heads are repeated.
    cos, sin : Tensor or None
        Not used.
    rows, cols : LongTensor (R,) or (B, R), (B, C)
        Query rows, and key positions to return.
    scaling : float
        Factor on the dot product.
    attention_mask : Tensor, optional
        As for `attention_rows`.
    **options
        The other options of `attention_rows`.

    Returns
    -------
    Tensor (B, H, R, C) float32
        Softmax attention over all keys, never renormalised.
    """
    return attention_rows(query, key, rows, scaling=scaling, attention_mask=attention_mask, cols=cols, **options)


def value_norm(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    *,
    rows: Tensor,
    cols: Tensor,
    scaling: float,
    attention_mask: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Attention times the Euclidean norm of the token's value vector in that head.

    It tells how much the token adds, not how much it is looked at. The query heads of a group share the norms of its
    values.

    Parameters
    ----------
    query, key, value, cos, sin : Tensor
        As of `attention`.
    rows, cols, scaling, attention_mask, **options
        As of `attention`.

    Returns
    -------
    Tensor (B, H, R, C) float32
        In units of the value vectors: rows do not sum to 1, and heads differ in scale by the norms of their
        values. A mean over heads is therefore no vote of equals: heads with long value vectors count for more,
        as they do in what the layer writes.

    References
    ----------
    Kobayashi et al., "Attention is not only a weight" (EMNLP 2020), section 3, the norm-based analysis, here
    without the output projection: the norm is that of the value itself, not of what the projection makes of it.

    Examples
    --------
    Two tokens that are looked at alike, of which one has a value three times as long:

    >>> import torch
    >>> zeros = torch.zeros(1, 1, 2, 4)
    >>> value = torch.tensor([[[[1.0, 0, 0, 0], [3.0, 0, 0, 0]]]])
    >>> last, both = torch.tensor([1]), torch.tensor([[0, 1]])
    >>> value_norm(zeros, zeros, value, None, None, rows=last, cols=both, scaling=0.5)[0, 0]
    tensor([[0.5000, 1.5000]])
    """
    probs = attention_rows(query, key, rows, scaling=scaling, attention_mask=attention_mask, cols=cols, **options)
    batch, kv_heads, _, dim = value.shape
    norms = value.gather(2, cols[:, None, :, None].expand(batch, kv_heads, -1, dim)).float().norm(dim=-1)
    return probs * norms.repeat_interleave(probs.shape[1] // kv_heads, 1)[:, :, None]


#: score name -> callable as `capture` documents it; what is registered here is known everywhere
SCORES: Registry[Callable[..., Tensor]] = Registry("score")
for _score in (attention, no_rope, value_norm, rope_corrected):
    SCORES.add(_score.__name__, _score)


# what every score is given
_POSITIONAL = ("query", "key", "value", "cos", "sin")
_KEYWORDS = ("rows", "cols", "scaling", "attention_mask", "is_causal", "sliding_window", "softcap")


def resolve(score: str | Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the score of a name; a callable of the user's is its own, what it returns is checked.

    Parameters
    ----------
    score : str or callable
        A key of `SCORES`, or a score.

    Returns
    -------
    callable
        Raises InputError, inside the forward, where a callable returns something else than (B, H, R, C) numbers.

    Raises
    ------
    InputError
        For an unknown name, what is neither, or a callable that does not take what scores are given.

    Examples
    --------
    >>> resolve("value_norm") is value_norm
    True
    >>> resolve("cosine")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    biaslab.errors.InputError: score must be one of attention, ..., or a callable; got 'cosine'
    """
    if callable(score):
        return score if score in SCORES.values() else _checked(score)
    if not isinstance(score, str) or score not in SCORES:
        raise InputError(f"score must be one of {', '.join(SCORES)}, or a callable; got {score!r}")
    return SCORES[score]


def _checked(score: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Refuse a callable that cannot be called as a score; otherwise return it with a check of its result."""
    name = getattr(score, "__name__", type(score).__name__)
    try:
        inspect.signature(score).bind(*_POSITIONAL, **dict.fromkeys(_KEYWORDS))
    except (TypeError, ValueError) as error:  # ValueError: a builtin that tells no signature
        wanted = f"score({', '.join(_POSITIONAL)}, *, {', '.join(_KEYWORDS[:4])}, **options)"
        raise InputError(f"score {name!r} cannot be called as a score is ({error}): define it as {wanted}") from None

    @wraps(score)
    def checked(query: Tensor, *tensors: Any, rows: Tensor, cols: Tensor, **options: Any) -> Tensor:
        values = score(query, *tensors, rows=rows, cols=cols, **options)
        wanted = (query.shape[0], query.shape[1], rows.shape[-1], cols.shape[-1])
        without_heads = (wanted[0], 1, *wanted[2:])  # the same in all of them
        fits = isinstance(values, Tensor) and tuple(values.shape) in (wanted, without_heads)
        if not fits or values.is_complex():
            got = f"{tuple(values.shape)} {values.dtype}" if isinstance(values, Tensor) else type(values).__name__
            raise InputError(
                f"score {name!r} must return a tensor of real numbers (batch, heads or 1, rows, cols) = {wanted}; got "
                f"{got}"
            )
        return values

    return checked


def score_name(score: str | Callable[..., Tensor]) -> str:
    """Return the name under which maps and profiles remember a score.

    A callable cannot pass for another one of `SCORES`.

    Examples
    --------
    >>> score_name(no_rope)
    'no_rope'
    >>> def attention(*args, **options): ...
    >>> score_name(attention).endswith(".attention")
    True
    """
    if isinstance(score, str):
        return score
    name = getattr(score, "__name__", type(score).__name__)
    return name if SCORES.get(name, score) is score else f"{score.__module__}.{name}"


def reads_rope(score: Callable[..., Tensor]) -> bool:
    """Whether a score must be given the rotary cosines and sines; of an unknown callable that is assumed.

    Examples
    --------
    >>> reads_rope(value_norm), reads_rope(no_rope)
    (False, True)
    """
    return score not in (attention, value_norm)
