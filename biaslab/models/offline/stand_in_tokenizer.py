"""A small tokenizer that stands in for a family's own: same special tokens, other words."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from biaslab.models.offline_spec import SpecialTokens

__all__ = ["tokenizer"]

_VOCABULARY = 400  # with the special tokens
_SENTENCES = (
    "Please provide the bounding box coordinate of the region this sentence describes",
    "Where is the red circle on the left? Please describe the provided image.",
    "[[123, 45, 678, 90]] the small green square near the big blue triangle",
)


def tokenizer(special: SpecialTokens) -> Any:
    """Train a byte-level BPE in place on a few English sentences, with the special tokens of the family.

    It writes and reads any text, in more tokens than the family's own tokenizer would. Every call returns a new
    object: processors add tokens to theirs.

    Parameters
    ----------
    special : SpecialTokens

    Returns
    -------
    PreTrainedTokenizerFast
    """
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=_core(special.tokens),
        bos_token=special.bos,
        eos_token=special.eos,
        pad_token=special.pad,
        extra_special_tokens=dict(special.names),
        clean_up_tokenization_spaces=False,
    )


@cache
def _core(special: tuple[str, ...]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_SENTENCES * 10, trainer)
    return core
