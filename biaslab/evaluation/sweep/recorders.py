"""Attention rows that the methods of a sweep read, kept while the layers run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from biaslab.pruning.algorithms.transfer import Arriving
from biaslab.pruning.engine.prompt import Prompt
from biaslab.pruning.engine.recording import are_finite, prompt_rows
from biaslab.pruning.engine.running import RowKey

__all__ = ["Recorders"]


class Recorders:
    """Keeps the rows of the layers that are read, for every score and kind of query rows.

    Parameters
    ----------
    prompts : mapping of query rows to Prompt
    wanted : set of (layer, score, query rows)

    Attributes
    ----------
    attention : dict of (layer, score, query rows) to Tensor (B, H, Q, V)
    finite : dict of the same to Arriving
        Whether the rows are finite.
    deaf : bool
        Whether the running forward is none of the B prompts.
    """

    def __init__(self, prompts: Mapping[Any, Prompt], wanted: set[RowKey]) -> None:
        self.prompts, self.wanted = dict(prompts), wanted
        self.attention: dict[RowKey, Tensor] = {}
        self.finite: dict[RowKey, Arriving] = {}
        self.deaf = False
        self._rope: tuple[Tensor, Tensor] | None = None

    def by_layer(self) -> dict[int, Callable]:
        """Make the function that hears each layer which is read."""
        return {index: self._of_layer(index) for index in {key[0] for key in self.wanted}}

    def begin_at(self, first: int) -> None:
        """Let the queries of the following forwards begin at column ``first`` of the prompts."""
        for queries, prompt in self.prompts.items():
            if prompt.rows is not None:
                self.prompts[queries] = replace(prompt, rows=prompt.rows - first)

    def turned_by(self, rope: Any) -> None:
        """Say by what all keys are turned, where the queries are fewer: (cosines, sines) of the whole prompts."""
        self._rope = rope

    def _of_layer(self, index: int) -> Callable:
        here = [key for key in self.wanted if key[0] == index]

        def record(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float, **kw: Any):
            if self.deaf:
                return
            kw |= {"attention_mask": mask, "scaling": scaling}
            if self._rope is not None and "cos" in kw:
                kw["cos"], kw["sin"] = self._rope
            for name in here:
                rows = prompt_rows(name[1], self.prompts[name[2]], module, query, key, value, **kw)
                if rows is not None:
                    self.attention[name], self.finite[name] = rows, are_finite(rows)

        return record
