"""Bytes of weights and of the KV cache, from the configuration alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from biaslab.cost.decoder import check_decoder, head_dim, held_lengths, layer_lengths, windows
from biaslab.errors import InputError, UnsupportedError

__all__ = ["Parameters", "bytes_of", "kv_bytes", "kv_entries", "parameters"]


@dataclass(frozen=True)
class Parameters:
    """Number of parameters, tied ones counted once.

    Attributes
    ----------
    vision : int
        Vision tower, projector and everything else outside the decoder.
    decoder : int
        Language model with its embeddings and output head.

    Examples
    --------
    >>> from biaslab.cost import Parameters
    >>> weights = Parameters(vision=300, decoder=700)
    >>> weights.total, weights.bytes("bfloat16")
    (1000, 2000)
    """

    vision: int
    decoder: int

    @property
    def total(self) -> int:
        """Sum of both."""
        return self.vision + self.decoder

    def bytes(self, dtype: Any) -> int:
        """Return the memory of the weights in one dtype, without quantisation.

        Parameters
        ----------
        dtype : torch.dtype or str
        """
        return self.total * bytes_of(dtype)


def parameters(model_config: Any) -> Parameters:
    """Count the parameters of the model that a configuration describes.

    The count is exact, because the model is built on torch's meta device, without memory.

    Parameters
    ----------
    model_config : PretrainedConfig
        The model's configuration.

    Returns
    -------
    counts : Parameters
        Of the vision side and of the decoder.

    Raises
    ------
    UnsupportedError
        A configuration that transformers has no image-text model for.

    Examples
    --------
    >>> from biaslab.cost import parameters
    >>> from biaslab.models.offline.geometry import geometry
    >>> parameters(geometry("grounder").config)
    Parameters(vision=882432, decoder=4788672)
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
    keep_n: int | Sequence[int] | None = None,
    layer: int | Sequence[int] = 0,
    new_tokens: int = 0,
    cache: str = "full",
) -> list[int]:
    """Count the tokens in every layer's KV cache once an answer of ``new_tokens`` is complete.

    The last token of an answer is never fed back, so 0 and 1 leave the same; a layer with a sliding window keeps
    one entry less than its window.

    Parameters
    ----------
    text_config : PretrainedConfig
        ``config.text_config`` of the model.
    n_visual, n_text, keep_n, layer, new_tokens, cache
        As in :func:`biaslab.cost.image_flops`.

    Returns
    -------
    list of int
        Entries of each decoder layer.

    Raises
    ------
    InputError
        Counts that cannot be.
    UnsupportedError
        A decoder whose cost is not known here.

    Examples
    --------
    >>> from biaslab.cost import kv_entries
    >>> from biaslab.models.offline.geometry import geometry
    >>> kv_entries(geometry("llava-1.5-7b").config.text_config, 576, 64, keep_n=64, layer=2, new_tokens=11)[:4]
    [650, 650, 138, 138]
    >>> kv_entries(
    ...     geometry("llava-1.5-7b").config.text_config, 576, 64, keep_n=64, layer=2, new_tokens=11, cache="trimmed"
    ... )[:4]
    [138, 138, 138, 138]
    """
    c = check_decoder(text_config)
    lengths = layer_lengths(c.num_hidden_layers, n_visual, n_text, keep_n=keep_n, layer=layer)
    held, fed = held_lengths(lengths, cache), max(0, new_tokens - 1)
    return [n + fed if w is None else min(n + fed, w - 1) for n, w in zip(held, windows(c), strict=True)]


def kv_bytes(
    text_config: Any,
    n_visual: int,
    n_text: int,
    *,
    keep_n: int | Sequence[int] | None = None,
    layer: int | Sequence[int] = 0,
    new_tokens: int = 0,
    dtype: Any = "bfloat16",
    cache: str = "full",
) -> int:
    """Compute the size of the KV cache of one prompt; see :func:`kv_entries`.

    Parameters
    ----------
    text_config : PretrainedConfig
        ``config.text_config`` of the model.
    n_visual, n_text, keep_n, layer, new_tokens, cache
        As in :func:`biaslab.cost.image_flops`.
    dtype : torch.dtype or str
        Of the cache.

    Returns
    -------
    int
        Bytes of keys and values of all layers.

    Raises
    ------
    InputError
        Counts that cannot be, or no dtype of torch.
    UnsupportedError
        A decoder whose cost is not known here.

    Examples
    --------
    >>> from biaslab.cost import kv_bytes
    >>> from biaslab.models.offline.geometry import geometry
    >>> text = geometry("llava-1.5-7b").config.text_config
    >>> [kv_bytes(text, 576, 64, keep_n=keep_n, layer=2) // 2**20 for keep_n in (None, 64)]
    [320, 80]
    """
    given: Any = {"keep_n": keep_n, "layer": layer, "new_tokens": new_tokens, "cache": cache}
    entries = kv_entries(text_config, n_visual, n_text, **given)
    return 2 * sum(entries) * text_config.num_key_value_heads * head_dim(text_config) * bytes_of(dtype)


def bytes_of(dtype: Any) -> int:
    """Return the bytes of one number.

    Raises
    ------
    InputError
        No dtype of torch.
    """
    import torch

    dtype_ = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(dtype_, torch.dtype) or not dtype_.is_floating_point:
        raise InputError(f"unknown dtype {dtype!r}: use 'float32', 'bfloat16' or 'float16'")
    return dtype_.itemsize
