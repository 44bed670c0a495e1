"""Attention maps of one batch of prompts: from a prefill, or from the answer that the model gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from biaslab.attention.capture import capture
from biaslab.attention.means import capture_means
from biaslab.attention.rows import CapturedRows, PromptPositions
from biaslab.maps.answer_rows import ANSWER_TOKENS, answer_maps, is_answer
from biaslab.maps.decoder_inputs import DecoderInputs, decoder_inputs
from biaslab.models.encoded import Encoded

if TYPE_CHECKING:
    from biaslab.core.layout import TokenLayout
    from biaslab.models.vlm import VLM

__all__ = ["BatchMaps", "batch_maps"]


class BatchMaps(NamedTuple):
    """What `batch_maps` finds.

    Attributes
    ----------
    prompt : PromptPositions
        Where the prompts have their images and query rows; of an answer the last row of the prompt.
    images : list of (TokenLayout, (L, H, N) float32 Tensor)
        One map per image.
    inputs : DecoderInputs or None
        What entered the layer that was asked for.
    """

    prompt: PromptPositions
    images: list[tuple[TokenLayout, Tensor]]
    inputs: DecoderInputs | None


def batch_maps(
    vlm: VLM,
    encoded: Encoded,
    layers: Sequence[int],
    *,
    queries: str | Tensor = "last",
    heads: str = "all",
    score: str | Callable = "attention",
    door: int | None = None,
    device: torch.device | str | Callable[[torch.device], torch.device | str] | None = None,
) -> BatchMaps:
    """Run a batch of prompts and map the attention to their images.

    Parameters
    ----------
    vlm : VLM
    encoded : Encoded
    layers : sequence of int
        Decoder layers, ascending. Without an answer no later one is run.
    queries, heads, score
        As of :func:`biaslab.maps.collect.collect`.
    door : int, optional
        Decoder layer whose inputs are kept as well.
    device : torch.device, str or callable, optional
        Where the maps go; a callable is told where they are. By default they stay on the device of the first layer.

    Returns
    -------
    BatchMaps

    Examples
    --------
    >>> import biaslab as bl
    >>> vlm = bl.load("grounder")
    >>> (sample,) = bl.load_dataset("scenes", split="test", n=1)
    >>> encoded = vlm.encode_grounding([sample.image()], [sample.expression])
    >>> ((layout, prefill),) = batch_maps(vlm, encoded, [3, 9]).images
    >>> ((_, answer),) = batch_maps(vlm, encoded, [3, 9], queries="answer").images
    >>> layout.grid, prefill.shape, answer.shape
    ((16, 16), torch.Size([2, 4, 256]), torch.Size([2, 4, 256]))
    """
    answered = is_answer(queries)
    with ExitStack() as stack:
        if answered:
            rows = stack.enter_context(capture(vlm, layers, queries="generated", heads=heads, score=score))
        else:
            rows = stack.enter_context(capture_means(vlm, layers, queries=queries, heads=heads, score=score))
        inputs = None if door is None else stack.enter_context(decoder_inputs(vlm, door))
        if answered:
            vlm.generate(encoded, max_new_tokens=ANSWER_TOKENS)
        else:
            _prefill(vlm, encoded, max(layers[-1], door or 0))
    place = device(_device(rows)) if callable(device) else device
    images = answer_maps(rows, encoded, place) if answered else rows.per_image(encoded, device=place)
    return BatchMaps(rows.prompt, images, inputs)


class _Done(Exception):
    """Raised inside the model once the last layer asked for has run: the rest of the forward is of no use."""


def _prefill(vlm: VLM, encoded: Encoded, last: int) -> None:
    """Run a forward that ends behind layer ``last``."""

    def stop(*_: Any) -> None:
        raise _Done

    decoder: Any = vlm.decoder
    handle = decoder.layers[last].register_forward_hook(stop)
    try:
        with suppress(_Done):
            vlm.forward(encoded, use_cache=False)
    finally:
        handle.remove()


def _device(rows: CapturedRows) -> torch.device:
    return rows[rows.layers[0]].values.device
