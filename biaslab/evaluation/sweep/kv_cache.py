"""The KV cache of a wide batch: rows that share the lower layers' entries, and room for the answers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, DynamicLayer

__all__ = ["RoomyLayer", "Rows", "narrowed", "wide_cache"]

_ROOM = 32  # tokens that a layer grows by


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a wide batch that come from one prefill.

    Attributes
    ----------
    samples : (R,) int64 Tensor
        Prompt of the prefix that each row goes on with.
    layer : int
        K: below it, entries are those of the prefix.
    cache : DynamicCache or None
        R rows' entries from layer K on; None where they are the prefix's as well.
    """

    samples: Tensor
    layer: int
    cache: Any


class RoomyLayer(DynamicLayer):
    """A cache layer with room behind its entries: a new token is written, not joined to a copy of all before it."""

    def __init__(self, keys: Tensor, values: Tensor, length: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self._all_keys, self._all_values = keys, values
        self._show(length)

    def _show(self, length: int) -> None:
        self._length = length
        self.keys, self.values = self._all_keys[:, :, :length], self._all_values[:, :, :length]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the entries of new tokens behind the others; return all."""
        first, last = self._length, self._length + key_states.shape[-2]
        if last > self._all_keys.shape[2]:
            more = (0, 0, 0, max(_ROOM, last - self._all_keys.shape[2]))
            self._all_keys, self._all_values = pad(self._all_keys, more), pad(self._all_values, more)
        self._all_keys[:, :, first:last] = key_states
        self._all_values[:, :, first:last] = value_states
        self._show(last)
        return self._all_keys[:, :, :last], self._all_values[:, :, :last]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        rows = indices.to(self._all_keys.device)
        self._all_keys, self._all_values = self._all_keys[rows], self._all_values[rows]
        self._show(self._length)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Put rows into another order."""
        self.batch_select_indices(beam_idx)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the latest tokens."""
        self._show(self._length - abs(tokens_to_remove))


def wide_cache(prefix: Any, parts: Sequence[Rows]) -> Any:
    """Make the cache of several prefills' rows as one batch.

    Parameters
    ----------
    prefix : DynamicCache
        Entries of the whole prompts, of all layers or of those below the largest K.
    parts : sequence of Rows

    Returns
    -------
    DynamicCache
        In every layer as many entries as the longest row has, shorter rows at the end: what stands before them is
        zeros, for a mask to hide.
    """
    cache = DynamicCache()
    n_layers = max(len(c.layers) for c in (prefix, *(part.cache for part in parts)) if c is not None)
    for index in range(n_layers):
        sources = [prefix if part.cache is None or index < part.layer else part.cache for part in parts]
        layers = [source.layers[index] for source in sources]
        if type(layers[0]) is DynamicLayer:
            cache.layers.append(
                _joined(layers, [part.samples if s is prefix else None for part, s in _zip(parts, sources)])
            )
        else:  # a sliding window, which nothing is pruned from
            layer = copy.copy(layers[0])
            samples = torch.cat([part.samples for part in parts]).to(layer.keys.device)
            layer.keys, layer.values = layer.keys[samples], layer.values[samples]
            cache.layers.append(layer)
    return cache


def narrowed(cache: Any, rows: Tensor) -> None:
    """Keep some rows of a cache, in place."""
    for layer in cache.layers:
        layer.batch_select_indices(rows.to(layer.keys.device))


def _zip(a: Sequence, b: Sequence) -> zip:
    return zip(a, b, strict=True)


def _joined(layers: Sequence[Any], samples: Sequence[Tensor | None]) -> RoomyLayer:
    length = max(layer.get_seq_length() for layer in layers)
    counts = [len(layer.keys) if rows is None else len(rows) for layer, rows in _zip(layers, samples)]

    def stored(name: str) -> Tensor:
        first = getattr(layers[0], name)
        store = first.new_zeros(sum(counts), first.shape[1], length + _ROOM, first.shape[3])
        start = 0
        for layer, rows, count in zip(layers, samples, counts, strict=True):
            entries = getattr(layer, name)
            entries = entries if rows is None else entries[rows.to(entries.device)]
            store[start : start + count, :, length - entries.shape[2] : length] = entries
            start += count
        return store

    return RoomyLayer(stored("keys"), stored("values"), length)
