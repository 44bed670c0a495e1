"""The tensors of a static decode step, and the step: the same shapes and the same tensors for every token.

A step writes into what is there and makes nothing that outlives it: the next token's id, its column in the KV cache of
either width, the masks that open by that column, the row of the rotary tables, the logits. So it can be captured once
and repeated by a device without the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from biaslab.evaluation.decoding.fixed_layer import FixedLayer
from biaslab.evaluation.decoding.observed import Observed
from biaslab.evaluation.sweep.kv_cache import narrowed
from biaslab.models.transformers_versions import with_kv_cache
from biaslab.pruning.engine.pruned_index import PrunedIndex

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["Rows", "StaticState", "Width", "capacity", "seen", "widths"]


@dataclass(frozen=True, eq=False)
class Width:
    """Layers whose cache holds the same tokens.

    Attributes
    ----------
    start, end : int
        From layer ``start`` to the one before ``end``.
    real : (R, T) bool Tensor
        Which of the T entries a new token may see: neither padding nor fillers.
    positions : LongTensor (..., R, 1)
        Of the next new token, for the rotary embedding.
    """

    start: int
    end: int
    real: Tensor
    positions: Tensor


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows that wait for their next token: a KV cache and what it holds.

    Attributes
    ----------
    cache : DynamicCache
    widths : list of Width
        In the order of the layers.
    """

    cache: Any
    widths: list[Width]

    def pick(self, index: Tensor) -> Rows:
        """Go on with some rows; the cache is changed."""
        narrowed(self.cache, index)
        found = [replace(w, real=w.real[index], positions=w.positions.index_select(-2, index)) for w in self.widths]
        return Rows(self.cache, _shared(found, self.widths))


def widths(
    n_layers: int, real: Tensor, positions: Tensor, cuts: Sequence[tuple[int, PrunedIndex]], renumber: bool
) -> list[Width]:
    """Work out the widths of a prefilled batch.

    Parameters
    ----------
    n_layers : int
    real : (R, N) bool Tensor
        False for padding of what the decoder sees as the prompts.
    positions : LongTensor (..., R, 1)
        Of the first new token, as the decoder has them.
    cuts : sequence of (int, PrunedIndex)
        From which layer on the rows have which short sequence, ascending.
    renumber : bool
        Whether short sequences have consecutive positions.

    Returns
    -------
    list of Width
    """
    first, *ends = *(start for start, _ in cuts), n_layers
    found = [Width(0, first, real, positions)] if first > 0 else []
    for (start, cut), end in zip(cuts, ends, strict=True):
        mine = positions - cut.n_dropped.to(positions.device) if renumber else positions
        found.append(Width(start, end, seen(cut, real), mine))
    return found


def seen(cut: PrunedIndex, real: Tensor) -> Tensor:
    """Bring (R, N) what is real of prompts to their short sequences, of which fillers are no part: (R, M)."""
    short = cut.gather(real, 1)
    return short if cut.pad is None else short & ~cut.pad.to(short.device)


class _Buffers:
    """What the layers of one width read and write."""

    def __init__(self, capacity: int, rows: int, dtype: torch.dtype, device: torch.device) -> None:
        self.at = torch.zeros(1, dtype=torch.int64, device=device)
        self.mask = torch.zeros(rows, 1, 1, capacity, dtype=dtype, device=device)
        self.rope: tuple[Tensor, ...] | None = None
        self.open: bool | float = True if dtype == torch.bool else 0.0
        self.closed: bool | float = False if dtype == torch.bool else torch.finfo(dtype).min


