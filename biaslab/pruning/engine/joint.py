"""One choice among the tokens of all images of a prompt, told image by image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch

from biaslab.core.frames import FramesLayout
from biaslab.core.layout import TokenLayout
from biaslab.pruning.base import Selection

__all__ = ["by_image"]


def by_image(layouts: Sequence[TokenLayout | None], chosen: Sequence[Selection]) -> list[Selection]:
    """Split the choices that were made for several images together.

    How many tokens each image keeps is not known beforehand: one transfer tells it, for all prompts at once, where
    there is such a choice at all.

    Parameters
    ----------
    layouts : sequence of TokenLayout or None
        Of each choice.
    chosen : sequence of Selection
        Positions among all tokens of a layout.

    Returns
    -------
    list of Selection
        One per image. What a method reports of a choice is reported of each of its images; weights of a merge stay over
        the tokens of all of them.

    Examples
    --------
    >>> from biaslab.core.frames import frames_layout
    >>> image = TokenLayout.raster(2, 2, size=(64, 64), family="toy")
    >>> together = Selection(torch.tensor([1, 4, 7]), torch.arange(8.0))
    >>> [(own.indices.tolist(), own.scores.tolist()) for own in by_image([frames_layout([image] * 2)], [together])]
    [([1], [0.0, 1.0, 2.0, 3.0]), ([0, 3], [4.0, 5.0, 6.0, 7.0])]
    """
    ends = [list(accumulate(p.n for p in x.parts)) if isinstance(x, FramesLayout) else [] for x in layouts]
    counted = [
        torch.searchsorted(own.indices, torch.tensor(at, device=own.indices.device))
        for own, at in zip(chosen, ends, strict=True)
        if at
    ]
    told = iter(torch.cat(counted).tolist() if counted else [])
    out: list[Selection] = []
    for own, at in zip(chosen, ends, strict=True):
        if not at:
            out.append(own)
            continue
        first = token = 0
        for end in at:
            last = next(told)
            scores = None if own.scores is None else own.scores[token:end]
            merge = None if own.merge is None else own.merge[first:last]
            out.append(Selection(own.indices[first:last] - token, scores, own.info, merge))
            first, token = last, end
    return out
