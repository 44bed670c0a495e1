"""Attention rows as a pure function, and the hook into the attention of an unmodified model.

Attention functions of transformers are looked up by name at every call. While something is watched, the
decoder's name is switched to a wrapper that hands query and key (after rotary embedding, before heads are
repeated) to the callbacks of the watched layers and then calls the original function with the original
arguments. Nothing is replaced in the model, so its output is the same to the last bit, and no N x N matrix is
ever formed.

FlashAttention reads its own name to pick the kernel and the form of the mask, so there the name must stay: the
function behind it is replaced by the wrapper while a watch lasts and put back after it. The rows are computed
from query, key and the 2-D mask as everywhere else. That function belongs to the process, so other models that use
it run through the wrapper meanwhile; nobody watches their modules, so it hands on what it is given. Watches may be
switched on and off from several threads.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from biaslab.attention.precision import full_precision
from biaslab.core.layers import resolve_layer
from biaslab.errors import UnsupportedError

__all__ = ["alone", "attention_rows", "is_flash", "row_options", "rows_of", "softmax_rows", "watch"]

_MAX_SCORES = 2**25  # float32 scores held at once by attention_rows: 128 MiB
_CALLBACKS: WeakKeyDictionary[nn.Module, list[Callable]] = WeakKeyDictionary()  # attention module -> callbacks
_ALONE: WeakKeyDictionary[nn.Module, list[Callable]] = (
    WeakKeyDictionary()
)  # module -> the one heard in the others' place
_ROPE: WeakKeyDictionary[nn.Module, tuple] = WeakKeyDictionary()  # attention module -> (cos, sin) of this call
_SWITCHED: WeakKeyDictionary[nn.Module, list] = WeakKeyDictionary()  # decoder -> [number of watches, old name]
_OVERRIDDEN: dict[str, list] = {}  # name of a FlashAttention function -> [number of decoders, the function]
_LOCK = threading.RLock()  # held while a watch is switched on or off, so that tables and functions agree


def attention_rows(
    query: Tensor,
    key: Tensor,
    rows: Tensor,
    *,
    scaling: float,
    attention_mask: Tensor | None = None,
    cols: Tensor | None = None,
    is_causal: bool = True,
    sliding_window: int | None = None,
    softcap: float | None = None,
    max_scores: int = _MAX_SCORES,
) -> Tensor:
    """Softmax attention of some query rows over ALL keys, then only the columns asked for; never renormalised.

    Parameters
    ----------
    query : Tensor (B, H, Q, D)
        After rotary embedding.
    key : Tensor (B, Hkv, N, D)
        After rotary embedding and cache update, before heads are repeated (Hkv divides H).
    rows : LongTensor (R,) or (B, R)
        Indices into Q.
    scaling : float
        Factor on the dot product.
    attention_mask : Tensor, optional
        Bool (B or 1, 1, Q, N) with True = keep, additive (same shape), or 2-D padding (B, N). None and 2-D are
        combined with `is_causal`, aligned at the bottom right as in a cached forward.
    cols : LongTensor (B, C), optional
        Key positions to return; all N by default.
    is_causal : bool
        Whether a query sees no later key.
    sliding_window : int, optional
        Number of latest keys a query sees.
    softcap : float, optional
        Bound on the scores before the softmax. All three as transformers
        passes them to attention functions. The window applies unless a 4-D mask already holds
        it.
    max_scores : int
        Rows are computed in chunks of at most this many scores.

    Returns
    -------
    Tensor (B, H, R, C) float32
        Scores are computed in float32 whatever the input type: a bfloat16 product costs about 1 % of the
        largest probability. A row whose keys are all masked is NaN under a boolean mask.

    Examples
    --------
    The last of four tokens, which sees all of them, and its attention to tokens 1 and 2 alone:

    >>> query, key = torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 4, 8)
    >>> last, visual = torch.tensor([3]), torch.tensor([[1, 2]])
    >>> attention_rows(query, key, last, scaling=0.5, cols=visual)[0, 0]
    tensor([[0.2500, 0.2500]])
    """
    rows = rows.expand(len(query), -1) if rows.ndim == 1 else rows
    return softmax_rows(
        rows_of(query, rows),
        key,
        rows,
        query.shape[2],
        scaling,
        attention_mask,
        cols,
        is_causal=is_causal,
        sliding_window=sliding_window,
        softcap=softcap,
        max_scores=max_scores,
    )


def rows_of(query: Tensor, rows: Tensor) -> Tensor:
    """Pick query rows: (B, H, R, D) of (B, H, Q, D)."""
    return query.gather(2, rows[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3]))


@full_precision()
def softmax_rows(
    picked: Tensor,
    key: Tensor,
    rows: Tensor,
    n_query: int,
    scaling: float,
    attention_mask: Tensor | None,
    cols: Tensor | None,
    *,
    is_causal: bool = True,
    sliding_window: int | None = None,
    softcap: float | None = None,
    max_scores: int = _MAX_SCORES,
    bias: Tensor | None = None,
) -> Tensor:
    """Do as `attention_rows` does, of query rows that are ``picked`` already: (B, H, R, D), at ``rows`` of ``n_query``.

    ``bias`` (B, R, N) float32 is added to the logits of every head.
    """
    batch, heads, _, dim = picked.shape
    kv_heads, n_key = key.shape[1], key.shape[2]
    keys = key.float().transpose(2, 3)
    chunk = max(1, max_scores // (batch * heads * n_key))
    out = []
    first = 0
    for r, q in zip(rows.split(chunk, dim=1), picked.split(chunk, dim=2), strict=True):
        n = r.shape[1]
        # heads of one group share a key: fold the group into the row axis instead of repeating the keys
        scores = q.float().reshape(batch, kv_heads, heads // kv_heads * n, dim) @ keys
        scores = scores.reshape(batch, heads, n, n_key) * scaling
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        if bias is not None:
            scores = scores + bias[:, None, first : first + n]
        first += n
        if attention_mask is not None and attention_mask.ndim == 4:
            mask = attention_mask[..., :n_key].expand(batch, -1, -1, -1)
            mask = mask.gather(2, r[:, None, :, None].expand(batch, mask.shape[1], n, mask.shape[3]))
            bool_mask = mask.dtype == torch.bool
            scores = scores.masked_fill(~mask, float("-inf")) if bool_mask else scores + mask.float()
        else:
            keep = _keep(r + (n_key - n_query), n_key, attention_mask, is_causal, sliding_window)
            scores = scores.masked_fill(~keep[:, None], float("-inf"))
        probs = scores.softmax(-1)
        if cols is not None:
            probs = probs.gather(3, cols[:, None, None, :].expand(batch, heads, n, -1))
        out.append(probs)
    return torch.cat(out, 2)


def _keep(at: Tensor, n_key: int, padding: Tensor | None, is_causal: bool, window: int | None) -> Tensor:
    """(B, R, N) True where the query at absolute position ``at`` (B, R) may look."""
    k = torch.arange(n_key, device=at.device)[None, None]
    keep = k <= at[..., None] if is_causal else torch.ones_like(k <= at[..., None])
    if window is not None:
        keep = keep & (k > at[..., None] - window)
    if padding is not None:
        keep = keep & padding[:, None, -n_key:].bool()
    return keep


def _wrap(inner: Callable | None) -> Callable:
    """Serve the callbacks, then call ``inner`` (None: the eager code of the module's own file)."""

    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        **kw: Any,
    ) -> Any:
        callbacks = _ALONE.get(module) or _CALLBACKS.get(module)
        if callbacks:
            options = dict(kw)
            causal = options.pop("is_causal", None)
            options["is_causal"] = getattr(module, "is_causal", True) if causal is None else causal
            options.setdefault("sliding_window", None)
            options.setdefault("softcap", None)
            if module in _ROPE:
                options["cos"], options["sin"] = _ROPE[module]
            scale = query.shape[-1] ** -0.5 if scaling is None else scaling
            with torch.no_grad(), full_precision():
                for callback in tuple(callbacks):
                    callback(module, query, key, value, attention_mask, scale, **options)
        forward = inner or sys.modules[type(module).__module__].eager_attention_forward
        return forward(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kw)

    return attention


