"""Answers of a batch of prompts, and which of them were cut at the limit of new tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from biaslab.models.answering import generation_options

if TYPE_CHECKING:
    from biaslab.models.encoded import Encoded
    from biaslab.models.vlm import VLM

__all__ = ["Answers", "answers_to", "read_answers"]


@dataclass(frozen=True)
class Answers:
    """What ``generate`` gave.

    Attributes
    ----------
    texts : list of B str
    truncated : list of B bool
        Which of them have as many tokens as they may and no end token.
    """

    texts: list[str]
    truncated: list[bool]


def answers_to(vlm: VLM, encoded: Encoded, max_new_tokens: int, given: dict[str, Any]) -> Answers:
    """Generate the answers to the prompts of a batch.

    Parameters
    ----------
    vlm : VLM
    encoded : Encoded
        B prompts.
    max_new_tokens : int
    given : dict
        Options of ``model.generate``, as the caller gave them.

    Returns
    -------
    Answers

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.models.answers import answers_to
    >>> sample = next(iter(bl.load_dataset("scenes", n=1)))
    >>> vlm = bl.load("grounder")
    >>> encoded = vlm.encode_grounding([sample.image()], [sample.expression])
    >>> [answers_to(vlm, encoded, limit, {}).truncated for limit in (4, 40)]
    [[True], [False]]
    """
    settings = generation_options(vlm, max_new_tokens, given)
    with vlm.running(encoded) as inputs, torch.no_grad():
        out = vlm.model.generate(**inputs, **settings)
    sequences = out if isinstance(out, torch.Tensor) else out.sequences
    return read_answers(vlm, sequences[:, encoded.last + 1 :], settings)


def read_answers(vlm: VLM, tokens: torch.Tensor, settings: dict[str, Any]) -> Answers:
    """Read the answers out of the tokens that followed the prompts.

    Parameters
    ----------
    vlm : VLM
    tokens : LongTensor (B, T)
        Padded behind the answers' ends.
    settings : dict
        Options of ``model.generate``, from `biaslab.models.answering.generation_options`.

    Returns
    -------
    Answers
    """
    texts = vlm.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return Answers([text.strip() for text in texts], _truncated(tokens, settings))


def _truncated(tokens: torch.Tensor, settings: dict[str, Any]) -> list[bool]:
    if tokens.shape[1] < settings["max_new_tokens"]:  # something else has ended the longest of them
        return [False] * len(tokens)
    ends = settings.get("eos_token_id")
    stops = torch.as_tensor([] if ends is None else ends, dtype=tokens.dtype, device=tokens.device).reshape(-1)
    return (~torch.isin(tokens, stops).any(1)).tolist()
