"""Greedy decoding as ``generate`` does it, of many rows as one batch, which gets narrower as answers end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from biaslab.evaluation.sweep.generation import Generation
from biaslab.evaluation.sweep.kv_cache import narrowed
from biaslab.models.transformers_versions import kv_cache_of
from biaslab.pruning.engine.pruned_index import PrunedIndex
from biaslab.pruning.engine.short_inputs import ShortInputs

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["LOOK_EVERY", "NARROW_AT", "decode_dynamic", "look_every"]

#: share of the rows still answering below which the others are taken out: it costs a copy of the cache
NARROW_AT = 0.75
#: steps between two questions to a device how many rows are still answering
LOOK_EVERY = 8


def look_every(device: torch.device) -> int:
    """Count the steps between two questions how many rows are still answering; a CPU has the answer at once."""
    return 1 if device.type == "cpu" else LOOK_EVERY


def decode_dynamic(
    vlm: VLM,
    generation: Generation,
    logits: Tensor,
    cuts: Sequence[tuple[int, PrunedIndex]],
    positions: str,
    *,
    narrow: Callable[[Any, Tensor], None] | None = None,
) -> list[Tensor]:
    """Decode greedily until every row has ended.

    Parameters
    ----------
    vlm : VLM
    generation : Generation
        R prompts, with the filled KV cache of the R rows.
    logits : (R, 1, vocabulary) Tensor
        Of the first token.
    cuts : sequence of (int, PrunedIndex)
        From which layer on the rows have which short sequence, ascending.
    positions : "original", "renumber" or "remap"
    narrow : callable, optional
        Hears of the KV cache and the rows that are left, where others are taken out of it.

    Returns
    -------
    list of R LongTensor (T,)
        New tokens of each row; behind its end, padding. On any device no more than the longest of those that ended
        with it has, and no step is taken behind the limit of new tokens.
    """
    length, device, most = generation.ids.shape[1], generation.ids.device, generation.most
    steps = _Steps(vlm.decoder, list(cuts), positions)
    alive = torch.arange(len(generation.ids), device=device)
    going = torch.ones(len(alive), dtype=torch.bool, device=device)
    spoken = torch.zeros(len(alive), dtype=torch.int64, device=device)  # tokens of each row, its end included
    answers: list[Any] = [None] * len(alive)
    every = look_every(device)
    outputs: Any = {}
    with steps.watching():
        for step in range(1, 1 << 30):
            scores = generation.processors(
                generation.ids, logits[:, -1].to(copy=True, dtype=torch.float32, device=device)
            )
            tokens = scores.argmax(-1)
            if generation.pad is not None:
                tokens = torch.where(going, tokens, generation.pad)
            generation = generation.grown(tokens, outputs)
            spoken += going
            going = going & ~generation.criteria(generation.ids, None)
            if step % every == 0 or step in (1, most):  # at the limit all rows have ended, which is known without them
                n = int(going.sum())
                if n <= NARROW_AT * len(alive):
                    done = (~going).nonzero()[:, 0]
                    longest = length + int(spoken[done].max())
                    for row, ids in zip(
                        alive[done].tolist(), generation.ids[done, length:longest].unbind(), strict=True
                    ):
                        answers[row] = ids
                    if n == 0:
                        return answers
                    left = going.nonzero()[:, 0]
                    generation = generation.rows(left)
                    alive, going, spoken = (x[left] for x in (alive, going, spoken))
                    narrowed(kv_cache_of(generation.kwargs), left)
                    if narrow is not None:
                        narrow(kv_cache_of(generation.kwargs), left)
                    steps.narrow(left)
            steps.next()
            outputs = generation.step()
            logits = outputs.logits
    raise AssertionError  # a row ends at its limit of tokens


class _Steps:
    """The pre-hooks of the layers that see a short sequence."""

    def __init__(self, decoder: Any, cuts: list[tuple[int, PrunedIndex]], positions: str) -> None:
        self.decoder, self.cuts = decoder, cuts
        self.short = ShortInputs(decoder, positions)

    def next(self) -> None:
        """Another step begins."""
        self.short.clear()

    def narrow(self, rows: Tensor) -> None:
        """Go on with some rows."""
        self.cuts = [(layer, cut.rows(rows.to(cut.keep.device))) for layer, cut in self.cuts]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep the hooks on the layers for as long as the block lasts."""
        ends = [*(layer for layer, _ in self.cuts), len(self.decoder.layers)][1:]
        with ExitStack() as stack:
            for which, ((start, _), end) in enumerate(zip(self.cuts, ends, strict=True)):
                for index in range(start, end):
                    hook = self._hook(which, index)
                    stack.callback(self.decoder.layers[index].register_forward_pre_hook(hook, with_kwargs=True).remove)
            yield

    def _hook(self, which: int, index: int) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            hidden = args[0] if args else kwargs["hidden_states"]
            return self.short.of_layer(index, self.cuts[which][1], args, dict(kwargs), hidden, prefill=False)

        return hook