def _registered(base: str) -> str:
    """Name of the wrapper around the attention function ``base``, registered on first use."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

    functions: dict[str, tuple[Callable | None, Callable]] = {
        "sdpa": (sdpa_attention_forward, sdpa_mask),
        "eager": (None, eager_mask),
    }
    if base not in functions:
        raise UnsupportedError(
            f"attention {base!r} cannot be watched: load the model with attn_implementation='sdpa' "
            "(or 'flash_attention_2')"
        )
    name = f"biaslab_{base}"  # must not contain "flash": transformers picks the mask format by that substring
    if name not in AttentionInterface().valid_keys():
        inner, mask = functions[base]
        AttentionInterface.register(name, _wrap(inner))
        # without a mask function of the same name the model silently runs with attention_mask=None
        AttentionMaskInterface.register(name, mask)
    return name


def row_options(module: nn.Module, kw: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what a `watch` callback must hand on to `attention_rows` from its keyword arguments.

    Parameters
    ----------
    module : nn.Module
        The attention module, for the message.
    kw : mapping
        Keyword arguments of the callback.

    Returns
    -------
    dict
        ``is_causal``, ``sliding_window`` and ``softcap``.

    Raises
    ------
    UnsupportedError
        The layer adds to its scores what `attention_rows` does not know.
    """
    if kw.get("position_bias") is not None or kw.get("s_aux") is not None:
        raise UnsupportedError(f"{type(module).__name__} adds a bias or sink to attention: its rows cannot be captured")
    return {name: kw[name] for name in ("is_causal", "sliding_window", "softcap")}


