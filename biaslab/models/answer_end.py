"""Whether an answer ended by itself, or was cut because it had as many tokens as it may."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["AnswerEnd"]


class AnswerEnd:
    """Watch a ``generate`` without beams and tell afterwards which answers lack an end token.

    A stopping criterion, as transformers calls them, that stops nothing. Pass it as ``stopping_criteria=[end]``.

    Parameters
    ----------
    prompt_length : int
        Tokens of the padded prompts.
    stop_ids : iterable of int, optional
        The end tokens.

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.models.answer_end import AnswerEnd
    >>> from biaslab.models.answering import stop_ids
    >>> sample = next(iter(bl.load_dataset("scenes", n=1)))
    >>> vlm = bl.load("grounder")
    >>> encoded = vlm.encode_grounding([sample.image()], [sample.expression])
    >>> for limit in (4, 40):
    ...     end = AnswerEnd(encoded.last + 1, stop_ids(vlm))
    ...     _ = vlm.generate(encoded, max_new_tokens=limit, stopping_criteria=[end])
    ...     print(limit, end.truncated())
    4 [True]
    40 [False]
    """

    def __init__(self, prompt_length: int, stop_ids: Iterable[int] | None) -> None:
        self._start, self._stop_ids = prompt_length, list(stop_ids or ())
        self._ids: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kw: Any) -> Any:
        """Remember the tokens so far; go on."""
        self._ids = input_ids
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def truncated(self) -> list[bool]:
        """List, for every prompt, whether its answer has no end token; empty if nothing was generated."""
        if self._ids is None:
            return []
        answers = self._ids[:, self._start :]
        ends = torch.isin(answers, torch.tensor(self._stop_ids, dtype=answers.dtype, device=answers.device))
        return (~ends.any(1)).tolist()
