"""From pictures and words to prompts, and from pixels to features: the work behind `VLM.encode` and `VLM.vision`."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from biaslab.core.images import load_image
from biaslab.errors import InputError
from biaslab.models.encoded import Encoded
from biaslab.models.eval_mode import check_eval_mode
from biaslab.models.lengths import check_length
from biaslab.models.repeated_pictures import distinct_pictures

if TYPE_CHECKING:
    from biaslab.models.prompted_model import PromptedModel

__all__ = ["encoded_prompts", "with_features"]

_OF_THE_TOWER = ("last_hidden_state", "hidden_states", "attentions")


def encoded_prompts(
    vlm: PromptedModel,
    images: Sequence[Any],
    texts: Sequence[str],
    sample_ids: Sequence[str] | None,
    options: dict[str, Any],
) -> Encoded:
    """Make prompts of lists of images (or of groups of them) and texts; see `VLM.encode`."""
    if isinstance(texts, str) or isinstance(images, str) or not isinstance(images, Sequence):
        raise InputError("encode takes a list of images and a list of texts; use ask() for a single one")
    if len(images) != len(texts) or not images:
        raise InputError(f"{len(images)} images for {len(texts)} texts: give one text per image, and at least one")
    groups = [list(image) if isinstance(image, (list, tuple)) else [image] for image in images]
    if not all(groups):
        raise InputError("a prompt without an image: give at least one for every text")
    loaded = [[load_image(image) for image in group] for group in groups]
    options = {**vlm.image_options, **options}
    inputs, layouts, resized = vlm.family.encode(vlm.processor, loaded, list(texts), options)
    inputs = {k: v.to(vlm.device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    ids = None if sample_ids is None else list(sample_ids)
    owners = [b for b, group in enumerate(groups) for _ in group]
    image = vlm.image_token_id
    encoded = Encoded.from_inputs(inputs, layouts, resized, image_token_id=image, sample_ids=ids, owners=owners)
    check_length(encoded, vlm.model.config)
    return encoded


def with_features(vlm: PromptedModel, encoded: Encoded, pictures: Sequence[Hashable] | None = None) -> Encoded:
    """Put image features in the place of pixels; see `VLM.vision`."""
    if "pixel_values" not in encoded.inputs:
        return encoded
    check_eval_mode(vlm.model)
    names = [n for n in inspect.signature(type(vlm.model).get_image_features).parameters if n in encoded.inputs]
    given = {n: encoded.inputs[n] for n in names}
    once = None if pictures is None else distinct_pictures(encoded, given, pictures)
    with torch.no_grad():
        out = vlm.model.get_image_features(**(given if once is None else once.inputs), return_dict=True)
    # the vision tower's own states are large and not used again; an output holds them under two names
    features = {name: value for name, value in out.items() if name not in _OF_THE_TOWER}
    out = type(out)(**(features if once is None else once.repeated(features)))
    rest = {k: v for k, v in encoded.inputs.items() if k not in ("pixel_values", "pixel_attention_mask")}
    rest["mm_encoder_outputs"] = {"image": out}
    return replace(encoded, inputs=rest, pictures=None if once is None else once.which)
