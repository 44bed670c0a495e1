"""Greedy decoding by a static step: what the host does between two steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from biaslab.errors import UnsupportedError
from biaslab.evaluation.decoding.dynamic_loop import NARROW_AT, look_every
from biaslab.evaluation.decoding.observed import Observed, observe
from biaslab.evaluation.decoding.static_state import Rows, StaticState, capacity, seen, widths
from biaslab.evaluation.decoding.step_graph import GraphedStates
from biaslab.evaluation.decoding.ways import not_static
from biaslab.evaluation.sweep.generation import Generation
from biaslab.models.transformers_versions import kv_cache_of
from biaslab.pruning.engine.pruned_index import PrunedIndex

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["StaticDecoding"]

# Steps of one state (a longer answer goes on in the next), and what the capacities are multiples of. A graph is made
# for more steps, so that most answers need no second one, and for prompts of neighbouring lengths.
_ROOM, _MULTIPLE = 32, 1
_GRAPH_ROOM, _GRAPH_MULTIPLE = 64, 64


class StaticDecoding:
    """What a static decoding starts from. Making it refuses what cannot be decoded so, and changes nothing.

    Parameters
    ----------
    vlm : VLM
    generation : Generation
        R prompts, with the filled KV cache of the R rows.
    cuts : sequence of (int, PrunedIndex)
        From which layer on the rows have which short sequence, ascending.
    positions : "original", "renumber" or "remap"
    shown : PrunedIndex, optional
        The short sequence of all layers, where a hook on the decoder brings masks and positions to it.

    Raises
    ------
    UnsupportedError
        With the reason.
    """

    def __init__(
        self,
        vlm: VLM,
        generation: Generation,
        cuts: Sequence[tuple[int, PrunedIndex]],
        positions: str,
        *,
        shown: PrunedIndex | None = None,
    ) -> None:
        if why := not_static(vlm):
            raise UnsupportedError(why)
        self.vlm, self.generation = vlm, generation
        ids, mask = generation.ids, generation.kwargs.get("attention_mask")
        if mask is None:
            mask = torch.ones_like(ids)
        if mask.ndim != 2 or mask.shape[1] != ids.shape[1]:
            raise UnsupportedError("its padding is not told by a mask of two dimensions")
        self.most = _GRAPH_ROOM if generation.most is None else generation.most
        real = mask.bool().expand(len(ids), -1)
        real = real if shown is None else seen(shown, real)
        self.observed: Observed = observe(vlm, generation, real, self.most)
        renumber = positions == "renumber"
        if renumber and cuts and self.observed.positions.ndim > 2:
            raise UnsupportedError("its positions have several axes, which cannot be renumbered")
        parts = widths(vlm.n_layers, real, self.observed.positions, cuts, renumber)
        self.rows = Rows(kv_cache_of(generation.kwargs), parts)

    def decode(self, logits: Tensor, graphs: GraphedStates | None = None) -> list[Tensor]:
        """Decode until every row has ended.

        Parameters
        ----------
        logits : (R, 1, vocabulary) Tensor
            Of the first token.
        graphs : GraphedStates, optional
            Let graphs repeat the steps, rows that have ended along with the others: a narrower batch is another shape,
            and another capture costs more than the rows of the few steps by which answers differ.

        Returns
        -------
        list of R LongTensor (T,)
            New tokens of each row; behind its end, padding.
        """
        length, device = self.generation.ids.shape[1], self.generation.ids.device
        generation, rows = self.generation, self.rows
        all_ids = torch.nn.functional.pad(generation.ids, (0, _ROOM))
        alive = torch.arange(len(all_ids), device=device)
        going = torch.ones(len(alive), dtype=torch.bool, device=device)
        spoken = torch.zeros(len(alive), dtype=torch.int64, device=device)  # tokens of each row, its end included
        answers: list[Any] = [None] * len(alive)
        every, most = look_every(device), generation.most
        state: StaticState | None = None
        take: Callable[[], None]
        scores = logits[:, -1].to(copy=True, dtype=torch.float32, device=device)
        for step in range(1, 1 << 30):
            if length + step > all_ids.shape[1]:
                all_ids = torch.nn.functional.pad(all_ids, (0, _ROOM))
            tokens = generation.processors(all_ids[:, : length + step - 1], scores).argmax(-1)
            if generation.pad is not None:
                tokens = torch.where(going, tokens, generation.pad)
            all_ids[:, length + step - 1] = tokens
            spoken += going
            going &= ~generation.criteria(all_ids[:, : length + step], None)
            if step % every == 0 or step in (1, most):  # a step behind the limit would outgrow the state as well
                n = int(going.sum())
                if n == 0 or (graphs is None and n <= NARROW_AT * len(alive)):
                    done = (~going).nonzero()[:, 0]
                    longest = length + int(spoken[done].max())
                    for row, ids in zip(alive[done].tolist(), all_ids[done, length:longest].unbind(), strict=True):
                        answers[row] = ids
                    if n == 0:
                        if state is not None:
                            state.let_go()
                        return answers
                    left = going.nonzero()[:, 0]
                    generation = generation.rows(left)
                    alive, going, spoken, all_ids, tokens = (x[left] for x in (alive, going, spoken, all_ids, tokens))
                    if state is None:
                        rows = rows.pick(left)
                    else:
                        state.pick(left)
            if state is not None and state.taken == state.room:
                rows, state = state.let_go(), None
            if state is None:
                state, take = self._state(rows, graphs)
                state.fill(rows)
            state.tokens.copy_(tokens[:, None])
            take()
            state.taken += 1
            scores = state.logits.to(copy=True, device=device)
        raise AssertionError  # a row ends at its limit of tokens

    def _state(self, rows: Rows, graphs: GraphedStates | None) -> tuple[StaticState, Callable[[], None]]:
        """Make the tensors for some rows, or find those of an earlier batch of the same shapes."""
        if graphs is None:
            state = StaticState(self.vlm, self.observed, rows, min(_ROOM, self.most), _MULTIPLE)
            return state, state.run
        room, first = min(_GRAPH_ROOM, self.most), rows.widths[0].positions
        shapes = tuple((w.start, w.end, capacity(w, room, _GRAPH_MULTIPLE), w.positions is first) for w in rows.widths)
        key = (id(self.vlm.decoder), len(rows.widths[0].real), room, first.ndim, shapes)
        return graphs.take(key, partial(StaticState, self.vlm, self.observed, rows, room, _GRAPH_MULTIPLE))
