"""`VLM`: one face for every multimodal model, from images and words to answers and boxes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from biaslab._util.watermark import is_rehearsal
from biaslab.core.boxes import Box
from biaslab.core.images import load_image
from biaslab.errors import InputError, ModelError
from biaslab.models.answering import generation_options
from biaslab.models.encoded import Encoded, positions
from biaslab.models.eval_mode import check_eval_mode, put_in_eval_mode
from biaslab.models.grounding import MAX_NEW_TOKENS, Grounding
from biaslab.models.lengths import check_length
from biaslab.models.offloading import execution_device
from biaslab.models.pairing import paired
from biaslab.models.prefill import PrefillState
from biaslab.models.transformers_versions import warn_if_untested

if TYPE_CHECKING:
    from biaslab.models.family import Family

__all__ = ["VLM"]


class VLM:
    """A multimodal model, its processor and its family adapter. Made by `load` or `wrap`.

    Attributes
    ----------
    model, processor : transformers objects, unmodified
    family : Family
    name, revision, fingerprint : str
        Provenance: what it is called, and what its weights are known by (None where that is not known).
    image_options : dict
        Preprocessing options used by every call (InternVL: ``max_tiles``; Qwen: ``max_pixels`` ...).
    prefill : PrefillState
        The prompts that are running, and what a pruning engine has cut out of them.

    Examples
    --------
    >>> import biaslab as bl
    >>> vlm = bl.load("grounder", device="cpu")
    >>> vlm
    VLM('grounder', family='internvl', layers=10, device=cpu)
    """

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
        self.prefill = PrefillState()
        family.complete_processor(processor, model.config)

    def __repr__(self) -> str:
        return f"VLM({self.name!r}, family={self.family.name!r}, layers={self.n_layers}, device={self.device})"

    @property
    def decoder(self) -> nn.Module:
        """The language model."""
        return self.model.get_decoder()

    @property
    def watermark(self) -> dict[str, bool]:
        """Part of all provenance: ``{"rehearsal": True}`` of a model with random weights, nothing of a real one."""
        return {"rehearsal": True} if is_rehearsal(self) else {}

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.model.get_decoder().layers)

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        device = self.model.device
        return device if device.type != "meta" else execution_device(self.model) or device

    def set_image_options(self, **options: Any) -> VLM:
        """Set `image_options` for every later call.

        Parameters
        ----------
        **options : int
            Preprocessing options of the family, on top of those set before.

        Returns
        -------
        VLM
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
        **options : int
            Preprocessing options of the family, on top of `image_options`.

        Returns
        -------
        Encoded

        Raises
        ------
        InputError
            No lists, lists of unequal length, a prompt without an image, an option the family does not have, or a
            prompt that takes more positions than the model has.

        Examples
        --------
        >>> import biaslab as bl
        >>> from biaslab.scenes import scene
        >>> vlm = bl.load("grounder")
        >>> encoded = vlm.encode([scene("test", 0).image, scene("test", 1).image], ["Where is the cat?", "What is it?"])
        >>> len(encoded), tuple(encoded.visual.shape), encoded.layouts[0]
        (2, (2, 256), TokenLayout(internvl/16x16/tiles1x1, n=256, size=224x224))
        """
        if isinstance(texts, str) or isinstance(images, str) or not isinstance(images, Sequence):
            raise InputError("encode takes a list of images and a list of texts; use ask() for a single one")
        if len(images) != len(texts) or not images:
            raise InputError(f"{len(images)} images for {len(texts)} texts: give one text per image, and at least one")
        groups = [list(image) if isinstance(image, (list, tuple)) else [image] for image in images]
        if not all(groups):
            raise InputError("a prompt without an image: give at least one for every text")
        loaded = [[load_image(image) for image in group] for group in groups]
        options = {**self.image_options, **options}
        inputs, layouts, resized = self.family.encode(self.processor, loaded, list(texts), options)
        inputs = {k: v.to(self.device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
        ids = None if sample_ids is None else list(sample_ids)
        owners = [b for b, group in enumerate(groups) for _ in group]
        image = self.image_token_id
        encoded = Encoded.from_inputs(inputs, layouts, resized, image_token_id=image, sample_ids=ids, owners=owners)
        check_length(encoded, self.model.config)
        return encoded

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

    def vision(self, encoded: Encoded) -> Encoded:
        """Compute the image features, so that further calls with the result skip the vision tower.

        Parameters
        ----------
        encoded : Encoded

        Returns
        -------
        Encoded
            The same prompts, with features in the place of pixels.
        """
        if "pixel_values" not in encoded.inputs:
            return encoded
        check_eval_mode(self.model)
        names = [n for n in inspect.signature(type(self.model).get_image_features).parameters if n in encoded.inputs]
        with torch.no_grad():
            out = self.model.get_image_features(**{n: encoded.inputs[n] for n in names}, return_dict=True)
        for name in ("last_hidden_state", "hidden_states", "attentions"):  # of the vision tower: large, not used again
            if getattr(out, name, None) is not None:
                setattr(out, name, None)
        rest = {k: v for k, v in encoded.inputs.items() if k not in ("pixel_values", "pixel_attention_mask")}
        rest["mm_encoder_outputs"] = {"image": out}
        return encoded.with_inputs(rest)

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

    # -------------------------------------------------------------------------------------- answers out
    @contextmanager
    def running(self, encoded: Encoded) -> Iterator[dict[str, Any]]:
        """Announce ``encoded`` to `prefill` and yield its inputs, safe to hand to the model.

        Raises
        ------
        InputError
            A model of which a part is in train mode, or a prompt that takes more positions than it has.
        """
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

    def generate(self, encoded: Encoded, *, max_new_tokens: int = MAX_NEW_TOKENS, **gen_kw: Any) -> list[str]:
        """Answer the prompts of a batch, greedily unless ``do_sample`` or ``num_beams`` is given, with a KV cache.

        Everything else (such as a repetition penalty) stays as the checkpoint's generation config has it.

        Parameters
        ----------
        encoded : Encoded
            B prompts.
        max_new_tokens : int
        **gen_kw
            Passed to ``model.generate``.

        Returns
        -------
        list of B str
        """
        settings = generation_options(self, max_new_tokens, gen_kw)
        with self.running(encoded) as inputs, torch.no_grad():
            out = self.model.generate(**inputs, **settings)
        out = out if isinstance(out, torch.Tensor) else out.sequences
        answers = self.processor.tokenizer.batch_decode(out[:, encoded.last + 1 :], skip_special_tokens=True)
        return [answer.strip() for answer in answers]

    def ask(
        self, image: Any, text: str | Sequence[str], *, max_new_tokens: int = MAX_NEW_TOKENS, **gen_kw: Any
    ) -> str | list[str]:
        """Answer a question about an image; lists (of either) are answered as one batch.

        Parameters
        ----------
        image : PIL image, path or sample, or a list of them
            A list inside the list is a prompt with several images: ``ask([[a, b]], ["which ..."])``.
        text : str or list of str
            The question. A single one is asked of every image, and a single image for every question.
        max_new_tokens : int
        **gen_kw
            As in `generate`.

        Returns
        -------
        str or list of str
            A list where either argument is one.

        Raises
        ------
        InputError
            An empty question, no string, or lists of unequal length.

        Examples
        --------
        >>> import biaslab as bl
        >>> from biaslab.scenes import scene
        >>> vlm, image = bl.load("grounder"), scene("test", 0).image
        >>> question = vlm.family.grounding_prompt("eggplant")
        >>> vlm.ask(image, question)  # doctest: +ELLIPSIS
        '[[...]]'
        """
        images, texts, single = paired(image, text)
        for t in texts:
            if not t.strip():
                raise InputError("empty question: say what to ask")
        answers = self.generate(self.encode(images, texts), max_new_tokens=max_new_tokens, **gen_kw)
        return answers[0] if single else answers

    def locate(
        self, image: Any, expression: str | Sequence[str], *, max_new_tokens: int = MAX_NEW_TOKENS, **gen_kw: Any
    ) -> Box | None | list[Box | None]:
        """Find what an expression refers to in an image; lists (of either) are located as one batch.

        Parameters
        ----------
        image : PIL image, path or sample, or a list of them
            One image per expression.
        expression : str or list of str
        max_new_tokens : int
        **gen_kw
            As in `generate`.

        Returns
        -------
        Box or None, or a list of them
            In pixels of the original image, upright as its EXIF orientation says; None where the answer holds no box.

        Raises
        ------
        InputError
            An empty expression, no string, lists of unequal length, or several images for one expression.

        Examples
        --------
        >>> import biaslab as bl
        >>> from biaslab.scenes import scene
        >>> made = scene("test", 0)
        >>> box = bl.load("grounder").locate(made.image, "eggplant")
        >>> true_box = next(thing.box for thing in made.objects if thing.name == "eggplant")
        >>> box.iou(true_box) > 0.9
        True
        """
        images, expressions, single = paired(image, expression)
        boxes = [g.box for g in self.locate_answers(images, expressions, max_new_tokens=max_new_tokens, **gen_kw)]
        return boxes[0] if single else boxes

    def locate_answers(
        self,
        images: Encoded | Sequence[Any],
        expressions: Sequence[str] | None = None,
        *,
        sample_ids: Sequence[str] | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        **gen_kw: Any,
    ) -> list[Grounding]:
        """Locate a batch of expressions and keep the raw answers.

        Parameters
        ----------
        images : sequence of B images, or Encoded
            Images as in `encode`, one per expression, or the output of `encode_grounding`.
        expressions : sequence of B str, optional
            Needed with images.
        sample_ids : sequence of B str, optional
        max_new_tokens : int
        **gen_kw
            As in `generate`.

        Returns
        -------
        list of B Grounding

        Raises
        ------
        InputError
            No expressions, or several images for one expression.
        """
        if isinstance(images, Encoded):
            encoded = images
        else:
            if expressions is None:
                raise InputError("locate_answers needs one expression per image")
            encoded = self.encode_grounding(images, expressions, sample_ids=sample_ids)
        if len(encoded.layouts) != len(encoded):
            raise InputError("a box belongs to one picture: give one image per expression")
        return self.groundings(encoded, self.generate(encoded, max_new_tokens=max_new_tokens, **gen_kw))

    def groundings(self, encoded: Encoded, answers: Sequence[str]) -> list[Grounding]:
        """Read the boxes out of answers to the prompts of `encode_grounding`.

        Parameters
        ----------
        encoded : Encoded
            B prompts with one image each.
        answers : sequence of B str

        Returns
        -------
        list of B Grounding
        """
        read = zip(answers, encoded.layouts, encoded.resized, strict=True)
        boxes = [self.family.parse_box(text, layout.size, resized) for text, layout, resized in read]
        return [Grounding(text, box, box is not None) for text, box in zip(answers, boxes, strict=True)]
