"""Kept tokens that take up dropped ones: their states at the cut are weighted sums of the states there."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from biaslab.errors import InputError
from biaslab.pruning.base import Selection
from biaslab.pruning.engine.prompt import Prompt

__all__ = ["merged"]


def merged(hidden: Tensor, prompt: Prompt, chosen: Sequence[Sequence[Selection]]) -> Tensor:
    """Merge the states that enter a layer, h[kept] <- merge @ h, image by image, in float32.

    Parameters
    ----------
    hidden : (B, N, D) Tensor
        Is not written to.
    prompt : Prompt
        As this layer sees it.
    chosen : sequence of sequence of Selection
        Of the images of each row that is no copy.

    Returns
    -------
    (B, N, D) Tensor
        ``hidden`` itself where nothing is merged.

    Raises
    ------
    InputError
        A matrix of another shape than the choice.
    """
    if all(selection.merge is None for row in chosen for selection in row):
        return hidden
    out, visual = hidden.clone(), prompt.visual.to(hidden.device)
    for first, row in zip(range(0, len(prompt), prompt.repeats), chosen, strict=True):
        for image, selection in zip(prompt.images[first], row, strict=True):
            if selection.merge is None:
                continue
            kept = selection.indices.to(hidden.device)
            if selection.merge.shape != (len(kept), image.n):
                shape = tuple(selection.merge.shape)
                raise InputError(f"merge of shape {shape} does not fit {len(kept)} of {image.n} visual tokens")
            weights = selection.merge.to(hidden.device).float()
            for copy in range(first, first + prompt.repeats):
                own = visual[copy, image.first : image.last]
                out[copy, own[kept]] = (weights @ hidden[copy, own].float()).to(hidden.dtype)
    return out
