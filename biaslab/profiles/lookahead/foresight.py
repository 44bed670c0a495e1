"""What a conditional profile foresees of one image, and what its teacher makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from biaslab.core.layout import TokenLayout
from biaslab.maps.batch_maps import batch_maps

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM
    from biaslab.profiles.estimators.lookahead import LookaheadProfile

__all__ = ["Foresight", "foresee"]


class Foresight(NamedTuple):
    """What a conditional profile foresees of one image and question, and what came.

    Attributes
    ----------
    layout : TokenLayout
        Of the image.
    relevance : (N,) float32 array
        The student's.
    attention : (N,) float32 array
        The teacher's: attention of its heads to this image, weighted, each in standard deviations over the image,
        without what its place draws.
    """

    layout: TokenLayout
    relevance: np.ndarray
    attention: np.ndarray


class _OneImage:
    """Attention to one image, read as maps are."""

    def __init__(self, layout: TokenLayout, attention: Mapping[int, np.ndarray]) -> None:
        self.layout, self._attention = layout, attention

    def record(self, index: int) -> _OneImage:
        return self

    def image(self, index: int, layer: int) -> np.ndarray:
        return self._attention[layer]


def foresee(profile: LookaheadProfile, vlm: VLM, image: Any, prompt: str) -> Foresight:
    """Ask the student about one image, and let the model run to see what its teacher makes of it.

    Parameters
    ----------
    profile : LookaheadProfile
        Fitted for this model.
    vlm : VLM
    image : PIL image or path
    prompt : str
        As the model is asked, for an expression ``vlm.family.grounding_prompt(expression)``.

    Returns
    -------
    Foresight

    Raises
    ------
    ProfileMismatchError
        A profile of another model.
    """
    profile.check(model=vlm.name, revision=vlm.revision, fingerprint=vlm.fingerprint, family=vlm.family.name)
    encoded = vlm.encode([image], [prompt])
    about, teacher = profile.provenance_, profile.teacher
    found = batch_maps(
        vlm, encoded, teacher.layers, queries=about["queries"], score=about["score"], door=profile.layers_[0]
    )
    assert found.inputs is not None
    ((visual, text),) = found.inputs.per_image(vlm, encoded)
    ((layout, attention),) = found.images
    maps: Any = _OneImage(layout, dict(zip(teacher.layers, attention.float().cpu().numpy(), strict=True)))
    relevance = profile.relevance(torch.from_numpy(visual), torch.from_numpy(text), layout)
    return Foresight(layout, relevance.numpy(), teacher.target(maps, 0))
