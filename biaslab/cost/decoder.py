"""FLOPs of the language model, every layer at its real length."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from biaslab.errors import InputError, UnsupportedError

__all__ = [
    "CACHES",
    "DECODERS",
    "check_decoder",
    "check_kept",
    "decoder_flops",
    "head_dim",
    "held_lengths",
    "layer_lengths",
    "register_decoder",
    "windows",
]

#: config.text_config.model_type of decoders with grouped-query attention and a gated feed-forward block
DECODERS = {
    "llama", "mistral", "qwen2", "qwen3", "qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text",
}  # fmt: skip

#: what layers below the last cut hold of the prompt once the prefill is through: all of it, or what the cut has left
CACHES = ("full", "trimmed")


def register_decoder(*model_types: str) -> None:
    """Make decoders with grouped-query attention and a gated feed-forward block known.

    Parameters
    ----------
    *model_types : str
        Values of ``text_config.model_type``.
    """
    DECODERS.update(model_types)


def layer_lengths(
    n_layers: int, n_visual: int, n_text: int, *, keep_n: int | Sequence[int] | None, layer: int | Sequence[int]
) -> list[int]:
    """Count the tokens each decoder layer sees in the prefill: all before layer K, text + kept from K on.

    Parameters
    ----------
    n_layers : int
        Decoder layers L.
    n_visual, n_text : int
        Visual and other tokens of the prompt.
    keep_n : int, sequence of int, or None
        Visual tokens kept, of a schedule after each stage; None for no pruning.
    layer : int or sequence of int
        K, 0 to L - 1; of a schedule that of each stage, ascending.

    Returns
    -------
    list of int
        Tokens of each of the L layers.

    Raises
    ------
    InputError
        Counts that cannot be, or a layer that is not there.

    Examples
    --------
    >>> from biaslab.cost import layer_lengths
    >>> layer_lengths(4, 576, 64, keep_n=128, layer=2)
    [640, 640, 192, 192]
    >>> layer_lengths(4, 576, 64, keep_n=[288, 64], layer=[1, 3])
    [640, 352, 352, 128]
    """
    if n_visual < 0 or n_text < 0 or n_visual + n_text == 0:
        raise InputError(f"token counts must not be negative, and not both 0: got n_visual={n_visual}, n_text={n_text}")
    keep_n = n_visual if keep_n is None else keep_n
    left = [n_visual, *(keep_n if isinstance(keep_n, Sequence) else [keep_n])]
    starts = [*(layer if isinstance(layer, Sequence) else [layer])]
    if any(not 0 <= n <= before for n, before in zip(left[1:], left, strict=False)):
        raise InputError(f"keep_n must be between 0 and the {n_visual} visual tokens, and not grow: got {keep_n}")
    if not all(0 <= k < n_layers for k in starts) or starts != sorted(set(starts)) or len(starts) != len(left) - 1:
        raise InputError(f"the prune layer must be between 0 and {n_layers - 1}, one for each keep_n: got {layer}")
    return [left[bisect_right(starts, i)] + n_text for i in range(n_layers)]


def check_kept(cache: str) -> None:
    """Refuse a word that says nothing of what a cache keeps."""
    if cache not in CACHES:
        raise InputError(f"cache must be 'full' or 'trimmed', got {cache!r}")


def held_lengths(lengths: Sequence[int], cache: str) -> list[int]:
    """Count the prompt's tokens in the KV cache of every layer once the prefill is through.

    Parameters
    ----------
    lengths : sequence of int
        Of `layer_lengths`.
    cache : "full" or "trimmed"
        Whether layers below the last cut keep what they saw, or what that has left.

    Returns
    -------
    list of int

    Raises
    ------
    InputError
        Neither "full" nor "trimmed".

    Examples
    --------
    >>> held_lengths([640, 640, 192, 192], "trimmed")
    [192, 192, 192, 192]
    """
    check_kept(cache)
    return list(lengths) if cache == "full" else [lengths[-1]] * len(lengths)


def decoder_flops(
    text_config: Any,
    n_visual: int,
    n_text: int,
    *,
    keep_n: int | Sequence[int] | None = None,
    layer: int | Sequence[int] = 0,
    new_tokens: int = 0,
    cache: str = "full",
) -> tuple[int, int]:
    """Count the FLOPs of the language model.

    Layers with a sliding window attend to the whole prompt in the prefill (SDPA masks, it does not skip) and to
    the window only when decoding, because their cache holds no more.

    Parameters
    ----------
    text_config : PretrainedConfig
        ``config.text_config`` of the model.
    n_visual, n_text, keep_n, layer, new_tokens, cache
        As in :func:`biaslab.cost.image_flops`.

    Returns
    -------
    total : int
        FLOPs of the prefill and of every generated token.
    decode : int
        The part of ``total`` that is spent after the prefill.

    Raises
    ------
    InputError
        Counts that cannot be.
    UnsupportedError
        A decoder whose cost is not known here.

    Examples
    --------
    >>> from biaslab.cost import decoder_flops
    >>> from biaslab.models.offline.geometry import geometry
    >>> text = geometry("llava-1.5-7b").config.text_config
    >>> total, decode = decoder_flops(text, 576, 64, new_tokens=8)
    >>> print(f"{total / 1e12:.2f} TFLOPs, {decode / 1e12:.3f} of them after the prefill")
    8.60 TFLOPs, 0.095 of them after the prefill
    """
    c = check_decoder(text_config)
    lengths = layer_lengths(c.num_hidden_layers, n_visual, n_text, keep_n=keep_n, layer=layer)
    token, pair = _layer(c)
    head = c.hidden_size * c.vocab_size  # only the last row reaches it
    prefill = head + sum(n * token + n * n * pair for n in lengths)
    steps = max(0, new_tokens - 1)
    keys = sum(_keys(n, steps, window) for n, window in zip(held_lengths(lengths, cache), windows(c), strict=True))
    decode = steps * (head + len(lengths) * token) + keys * pair
    return 2 * (prefill + decode), 2 * decode


def check_decoder(text_config: Any) -> Any:
    """Return a decoder's configuration if the cost of its layers is known here.

    Raises
    ------
    UnsupportedError
        For any other decoder.
    """
    if text_config.model_type not in DECODERS:
        raise UnsupportedError(
            f"the cost of a {text_config.model_type!r} decoder is not known: known are {', '.join(sorted(DECODERS))}"
        )
    return text_config


def head_dim(text_config: Any) -> int:
    """Return the width of one attention head."""
    return getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads


def windows(text_config: Any) -> list[int | None]:
    """Return the sliding window of every layer in tokens, None where attention is full."""
    window, n = getattr(text_config, "sliding_window", None), text_config.num_hidden_layers
    types = getattr(text_config, "layer_types", None)
    if types is None:
        return [window] * n
    return [window if type_ == "sliding_attention" else None for type_ in types[:n]]


def _keys(length: int, steps: int, window: int | None) -> int:
    """Count the keys that ``steps`` tokens after a prompt of ``length`` attend to, all together."""
    if window is None:
        return steps * length + steps * (steps + 1) // 2
    return sum(min(length + t, window) for t in range(1, steps + 1))


def _layer(c: Any) -> tuple[int, int]:
    """Count the multiply-accumulates of one layer: of every new token, and of every pair of a query and a key."""
    d, dim, heads, kv = c.hidden_size, head_dim(c), c.num_attention_heads, c.num_key_value_heads
    projections = d * dim * (heads + 2 * kv) + heads * dim * d
    return projections + 3 * d * c.intermediate_size, 2 * heads * dim
