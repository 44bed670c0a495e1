"""Rater rows of a running prompt: the rows of the words that the image speaks to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from biaslab.attention.precision import full_precision
from biaslab.attention.query_rows import QueryRows
from biaslab.attention.raters import raters
from biaslab.errors import InputError, UnsupportedError
from biaslab.models.encoded import text_after_image
from biaslab.models.image_runs import check_single

if TYPE_CHECKING:
    from biaslab.attention.rows import PromptPositions
    from biaslab.models.vlm import VLM

__all__ = ["rater_rows", "rating"]


def rater_rows(vlm: VLM, is_image: Tensor, padding: Tensor | None) -> QueryRows:
    """Find the rows that raters are chosen from, of prompts of one image or of frames: all behind the image.

    Parameters
    ----------
    vlm : VLM
        Whose announced prompts say what is one image.
    is_image : (B, N) bool Tensor
    padding : (B, N) Tensor or None

    Returns
    -------
    QueryRows

    Raises
    ------
    UnsupportedError
        A prompt of several images, each of which has raters of its own.
    InputError
        A prompt without text behind its image.
    """
    encoded = vlm.prefill.encoded
    if encoded is None:
        check_single(vlm, is_image)
    elif len(encoded.layouts) > len(encoded) and not encoded.frames:
        raise UnsupportedError(
            "queries='raters' are chosen for each image of a prompt, and rows are of a prompt: give one image in each, "
            "or frames=True"
        )
    rows, mask = text_after_image(is_image, padding)
    if not bool(mask.any(1).all()):
        raise InputError("queries='raters' needs text after the image in every prompt: put the image first")
    return QueryRows(rows, mask)


@torch.no_grad()
@full_precision()
def rating(prompt: PromptPositions, length: int, kwargs: Mapping[str, Any]) -> Tensor:
    """Tell which of the query rows rate, from what the decoder is called with: (B, Q) bool.

    Parameters
    ----------
    prompt : PromptPositions
        Of `rater_rows`.
    length : int
        Tokens of the forward.
    kwargs : mapping
        Of the decoder.

    Raises
    ------
    UnsupportedError
        It is not given the embeddings of the whole prompt by name.
    """
    embeds = kwargs.get("inputs_embeds")
    if embeds is None or embeds.shape[1] != length:
        raise UnsupportedError(
            "queries='raters' needs what the decoder is given of the whole prompt, which it is not given here (under a "
            "name of its own, or pruned before): choose other rows"
        )
    device = embeds.device
    visual, rows = prompt.visual.to(device), prompt.queries.to(device)
    counts = torch.stack([prompt.visual_mask.sum(1), prompt.query_mask.sum(1)]).tolist()
    out = torch.zeros_like(prompt.query_mask)
    for b, (n_visual, n_text) in enumerate(zip(*counts, strict=True)):
        chosen = raters(embeds[b, visual[b, :n_visual]], embeds[b, rows[b, :n_text]])
        out[b, :n_text] = chosen.to(out.device)
    return out
