"""A layer of the KV cache whose tensors stay where they are while a static step runs."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from biaslab.evaluation.sweep.kv_cache import RoomyLayer
from biaslab.pruning.engine.kv_entries import entries

__all__ = ["FixedLayer"]


class FixedLayer(RoomyLayer):
    """A cache layer with all its room from the beginning, written at a place that a tensor tells.

    As long as it is fixed, every forward is shown all of the room, whose unwritten columns a mask has to hide. Let go
    of, it is an ordinary dynamic layer again, of what has been written.

    Parameters
    ----------
    source : DynamicLayer
        Filled; its rows, heads, dimensions and type.
    capacity : int
        Columns.
    at : (1,) int64 Tensor
        Column of the next token; whoever runs the step moves it on.

    Examples
    --------
    >>> import torch
    >>> from transformers.cache_utils import DynamicLayer
    >>> source, at = DynamicLayer(), torch.tensor([3])
    >>> _ = source.update(*torch.ones(2, 1, 1, 3, 2))
    >>> layer = FixedLayer(source, 8, at)
    >>> layer.fix(source)
    >>> keys, values = layer.update(*torch.full((2, 1, 1, 1, 2), 5.0))
    >>> keys[0, 0, :, 0].tolist()
    [1.0, 1.0, 1.0, 5.0, 0.0, 0.0, 0.0, 0.0]
    >>> layer.let_go(4)
    >>> layer.get_seq_length(), layer.keys.shape[2]
    (4, 4)
    """

    def __init__(self, source: Any, capacity: int, at: Tensor) -> None:
        if isinstance(source, RoomyLayer) and source._all_keys.shape[2] >= capacity:  # the room is there already
            keys, values = (x[:, :, :capacity] for x in (source._all_keys, source._all_values))
        else:
            keys, values = (x.new_empty(*x.shape[:2], capacity, x.shape[3]) for x in (source.keys, source.values))
        super().__init__(keys, values, 0)
        self.at, self.fixed = at, False

    def fix(self, source: Any) -> None:
        """Take over another layer's entries; nothing of an earlier use is left behind them."""
        held = entries(source)
        self.dropped = source.get_seq_length() - held
        for own, other in ((self._all_keys, source.keys), (self._all_values, source.values)):
            if own.data_ptr() != other.data_ptr():
                own[:, :, :held] = other
            own[:, :, held:] = 0  # hidden, but what a mask hides must be finite
        self.fixed = True

    def let_go(self, length: int) -> None:
        """Be a dynamic layer of ``length`` entries."""
        self.fixed = False
        self._show(length)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the entries of one new token at its place; return the whole room."""
        if not self.fixed:
            return super().update(key_states, value_states, *args, **kwargs)
        self._all_keys.index_copy_(2, self.at, key_states)
        self._all_values.index_copy_(2, self.at, value_states)
        return self._all_keys, self._all_values
