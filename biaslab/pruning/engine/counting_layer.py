"""A layer of the KV cache whose length counts what it does not hold."""

from __future__ import annotations

from transformers.cache_utils import DynamicLayer

__all__ = ["CountingLayer"]


class CountingLayer(DynamicLayer):
    """A cache layer that counts the dropped tokens in its length, as a windowed one does those out of its window.

    transformers measures the masks of all full-attention layers by one of them
    (:func:`biaslab.pruning.engine.kv_entries.count_dropped`).

    Parameters
    ----------
    dropped : int
        Tokens of the prompt that were dropped before the layer.

    Examples
    --------
    >>> import torch
    >>> layer = CountingLayer(231)
    >>> layer.get_seq_length()  # before the prefill
    0
    >>> keys, values = layer.update(*torch.zeros(2, 1, 2, 60, 16))
    >>> layer.get_seq_length(), layer.get_mask_sizes(1), keys.shape[2]
    (291, (292, 0), 60)
    """

    def __init__(self, dropped: int = 0) -> None:
        super().__init__()
        self.dropped = dropped

    def get_seq_length(self) -> int:
        """Count the tokens that have passed, dropped ones included; 0 before the prefill."""
        held = super().get_seq_length()
        return held + self.dropped if held else 0
