"""What the layers of a KV cache hold, and what they say they hold."""

from __future__ import annotations

from typing import Any

__all__ = ["count_dropped", "entries"]


def entries(layer: Any) -> int:
    """Count the tokens whose keys and values a cache layer holds.

    Its ``get_seq_length`` says another number where it has a sliding window, or counts dropped tokens.

    Examples
    --------
    >>> from transformers.cache_utils import DynamicSlidingWindowLayer
    >>> layer = DynamicSlidingWindowLayer(sliding_window=9)
    >>> entries(layer)
    0
    >>> import torch
    >>> _ = layer.update(*torch.zeros(2, 1, 2, 60, 16))
    >>> entries(layer), layer.get_seq_length()
    (8, 60)
    """
    keys = layer.keys
    return 0 if keys is None or keys.numel() == 0 else keys.shape[-2]


def count_dropped(cache: Any, index: int, dropped: int) -> None:
    """Let the masks that the decoder builds at later steps be as wide as if nothing had been dropped.

    It makes them for the first full-attention layer. As long as that is below K it holds the whole prompt, and nothing
    is to be done. Where all layers below K have a sliding window it is K itself: a mask of its entries would have its
    columns at other places than the padding has them.

    Parameters
    ----------
    cache : DynamicCache
        At the prefill, layer ``index`` still empty.
    index : int
        K >= 1, the first layer without the dropped tokens.
    dropped : int
        How many; 0 for a prompt without an image.
    """
    if index < len(cache.layers) and all(cache.is_sliding[:index]):
        from biaslab.pruning.engine.counting_layer import CountingLayer

        cache.layers[index] = CountingLayer(dropped)
