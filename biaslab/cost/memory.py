"""Bytes of weights and of the KV cache, from the configuration alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from biaslab.cost.decoder import check_decoder, head_dim, layer_lengths, windows
from biaslab.errors import InputError, UnsupportedError

__all__ = ["Parameters", "bytes_of", "kv_bytes", "kv_entries", "parameters"]


@dataclass(frozen=True)
class Parameters:
    """Number of parameters, tied ones counted once.

    Attributes
    ----------
    vision : vision tower, projector and everything else outside the decoder.
    decoder : language model with its embeddings and output head.
    """

    vision: int
    decoder: int

    @property
    def total(self) -> int:
        return self.vision + self.decoder

    def bytes(self, dtype: Any) -> int:
        """Memory of the weights in one dtype (a torch dtype or its name), without quantisation."""
        return self.total * bytes_of(dtype)


def parameters(model_config: Any) -> Parameters:
    """Parameters of the model that a configuration describes; exact, because the model is built without memory.

    Raises
    ------
    UnsupportedError
        A configuration that transformers has no image-text model for.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    try:
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(model_config)
    except ValueError as err:
        first = str(err).strip().splitlines()[0]
        raise UnsupportedError(f"transformers cannot build this configuration: {first}") from None
    total = {id(p): p.numel() for p in model.parameters()}
    head = model.get_output_embeddings()
    text = [*model.get_decoder().parameters(), *([] if head is None else head.parameters())]
    decoder = sum({id(p): p.numel() for p in text}.values())
    return Parameters(sum(total.values()) - decoder, decoder)


def kv_entries(
    text_config: Any,
    n_visual: int,
    n_text: int,
    *,
    keep_n: int | None = None,
    layer: int = 0,
    new_tokens: int = 0,
) -> list[int]:
    """Tokens in every layer's KV cache once an answer of ``new_tokens`` is complete.

    The last token of an answer is never fed back, so 0 and 1 leave the same; a layer with a sliding window keeps
    one entry less than its window. Arguments as in :func:`biaslab.cost.image_flops`.
    """
    c = check_decoder(text_config)
    lengths = layer_lengths(c.num_hidden_layers, n_visual, n_text, keep_n=keep_n, layer=layer)
    fed = max(0, new_tokens - 1)
    return [n + fed if w is None else min(n + fed, w - 1) for n, w in zip(lengths, windows(c), strict=True)]


def kv_bytes(
    text_config: Any,
    n_visual: int,
    n_text: int,
    *,
    keep_n: int | None = None,
    layer: int = 0,
    new_tokens: int = 0,
    dtype: Any = "bfloat16",
) -> int:
    """Bytes of the KV cache of one prompt; see :func:`kv_entries`."""
    entries = kv_entries(text_config, n_visual, n_text, keep_n=keep_n, layer=layer, new_tokens=new_tokens)
    return 2 * sum(entries) * text_config.num_key_value_heads * head_dim(text_config) * bytes_of(dtype)


def bytes_of(dtype: Any) -> int:
    """Bytes of one number.

    Raises
    ------
    InputError
        No dtype of torch.
    """
    import torch

    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(f"unknown dtype {dtype!r}: use 'float32', 'bfloat16' or 'float16'")
    return found.itemsize
