"""The KV cache of a wide batch: rows that share the lower layers' entries, and room for the answers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, DynamicLayer

from biaslab.pruning.engine.counting_layer import CountingLayer
from biaslab.pruning.engine.kv_entries import entries

__all__ = ["RoomyLayer", "Rows", "fresh", "narrowed", "wide_cache"]

_ROOM = 32  # tokens that a layer grows by


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a wide batch that come from one prefill: the B prompts of the prefix, several times over.

    Attributes
    ----------
    times : int
        Configurations: B rows each, one configuration after the other.
    layer : int
        K: below it, entries are those of the prefix.
    cache : DynamicCache or None
        The rows' own entries from layer K on; None where they are the prefix's as well.
    """

    times: int
    layer: int
    cache: Any


class RoomyLayer(CountingLayer):
    """A cache layer with room behind its entries: a new token is written, not joined to a copy of all before it."""

    def __init__(self, keys: Tensor, values: Tensor, length: int, dropped: int = 0) -> None:
        super().__init__(dropped)
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


def fresh(cache: Any) -> Any:
    """Copy a cache that holds nothing yet."""
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    return copied


def wide_cache(prefix: Any, parts: Sequence[Rows], whole: int) -> Any:
    """Make the cache of several prefills' rows as one batch.

    Parameters
    ----------
    prefix : DynamicCache
        Entries of the whole prompts, of all layers or of those below the largest K; of none where that is 0.
    parts : sequence of Rows
    whole : int
        Tokens of the whole prompts.

    Returns
    -------
    DynamicCache
        In every layer as many entries as the longest row has, shorter rows at the end: what stands before them is
        zeros, for a mask to hide.
    """
    cache = DynamicCache()
    n_layers = max(len(c.layers) for c in (prefix, *(part.cache for part in parts)) if c is not None)
    for index in range(n_layers):
        own = [part.cache if part.cache is not None and index >= part.layer else None for part in parts]
        sources = [(prefix if o is None else o).layers[index] for o in own]
        times = [part.times if o is None else 1 for part, o in zip(parts, own, strict=True)]
        if type(sources[0]) is DynamicLayer:
            cache.layers.append(_joined(sources, times, whole))
        else:  # a sliding window, which nothing is pruned from
            layer = copy.copy(sources[0])
            layer.keys, layer.values = (x.repeat(sum(times), 1, 1, 1) for x in (layer.keys, layer.values))
            cache.layers.append(layer)
    return cache


def narrowed(cache: Any, rows: Tensor) -> None:
    """Keep some rows of a cache, in place."""
    for layer in cache.layers:
        layer.batch_select_indices(rows.to(layer.keys.device))


def _joined(layers: Sequence[Any], times: Sequence[int], whole: int) -> RoomyLayer:
    """Put the entries of several layers, each so many times, under each other and to the end.

    ``whole`` is the length of the prompts: masks that are measured by the layer are as wide.
    """
    length = max(entries(layer) for layer in layers)
    n_rows = sum(len(layer.keys) * n for layer, n in zip(layers, times, strict=True))

    def stored(name: str) -> Tensor:
        first = getattr(layers[0], name)
        store = first.new_empty(n_rows, first.shape[1], length + _ROOM, first.shape[3])
        start = 0
        for layer, n in zip(layers, times, strict=True):
            held = getattr(layer, name)
            rows, before = store[start : start + n * len(held)], length - held.shape[2]
            rows[:, :, :before] = 0
            rows[:, :, before:length].unflatten(0, (n, -1)).copy_(held)
            start += len(rows)
        return store

    return RoomyLayer(stored("keys"), stored("values"), length, whole - length)
