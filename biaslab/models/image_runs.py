"""How the image tokens of a running prompt are shared out among its images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from biaslab.errors import UnsupportedError

if TYPE_CHECKING:
    from biaslab.models.prompted_model import PromptedModel

__all__ = ["FIX", "check_single"]

#: what to do where a forward does not say what its images are
FIX = "encode with vlm.encode(...) and run vlm.generate(encoded) or vlm.forward(encoded)"


def check_single(vlm: PromptedModel, is_image: Tensor) -> list[int]:
    """Refuse prompts that nobody announced whose image tokens may be several images, or more than visual tokens.

    Parameters
    ----------
    vlm : PromptedModel
    is_image : (B, N) bool Tensor

    Returns
    -------
    list of B int
        Image tokens of each prompt.

    Raises
    ------
    UnsupportedError

    Examples
    --------
    >>> import biaslab as bl
    >>> vlm = bl.load("grounder")
    >>> check_single(vlm, torch.tensor([[False] + [True] * 256 + [False]]))
    [256]
    """
    before = torch.nn.functional.pad(is_image, (1, 0))[:, :-1]
    runs, counts = torch.stack([(is_image & ~before).sum(1), is_image.sum(1)]).tolist()
    for n_runs, n in zip(runs, counts, strict=True):
        if n and (n_runs > 1 or not vlm.family.is_one_image(vlm.model.config, n)):
            raise UnsupportedError(
                f"the {n} image tokens of a prompt may be several images or hold tokens that show no place, and this "
                f"forward does not say: {FIX}"
            )
    return list(counts)