class StaticState:
    """Everything that a static step reads and writes.

    Parameters
    ----------
    vlm : VLM
    observed : Observed
    rows : Rows
        Only their shapes count here; `fill` takes them over.
    room : int
        Steps it can take before it has to be made anew.
    multiple : int
        Of which every capacity is one.

    Attributes
    ----------
    tokens : (R, 1) int64 Tensor
        To be written before every step.
    logits : (R, vocabulary) float32 Tensor
        Of the latest step.
    taken : int
        Steps since it was filled.
    """

    def __init__(self, vlm: VLM, observed: Observed, rows: Rows, room: int, multiple: int) -> None:
        decoder: Any = vlm.decoder
        self.decoder = decoder
        self.head: Any = vlm.model.get_output_embeddings()
        self.room, self.taken = room, 0
        self.hidden = hidden = observed.hidden  # tells the rotary embedding type and device
        n, device = len(rows.widths[0].real), hidden.device
        mask = torch.bool if decoder.config._attn_implementation == "sdpa" else hidden.dtype
        self.layers = [list(decoder.layers[width.start : width.end]) for width in rows.widths]
        self.buffers = [_Buffers(capacity(width, room, multiple), n, mask, device) for width in rows.widths]
        self.tokens = torch.zeros(n, 1, dtype=torch.int64, device=device)
        self.step = torch.zeros(1, dtype=torch.int64, device=device)
        self.logits = torch.zeros(n, observed.vocabulary, dtype=torch.float32, device=device)
        self.fixed: list[FixedLayer] = []
        self.cache = DynamicCache()
        self.kwargs = with_kv_cache(observed.kwargs, self.cache)

    def fill(self, rows: Rows) -> None:
        """Take over rows; their cache's layers become those of this state, one after the other."""
        self.rows, self.taken = rows, 0
        self.step.zero_()
        first: Any = None
        for buffers, width in zip(self.buffers, rows.widths, strict=True):
            held = width.real.shape[1]
            buffers.at.fill_(held)
            buffers.mask.fill_(buffers.closed)
            buffers.mask[:, 0, 0, :held].masked_fill_(width.real, buffers.open)
            if first is not None and width.positions is rows.widths[0].positions:
                buffers.rope = first
            else:
                ids = width.positions + torch.arange(self.room, device=width.positions.device)
                rope = self.decoder.rotary_emb(self.hidden, ids)
                if buffers.rope is None:
                    buffers.rope = rope
                else:
                    for own, new in zip(buffers.rope, rope, strict=True):
                        own.copy_(new)
            first = first or buffers.rope
            for index in range(width.start, width.end):
                source = rows.cache.layers[index]
                if len(self.fixed) <= index:
                    self.fixed.append(FixedLayer(source, buffers.mask.shape[-1], buffers.at))
                    self.cache.layers.append(self.fixed[index])
                self.fixed[index].fix(source)
                rows.cache.layers[index] = self.fixed[index]  # what it held is free before the next one's room

    def run(self) -> None:
        """Take one step: the logits that follow ``tokens``."""
        hidden = self.decoder.embed_tokens(self.tokens)
        known: Any = None
        for layers, buffers in zip(self.layers, self.buffers, strict=True):
            if buffers.rope is not known:
                known = buffers.rope
                rope = tuple(table.index_select(-2, self.step) for table in known)
            buffers.mask.index_fill_(3, buffers.at, buffers.open)
            for layer in layers:
                hidden = layer(hidden, attention_mask=buffers.mask, position_embeddings=rope, **self.kwargs)
            buffers.at.add_(1)
        self.logits.copy_(self.head(self.decoder.norm(hidden))[:, -1])
        self.step.add_(1)

    def pick(self, index: Tensor) -> None:
        """Go on with some rows, in tensors of their own: no graph may hold the step."""
        self.rows = self.rows.pick(index)
        self.tokens, self.logits = self.tokens[index], self.logits[index]
        first, shared = self.buffers[0].rope, None
        for buffers in self.buffers:
            buffers.mask = buffers.mask[index]
            if buffers.rope is first and shared is not None:
                buffers.rope = shared
            elif buffers.rope is not None:
                buffers.rope = tuple(table.index_select(-3, index) for table in buffers.rope)
            shared = shared or buffers.rope

    def let_go(self) -> Rows:
        """Give back the rows with what the steps have added; the cache is an ordinary dynamic one again."""
        found = []
        for width in self.rows.widths:
            new = width.real.new_ones(len(width.real), self.taken)
            real = torch.cat([width.real, new], 1)
            found.append(replace(width, real=real, positions=width.positions + self.taken))
            for index in range(width.start, width.end):
                self.fixed[index].let_go(real.shape[1])
        return Rows(self.rows.cache, _shared(found, self.rows.widths))


def capacity(width: Width, room: int, multiple: int) -> int:
    """Columns that the layers of a width have: its entries and the room for new ones, rounded up."""
    return -(-(width.real.shape[1] + room) // multiple) * multiple


def _shared(new: list[Width], old: list[Width]) -> list[Width]:
    """Let widths that had the same positions have the same again."""
    first = new[0].positions
    return [
        replace(width, positions=first) if before.positions is old[0].positions else width
        for width, before in zip(new, old, strict=True)
    ]
