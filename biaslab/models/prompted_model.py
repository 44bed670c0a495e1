"""`PromptedModel`: a multimodal model that takes prompts of images and words, and runs them."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from biaslab._util.notebook import InNotebooks
from biaslab._util.watermark import is_rehearsal
from biaslab.errors import ModelError
from biaslab.models.encoded import Encoded, positions
from biaslab.models.encoding import check_sent, prepared_prompts, sent, with_features
from biaslab.models.eval_mode import check_eval_mode, put_in_eval_mode
from biaslab.models.lengths import check_length
from biaslab.models.offloading import execution_device
from biaslab.models.prefill import PrefillState
from biaslab.models.transformers_versions import warn_if_untested

if TYPE_CHECKING:
    from biaslab.models.family import Family
    from biaslab.models.recipe import LoadRecipe

__all__ = ["PromptedModel"]


class PromptedModel(InNotebooks):
    """A multimodal model, its processor and its family adapter: what `VLM` reads answers from, with its attributes."""

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        family: Family,
        *,
        name: str,
        revision: str | None = None,
        fingerprint: str | None = None,
    ) -> None:
        token = getattr(model.config, "image_token_id", None)
        if token is None or token != processor.image_token_id:
            raise ModelError(
                f"model and processor disagree on the image token ({token} and {processor.image_token_id}): "
                "use the processor of the same checkpoint"
            )
        warn_if_untested()
        put_in_eval_mode(model)
        self.model: Any = model  # for torch's stubs each of its attributes may be a Tensor
        self.processor, self.family = processor, family
        self.name, self.revision, self.fingerprint = name, revision, fingerprint
        self.image_token_id: int = token
        self.image_options: dict[str, Any] = {}
        self.recipe: LoadRecipe | None = None
        self.prefill = PrefillState()
        family.complete_processor(processor, model.config)

    def __repr__(self) -> str:
        about = f"family={self.family.name!r}, layers={self.n_layers}, device={self.device}"
        return f"{type(self).__name__}({self.name!r}, {about})"

    @property
    def decoder(self) -> nn.Module:
        """The language model."""
        return self.model.get_decoder()

    @property
    def watermark(self) -> dict[str, bool]:
        """Part of all provenance: ``{"rehearsal": True}`` of a model with random weights, nothing of a real one."""
        return {"rehearsal": True} if is_rehearsal(self) else {}

    @property
    def loading(self) -> dict[str, Any]:
        """Part of all provenance, for information: how it was loaded, where that is not the plain way."""
        return {"loading": said} if self.recipe is not None and (said := self.recipe.described()) else {}

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.model.get_decoder().layers)

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        device = self.model.device
        return device if device.type != "meta" else execution_device(self.model) or device

    def set_image_options(self, **options: Any) -> Self:
        """Set `image_options` for every later call.

        Parameters
        ----------
        **options : int
            Preprocessing options of the family, on top of those set before.

        Returns
        -------
        PromptedModel
            The model itself, for ``bl.load(...).set_image_options(max_tiles=6)``.

        Raises
        ------
        InputError
            An option the family does not have, or a value that is no positive integer.

        Examples
        --------
        >>> import biaslab as bl
        >>> vlm = bl.rehearse("internvl3-8b").set_image_options(max_tiles=6)
        >>> vlm.image_options
        {'max_tiles': 6}
        >>> vlm.set_image_options(pixels=100)
        Traceback (most recent call last):
        biaslab.errors.InputError: internvl has no image option 'pixels'; it has: max_tiles, min_tiles
        """
        merged = {**self.image_options, **options}
        self.family.check_options(merged)
        self.image_options = merged
        return self

    # -------------------------------------------------------------------------------------- images in
    def encode(
        self,
        images: Sequence[Any],
        texts: Sequence[str],
        *,
        sample_ids: Sequence[str] | None = None,
        frames: bool = False,
        **options: Any,
    ) -> Encoded:
        """Make prompts for one question per image (or group of images), left padded, on the model's device.

        Parameters
        ----------
        images : sequence of B images
            PIL images, paths, bytes, arrays or samples, or lists of them (several images in a prompt).
        texts : sequence of B str
            What the user says, without template or image token.
        sample_ids : sequence of B str, optional
            Names that the prompts carry through pruning and logs.
        frames : bool
            The images of each prompt are frames of a video, in order, written as the family writes them (InternVL:
            "Frame1: " before the first, one tile each); every entry of ``images`` is then a list.
        **options : int
            Preprocessing options of the family, on top of `image_options`.

        Returns
        -------
        Encoded

        Raises
        ------
        InputError
            No lists, lists of unequal length, a prompt without an image, an option the family does not have, a text
            that is no proper Unicode or holds an image token, or a prompt that takes more positions than the model has.
        UnsupportedError
            Frames, of a family that takes video in another form.

        Examples
        --------
        >>> import biaslab as bl
        >>> from biaslab.scenes import scene
        >>> vlm = bl.load("grounder")
        >>> encoded = vlm.encode([scene("test", 0).image, scene("test", 1).image], ["Where is the cat?", "What is it?"])
        >>> len(encoded), tuple(encoded.visual.shape), encoded.layouts[0]
        (2, (2, 256), TokenLayout(internvl/16x16/tiles1x1, n=256, size=224x224))
        """
        return self.send(self.prepare(images, texts, sample_ids=sample_ids, frames=frames, **options))

    def prepare(
        self,
        images: Sequence[Any],
        texts: Sequence[str],
        *,
        sample_ids: Sequence[str] | None = None,
        frames: bool = False,
        **options: Any,
    ) -> Encoded:
        """Do the part of `encode` that needs no device: open, cut and tokenize; `send` does the rest.

        Where the family allows it, pixels are still the 8-bit values of the images.

        Parameters
        ----------
        images, texts, sample_ids, frames, **options
            As in `encode`.

        Returns
        -------
        Encoded
            In the host's memory, not to be run before it is sent.

        Examples
        --------
        >>> import biaslab as bl
        >>> from biaslab.scenes import scene
        >>> vlm = bl.load("grounder")
        >>> prepared = vlm.prepare([scene("test", 0).image], ["Where is the cat?"])
        >>> prepared.inputs["pixel_values"].dtype, vlm.send(prepared).inputs["pixel_values"].dtype
        (torch.uint8, torch.float32)
        """
        return prepared_prompts(self, images, texts, sample_ids, options, frames)

    def send(self, encoded: Encoded) -> Encoded:
        """Send prepared prompts to the model's device, rescale and normalise their pixels there.

        The pixel values are those of the processor, bit by bit, on every device.

        Parameters
        ----------
        encoded : Encoded
            From `prepare`.

        Returns
        -------
        Encoded
        """
        return sent(encoded, self.device)

    def encode_grounding(
        self,
        images: Sequence[Any],
        expressions: Sequence[str],
        *,
        sample_ids: Sequence[str] | None = None,
        **options,
    ) -> Encoded:
        """Make prompts as `encode` does, with the family's grounding prompt for each expression.

        Parameters
        ----------
        images, sample_ids, **options
            As in `encode`.
        expressions : sequence of B str

        Returns
        -------
        Encoded
        """
        return self.encode(
            images, [self.family.grounding_prompt(e) for e in expressions], sample_ids=sample_ids, **options
        )

    def vision(self, encoded: Encoded, *, pictures: Sequence[Hashable] | None = None) -> Encoded:
        """Compute the image features, so that further calls with the result skip the vision tower.

        Parameters
        ----------
        encoded : Encoded
        pictures : sequence, optional
            A name of each image. Images of one name whose pixels are equal as well run through the tower
            once.

        Returns
        -------
        Encoded
            The same prompts, with features in the place of pixels.
        """
        return with_features(self, encoded, pictures)

    def visual_tokens(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the visual tokens of a forward.

        Parameters
        ----------
        ids : LongTensor (B, N)
            Token ids of the forward.

        Returns
        -------
        positions, mask : LongTensor, BoolTensor (B, V)
            Those of the announced prompts, or, in a forward that nobody announced, every image token.
        """
        encoded = self.prefill.encoded
        announced = None if encoded is None else encoded.find(ids)
        return positions(ids == self.image_token_id) if announced is None else announced

    @contextmanager
    def running(self, encoded: Encoded) -> Iterator[dict[str, Any]]:
        """Announce ``encoded`` to `prefill` and yield its inputs, safe to hand to the model.

        Raises
        ------
        InputError
            A model of which a part is in train mode, a prompt that takes more positions than it has, or prompts that
            have not been sent to its device.
        """
        check_sent(encoded)
        check_eval_mode(self.model)
        check_length(encoded, self.model.config)
        inputs = dict(encoded.inputs)
        if "mm_encoder_outputs" in inputs:  # generate() writes into this dict
            inputs["mm_encoder_outputs"] = {k: copy.copy(v) for k, v in inputs["mm_encoder_outputs"].items()}
        with self.prefill.announce(encoded):
            yield inputs

    def forward(self, encoded: Encoded, **kw: Any) -> Any:
        """Run one plain forward pass (prefill) without gradients.

        Parameters
        ----------
        encoded : Encoded
        **kw
            Passed to the model.

        Returns
        -------
        ModelOutput
        """
        with self.running(encoded) as inputs, torch.no_grad():
            return self.model(**inputs, **kw)