@contextmanager
def watch(model: Any, callbacks: Mapping[int, Callable], *, rope: bool = False) -> Iterator[None]:
    """Call back from inside the attention of chosen decoder layers, without changing what they compute.

    Parameters
    ----------
    model : PreTrainedModel
        Anything with ``get_decoder()`` whose layers hold a ``self_attn`` that uses transformers'
        AttentionInterface, loaded with "sdpa", "flash_attention_2" (or "eager") attention.
    callbacks : dict layer index -> callable
        ``callback(module, query, key, value, attention_mask, scaling, *, is_causal, sliding_window, softcap,
        **kw)`` is called for prefill and decode steps alike (``query.shape[2]`` tells them apart) under
        ``no_grad`` and outside of any autocast. The first three keywords can be passed on to `attention_rows`.
    rope : bool
        Also pass ``cos`` and ``sin`` of the rotary embedding, (B or 1, Q, D).

    Raises
    ------
    InputError
        For a layer the decoder does not have.
    UnsupportedError
        For an attention implementation or layer that cannot be watched.

    Notes
    -----
    May be entered and left from several threads. One model must not run in two threads at a time: its callbacks and
    rotary tables could not tell the forwards apart.
    """
    decoder: Any = model.get_decoder()
    n_layers = len(decoder.layers)
    for layer in callbacks:
        resolve_layer(layer, range(n_layers), "the decoder")
        if not hasattr(decoder.layers[layer], "self_attn"):
            raise UnsupportedError(f"layer {layer} has no self-attention: choose another layer")
    with ExitStack() as undo:
        _switch_on(decoder)
        undo.callback(_switch_off, decoder)
        for layer, callback in callbacks.items():
            module = decoder.layers[layer].self_attn
            _remember(module, callback)
            undo.callback(_forget, module, callback)
            if rope:
                undo.callback(module.register_forward_pre_hook(_catch_rope, with_kwargs=True).remove)
                undo.callback(_ROPE.pop, module, None)
        yield


@contextmanager
def alone(module: nn.Module, callback: Callable) -> Iterator[None]:
    """Let one callback hear an attention module and no other; inside a `watch` of the model.

    Parameters
    ----------
    module : nn.Module
    callback : callable
        As of `watch`.
    """
    _ALONE[module] = [callback]
    try:
        yield
    finally:
        del _ALONE[module]


def _catch_rope(module: nn.Module, args: tuple, kwargs: dict) -> None:
    if kwargs.get("position_embeddings") is None:
        name = type(module).__name__
        raise UnsupportedError(f"{name} is not given cos and sin: use the score 'attention' or 'value_norm'")
    _ROPE[module] = kwargs["position_embeddings"]


def _remember(module: nn.Module, callback: Callable) -> None:
    with _LOCK:
        _CALLBACKS.setdefault(module, []).append(callback)


def _forget(module: nn.Module, callback: Callable) -> None:
    with _LOCK:
        _CALLBACKS[module].remove(callback)
        if not _CALLBACKS[module]:
            del _CALLBACKS[module]


def _switch_on(decoder: Any) -> None:
    with _LOCK:
        if decoder in _SWITCHED:
            _SWITCHED[decoder][0] += 1
            return
        previous = decoder.config._attn_implementation
        if is_flash(previous):
            _override(previous)
        else:
            decoder.set_attn_implementation(_registered(previous))
        _SWITCHED[decoder] = [1, previous]


def _switch_off(decoder: Any) -> None:
    with _LOCK:
        _SWITCHED[decoder][0] -= 1
        if _SWITCHED[decoder][0] == 0:  # watches may be closed in any order: only the last one restores
            previous = _SWITCHED.pop(decoder)[1]
            if is_flash(previous):
                _restore(previous)
            else:
                decoder.set_attn_implementation(previous)


def is_flash(implementation: str | None) -> bool:
    """Whether an attention implementation takes FlashAttention's 2-D masks: transformers asks the same way."""
    return "flash" in (implementation or "")


def _override(name: str) -> None:
    """Put the wrapper in the place of the attention function ``name``; the caller holds the lock."""
    from transformers import AttentionInterface

    if name in _OVERRIDDEN:
        _OVERRIDDEN[name][0] += 1
        return
    functions = AttentionInterface()
    if name not in functions.valid_keys():
        raise UnsupportedError(f"attention {name!r} is not loaded: load the model with attn_implementation='sdpa'")
    _OVERRIDDEN[name] = [1, functions[name]]
    AttentionInterface.register(name, _wrap(functions[name]))


def _restore(name: str) -> None:
    """Put the attention function ``name`` back once the last watch that replaced it ends; the caller holds the lock."""
    from transformers import AttentionInterface

    _OVERRIDDEN[name][0] -= 1
    if _OVERRIDDEN[name][0] == 0:
        AttentionInterface.register(name, _OVERRIDDEN.pop(name)[1])
