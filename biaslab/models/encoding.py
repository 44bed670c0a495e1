"""From images and words to prompts, and from pixels to features: the work behind `VLM.encode` and `VLM.vision`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch

from biaslab.core.images import load_image
from biaslab.errors import InputError, UnsupportedError
from biaslab.models.encoded import Encoded
from biaslab.models.eval_mode import check_eval_mode
from biaslab.models.lengths import check_length
from biaslab.models.pixel_values import RawPixels, table_of
from biaslab.models.repeated_pictures import distinct_pictures
from biaslab.models.shared_cutting import PIXEL_ROWS

if TYPE_CHECKING:
    from biaslab.models.family import Family
    from biaslab.models.prompted_model import PromptedModel

__all__ = ["check_frames", "check_sent", "prepared_prompts", "sent", "with_features"]

_MASK = "pixel_attention_mask"  # of zeros and ones in 64 bits: larger than the pixels, so that it is sent as bool
_OF_THE_TOWER = ("last_hidden_state", "hidden_states", "attentions")


def prepared_prompts(
    vlm: PromptedModel,
    images: Sequence[Any],
    texts: Sequence[str],
    sample_ids: Sequence[str] | None,
    options: dict[str, Any],
    frames: bool = False,
) -> Encoded:
    """Make prompts of lists of images (or of groups of them) and texts, on the host; see `VLM.prepare`."""
    if isinstance(texts, str) or isinstance(images, str) or not isinstance(images, Sequence):
        raise InputError("encode takes a list of images and a list of texts; use ask() for a single one")
    if len(images) != len(texts) or not images:
        raise InputError(f"{len(images)} images for {len(texts)} texts: give one text per image, and at least one")
    groups = [list(image) if isinstance(image, (list, tuple)) else [image] for image in images]
    if not all(groups):
        raise InputError("a prompt without an image: give at least one for every text")
    family, processor = vlm.family, vlm.processor
    if frames:
        check_frames(family, images)
        options = {**family.frame_options, **options}
    loaded = [[load_image(image) for image in group] for group in groups]
    options = {**vlm.image_options, **options}
    as_bytes = {"raw": True} if family.gives_bytes(processor) else {}
    as_frames = {"frames": True} if frames else {}
    inputs, layouts, resized = family.encode(processor, loaded, list(texts), options, **as_bytes, **as_frames)
    ids = None if sample_ids is None else list(sample_ids)
    owners = [b for b, group in enumerate(groups) for _ in group]
    image = vlm.image_token_id
    encoded = Encoded.from_inputs(inputs, layouts, resized, image_token_id=image, sample_ids=ids, owners=owners)
    check_length(encoded, vlm.model.config)
    raw = None
    if as_bytes and family.pixel_form is not None:
        rows, filling = inputs.pop(PIXEL_ROWS, None), family.filling(processor, inputs)
        raw = RawPixels(table_of(processor.image_processor), family.pixel_form, filling, rows)
        if _MASK in inputs:
            inputs[_MASK] = inputs[_MASK].bool()
    if vlm.device.type == "cuda":  # from such memory the copies to the device wait for nobody
        inputs = _each_tensor(inputs, torch.Tensor.pin_memory)
    references = [ref(picture) for group in loaded for picture in group]
    return replace(encoded, inputs=inputs, raw=raw, frames=frames, references=references)


def check_frames(family: Family, images: Iterable[Any] = ()) -> None:
    """Refuse frames of a video where the family does not take them as images, or what is no list of frames.

    Raises
    ------
    UnsupportedError, InputError
    """
    if family.frames_refused:
        raise UnsupportedError(
            f"frames=True is not for {family.name} models ({family.frames_refused}): leave it out to show the frames "
            "as other images of one prompt"
        )
    if not all(isinstance(group, (list, tuple)) for group in images):
        raise InputError("frames=True takes a list of frames for every prompt: pass [[first, second, ...]]")


def sent(encoded: Encoded, device: torch.device) -> Encoded:
    """Send prompts to a device and make pixel values of 8-bit pixels there; see `VLM.send`."""
    apart = device.type == "cuda"  # the copies run on while the host works

    def to(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device, non_blocking=apart)

    inputs, raw = _each_tensor(encoded.inputs, to), encoded.raw
    if raw is not None:
        inputs["pixel_values"] = raw.to(device, non_blocking=apart).normalised(inputs["pixel_values"])
        if _MASK in inputs:
            inputs[_MASK] = inputs[_MASK].long()
    visual, mask = to(encoded.visual), to(encoded.visual_mask)
    return replace(encoded, inputs=inputs, visual=visual, visual_mask=mask, raw=None)


def _each_tensor(inputs: Mapping[str, Any], change: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
    return {name: change(value) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


def check_sent(encoded: Encoded) -> None:
    """Refuse prompts whose pixels are no pixel values yet."""
    if encoded.raw is not None:
        raise InputError("these prompts are prepared and not sent: pass vlm.send(encoded)")


def with_features(vlm: PromptedModel, encoded: Encoded, pictures: Sequence[Hashable] | None = None) -> Encoded:
    """Put image features in the place of pixels; see `VLM.vision`."""
    if "pixel_values" not in encoded.inputs:
        return encoded
    check_sent(encoded)
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
