"""What ``model.generate`` has prepared for a batch of prompts, and how to take a part of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from biaslab.models.transformers_versions import processors_of_rows, with_kv_cache

__all__ = ["Generation"]


@dataclass(frozen=True, eq=False)
class Generation:
    """A running ``generate``: the prompts, the model's keyword arguments, and what decides on the next token.

    Attributes
    ----------
    model : PreTrainedModel
    ids : LongTensor (B, N)
        Prompts, and later what was generated.
    kwargs : dict
        Keyword arguments that ``generate`` hands from step to step, without the KV cache's content.
    processors, criteria : callables
        ``(ids, scores) -> scores``, and ``(ids, scores) -> finished (B,)``.
    pad : int or Tensor, optional
        Follows an answer's end.
    """

    model: Any
    ids: Tensor
    kwargs: dict[str, Any]
    processors: Callable[[Tensor, Tensor], Tensor]
    criteria: Callable[[Tensor, Any], Tensor]
    pad: Any

    @classmethod
    def of(
        cls, model: Any, ids: Tensor, kwargs: dict[str, Any], processors: Any, criteria: Any, settings: Any
    ) -> Generation:
        """Take what ``generate`` hands a loop in the place of its own; ``settings`` is its generation config."""
        pad = settings._pad_token_tensor
        return cls(model, ids, kwargs, processors, criteria, None if pad is None else pad.to(ids.device))

    @property
    def most(self) -> int | None:
        """New tokens at most behind `ids`, 1 or more; None where no limit is set."""
        limit = getattr(self.criteria, "max_length", None)
        return None if limit is None else max(1, limit - self.ids.shape[1])

    def padded(self, answers: Sequence[Tensor]) -> Tensor:
        """Put answers of different lengths in one tensor, padding behind them."""
        pad = 0 if self.pad is None else int(self.pad)
        return torch.nn.utils.rnn.pad_sequence(list(answers), batch_first=True, padding_value=pad)

    def rows(self, index: Tensor) -> Generation:
        """Take rows of the batch, (R,) int64, as often as they are named; the KV cache is left alone."""
        batch = len(self.ids)
        kwargs = {name: _rows(name, value, index, batch) for name, value in self.kwargs.items()}
        processors = processors_of_rows(self.processors, index)
        return replace(self, ids=self.ids[index], kwargs=kwargs, processors=processors)

    def with_cache(self, cache: Any) -> Generation:
        """Let the following steps use another KV cache."""
        return replace(self, kwargs=with_kv_cache(self.kwargs, cache))

    def step(self, *, first: bool = False) -> Any:
        """Run the model on the prompts (``first``), or on the latest token alone; returns its outputs."""
        inputs = self.model.prepare_inputs_for_generation(
            self.ids, next_sequence_length=None if first else 1, is_first_iteration=first, **self.kwargs
        )
        return self.model(**inputs, return_dict=True)

    def grown(self, tokens: Tensor, outputs: Any) -> Generation:
        """Append a token to every row: masks and positions go on as the model says."""
        kwargs = self.model._update_model_kwargs_for_generation(outputs, dict(self.kwargs))
        return replace(self, ids=torch.cat([self.ids, tokens[:, None]], 1), kwargs=kwargs)


def _rows(name: str, value: Any, index: Tensor, batch: int) -> Any:
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    axis = 1 if name == "position_ids" and value.ndim == 3 else 0  # those of M-RoPE: one set for each of its axes
    return value.index_select(axis, index.to(value.device)) if value.shape[axis] == batch else value
