"""A model of the real class with random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from biaslab.models.offline.stand_in_tokenizer import tokenizer as standin_tokenizer
from biaslab.models.offline_spec import ModelSpec

if TYPE_CHECKING:
    from biaslab.models.family import Family


def build(
    family: Family, spec: ModelSpec, *, seed: int = 0, attn_implementation: str = "sdpa", dtype: Any = None
) -> tuple[Any, Any]:
    """Make a model of the real class with random weights, in evaluation mode, and its processor.

    Parameters
    ----------
    family : Family
    spec : ModelSpec
        One of ``family.specs`` or a change of it; full sizes need the memory of the full model.
    seed : int
        Of the weights; torch's global generator is left as it was.
    attn_implementation : str
    dtype : torch.dtype, optional
        Default float32.

    Returns
    -------
    model : PreTrainedModel
    processor : ProcessorMixin
    """
    import torch
    from transformers import AutoModelForImageTextToText

    tokenizer = standin_tokenizer(family.special_tokens)
    config, processor = family.config(spec, tokenizer), family.make_processor(spec, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(
            config, attn_implementation=attn_implementation, dtype=dtype or torch.float32
        )
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval().requires_grad_(False), processor
