"""What differs between families of multimodal models, and nothing else.

A new family is one new file in this package: a subclass of `Family` decorated with `register`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from biaslab._util.registry import Registry
from biaslab._util.text import why_unreadable
from biaslab.core.boxes import Box, BoxSpace, find_box
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, UnsupportedError
from biaslab.models.offline_spec import OfflineSpec
from biaslab.models.pixel_form import PLAIN_BYTES, PixelForm, normalises_apart
from biaslab.models.processors import image_only
from biaslab.models.shared_cutting import cutting_once

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["FAMILIES", "Family", "register"]

#: name -> adapter
FAMILIES: Registry[Family] = Registry("model family", package="biaslab.models.adapters", group="biaslab.families")


def register(cls: type[Family]) -> type[Family]:
    """Make a family known by its name, its model types and its aliases; a class decorator.

    A name can be taken only once.

    Parameters
    ----------
    cls : type of Family

    Returns
    -------
    type of Family
        The class itself.
    """
    FAMILIES.add(cls.name, cls(), origin=cls)
    return cls


class Family(OfflineSpec, ABC):
    """Prompt, image preprocessing, token layout and box format of one family of models.

    Attributes
    ----------
    name : str
        Name in layouts and profiles.
    model_types : tuple of str
        ``config.model_type`` values this adapter serves.
    aliases : dict
        Short name -> hub id.
    processor_class : str
        Name of the transformers class of the processor.
    box_space : BoxSpace
        Space of the boxes the model answers.
    grounding_template : str
        The family's own grounding prompt, with ``{}`` for the expression.
    naming_prompt : str
        What asks for the objects in an image, by name.
    user_prefix : str
        What precedes the user's text in the prompt for one image.
    stop_tokens : tuple of str
        End-of-turn tokens, added to those of the generation config.
    lowest_layer : int
        Lowest prune layer K that the model's code allows, whatever its configuration.
    two_way_prefix : bool
        Whether tokens of the prompt see those behind them: then none has seen the image alone.
    options : frozenset of str
        Preprocessing options `VLM.encode` takes for this family.
    frames_refused : str
        Why it takes no frames of a video as images of a prompt; empty where it does.
    frame_options : dict
        Preprocessing options of frames, where a call gives no others.
    pixel_form : PixelForm or None
        How pixel values lie, where the processor's last step is to rescale and normalise 8-bit ones: they then go to
        the device as such (:mod:`biaslab.models.pixel_values`). None: they go as the processor makes them.
    """

    name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    aliases: ClassVar[dict[str, str]] = {}
    processor_class: ClassVar[str]
    box_space: ClassVar[BoxSpace]
    grounding_template: ClassVar[str]
    naming_prompt: ClassVar[str] = "List the objects in this picture, separated by commas. Answer with the list alone."
    stop_tokens: ClassVar[tuple[str, ...]] = ()
    lowest_layer: ClassVar[int] = 0
    two_way_prefix: ClassVar[bool] = False
    options: ClassVar[frozenset[str]] = frozenset()
    frames_refused: ClassVar[str] = ""
    frame_options: ClassVar[dict[str, int]] = {}
    pixel_form: ClassVar[PixelForm | None] = None

    def load_processor(self, path: str, **kw: Any) -> Any:
        """Load the processor of a checkpoint folder; torchvision is never needed.

        Parameters
        ----------
        path : str
        **kw
            Passed to ``from_pretrained``.

        Returns
        -------
        ProcessorMixin
        """
        import transformers

        return image_only(getattr(transformers, self.processor_class)).from_pretrained(path, **kw)

    def complete_processor(self, processor: Any, config: Any) -> None:
        """Tell the processor what its folder leaves out and the model's configuration knows.

        Raises
        ------
        UnsupportedError
            A model whose image tokens no layout describes.
        """

    def chat_prompt(self, processor: Any, text: str, n_images: int = 1) -> str:
        """Write the full prompt of one user turn: the images first, then the text, then the answer's header.

        Parameters
        ----------
        processor : ProcessorMixin
        text : str
        n_images : int

        Returns
        -------
        str
        """
        if self._template(processor) is None:
            return self.plain_prompt(processor, text, n_images)
        return self._templated(processor, [None] * n_images + [text])

    def frames_prompt(self, processor: Any, text: str, n_frames: int) -> str:
        """Write the prompt of one user turn whose images are the frames of a video, as the family's models were taught.

        Default: as other images of one prompt. A family that announces its frames overrides `frame_label`.

        Parameters
        ----------
        processor : ProcessorMixin
        text : str
        n_frames : int

        Returns
        -------
        str
        """
        labels = [self.frame_label(k) for k in range(n_frames)]
        if not any(labels):
            return self.chat_prompt(processor, text, n_frames)
        if self._template(processor) is not None:
            return self._templated(processor, [part for label in labels for part in (label, None)] + [text])
        # the plain prompt announces nothing: a label goes before each image token, and none stands in the text
        token = processor.image_token
        head, *rest = self.plain_prompt(processor, text, n_frames).split(token)
        return head + "".join(label + token + part for label, part in zip(labels, rest, strict=True))

    def frame_label(self, index: int) -> str:
        """Tell what stands before frame ``index`` (from 0) of a video."""
        return ""

    def _template(self, processor: Any) -> Any:
        return processor.chat_template or processor.tokenizer.chat_template

    def _templated(self, processor: Any, parts: list[str | None]) -> str:
        """Put a turn into the checkpoint's chat template; None stands for an image."""
        template = self._template(processor)
        content = [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]
        return processor.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=template,
            add_generation_prompt=True,
            tokenize=False,
        )

    @abstractmethod
    def plain_prompt(self, processor: Any, text: str, n_images: int) -> str:
        """Write the family's prompt where the checkpoint brings no chat template."""

    def image_kwargs(self, processor: Any, options: dict[str, Any]) -> dict[str, Any]:
        """Translate image options into keyword arguments of the processor."""
        return {}

    @abstractmethod
    def layout(
        self,
        processor: Any,
        size: tuple[int, int],
        index: int,
        inputs: dict[str, Any],
        options: dict[str, Any],
    ) -> tuple[TokenLayout, tuple[int, int]]:
        """Lay out the tokens of one image.

        Parameters
        ----------
        processor : ProcessorMixin
        size : (width, height)
            Of the original image, pixels.
        index : int
            Number of the image in the batch, counting the images of all prompts.
        inputs : dict
            The processor's output for the whole batch.
        options : dict
            Image options.

        Returns
        -------
        layout : TokenLayout
        resized : (width, height)
            Size of the image the model saw, pixels.
        """

    def is_one_image(self, config: Any, n: int) -> bool:
        """Tell whether ``n`` image tokens in a row are one image, and every one of them a visual token.

        Asked of a prompt that was not made by `VLM.encode`, so that nothing but its token ids is known.

        Parameters
        ----------
        config : PreTrainedConfig
            Of the model.
        n : int

        Returns
        -------
        bool
            False where it may be several images, or hold placeholders that show no place; for a family that does not
            say, always.
        """
        return False

    def prepare(self, processor: Any, image: Image.Image) -> Image.Image:
        """Change an image into what the processor should get."""
        return image

    def gives_bytes(self, processor: Any) -> bool:
        """Whether this family's processor can leave rescaling and normalising to the device."""
        # an adapter derived from one of ours, with an `encode` of its own that knows nothing of it, keeps the plain way
        knows = "raw" in inspect.signature(self.encode).parameters
        return knows and self.pixel_form is not None and normalises_apart(processor.image_processor)

    def filling(self, processor: Any, inputs: dict[str, Any]) -> Tensor | None:
        """Find the pixel values that a batch was filled up with, which are 0 after the others are normalised.

        Parameters
        ----------
        processor : ProcessorMixin
        inputs : dict
            The processor's output for the whole batch.

        Returns
        -------
        BoolTensor or None
            Broadcastable to the pixel values; None where there is no filling.
        """
        return None

    def run_processor(self, processor: Any, prompts: list[str], images: list[list[Image.Image]], **kw: Any) -> dict:
        """Call the processor; its output as tensors, left padded."""
        kw = {"return_tensors": "pt", "padding": True, "padding_side": "left", **kw}
        # not verbose: a prompt that is too long is refused by its length (`check_length`), in one line
        return dict(processor(images=images, text=prompts, verbose=False, **kw))

    def encode(
        self,
        processor: Any,
        images: list[list[Image.Image]],
        texts: list[str],
        options: dict[str, Any],
        *,
        raw: bool = False,
        frames: bool = False,
    ) -> tuple[dict[str, Any], list[TokenLayout], list[tuple[int, int]]]:
        """Run the processor on a batch of prompts.

        Parameters
        ----------
        processor : ProcessorMixin
        images : list of list of PIL images
            The images of each prompt, at least one, which precede its text.
        texts : list of str
        options : dict
            Image options.
        raw : bool
            Leave pixels as 8-bit values, neither rescaled nor normalised; of a processor that `gives_bytes`. Of a
            image that comes several times they are there once, and ``pixel_rows`` says which rows stand for each.
        frames : bool
            The images of a prompt are frames of a video.

        Returns
        -------
        inputs : dict
            Left padded.
        layouts : list of TokenLayout
            Of every image.
        resized : list of (width, height)
            Size of every image as the model saw it, pixels.

        Raises
        ------
        InputError
            A text that holds a placeholder, an option that does not apply, or an image the family cannot take.
        """
        self.check_options(options)
        for text in texts:
            self.check_text(processor, text)
        write = self.frames_prompt if frames else self.chat_prompt
        prompts = [write(processor, t, len(several)) for t, several in zip(texts, images, strict=True)]
        flat = [image for several in images for image in several]
        distinct = {key: self.prepare(processor, image) for key, image in {id(image): image for image in flat}.items()}
        prepared = [[distinct[id(image)] for image in several] for several in images]
        kwargs = self.image_kwargs(processor, options) | (PLAIN_BYTES if raw else {})
        try:
            once, apart = cutting_once(processor, prepared, rows_apart=raw)
            inputs = self.run_processor(once, prompts, prepared, **kwargs) | apart
        except ValueError as err:  # such as an aspect ratio beyond what the family can cut
            sizes = ", ".join(f"{image.width}x{image.height}" for image in flat)
            raise InputError(f"{self.name} cannot take one of these images ({sizes} px): {err}") from None
        if raw:  # a processor that puts 8-bit values into patches or among zeros may have made floats of them
            inputs["pixel_values"] = inputs["pixel_values"].byte()
        placed = [self.layout(processor, image.size, i, inputs, options) for i, image in enumerate(flat)]
        return inputs, [layout for layout, _ in placed], [resized for _, resized in placed]

    def check_text(self, processor: Any, text: str) -> None:
        """Refuse a user's text that no tokenizer can read, or that holds a placeholder of the processor.

        Raises
        ------
        InputError
            In one line that names the fix.
        """
        if why := why_unreadable(text):
            raise InputError(f"the text {why}")
        for name in ("image_token", "video_token"):
            token = getattr(processor, name, None)
            if token is not None and token in text:
                raise InputError(f"the text must not contain the image token {token!r}: remove it")

    def check_options(self, options: dict[str, Any]) -> None:
        """Refuse image options that do not apply.

        Raises
        ------
        InputError
            An option that the family does not have, a value that is no positive integer, or a ``min_...`` above its
            ``max_...``.
        """
        for name, value in options.items():
            if name not in self.options:
                names = ", ".join(sorted(self.options)) or "none"
                raise InputError(f"{self.name} has no image option {name!r}; it has: {names}")
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"image option {name} must be a positive integer, got {value!r}")
        for name, low in options.items():
            other = name.replace("min_", "max_")
            if other != name and low > options.get(other, low):
                raise InputError(f"{name}={low} is above {other}={options[other]}: swap them or leave one out")

    @staticmethod
    def bounds(what: str, options: dict[str, Any], low: int, high: int) -> tuple[int, int]:
        """Replace a checkpoint's bounds by the options ``min_WHAT`` and ``max_WHAT``.

        A bound without an option gives way to one that has an option.
        """
        low = options.get(f"min_{what}", min(low, options.get(f"max_{what}", low)))
        return int(low), int(options.get(f"max_{what}", max(low, high)))

    def tower_tokens(
        self, model: Any, processor: Any, inputs: dict[str, Any], layouts: list[TokenLayout], values: Tensor
    ) -> list[Tensor]:
        """Bring what a vision tower shows of patches to the visual tokens of the decoder.

        Several patches of a token are averaged. A family that does not say how is not read.

        Parameters
        ----------
        model : PreTrainedModel
        processor : ProcessorMixin
        inputs : dict
            Of the prompts; pixels are not needed.
        layouts : list of TokenLayout
            Of every image.
        values : Tensor (P, C)
            A row for each patch of all images, as they lie in the tower, CLS tokens left out.

        Returns
        -------
        list of Tensor (N, C)
            Of every image.

        Raises
        ------
        UnsupportedError
            Of a family that does not say, and where the rows are not those of these images.
        """
        raise UnsupportedError(f"{self.name} does not say which patches make a token: use another method")

    def grounding_prompt(self, expression: str) -> str:
        """Write the user text that asks for the box of an expression."""
        expression = expression.strip()
        if not expression:
            raise InputError("empty expression: say what to locate")
        return self.grounding_template.replace("{}", expression)

    def parse_box(self, text: str, size: tuple[int, int], resized: tuple[int, int] | None = None) -> Box | None:
        """Read the first box of an answer; no text makes it raise.

        Parameters
        ----------
        text : str
            The answer.
        size : (width, height)
            Of the original image, pixels.
        resized : (width, height), optional
            Of the image the model saw, pixels.

        Returns
        -------
        Box or None
            In pixels of the original image; None where there is none, or none in the family's space
            (:meth:`biaslab.core.boxes.BoxSpace.read`).
        """
        values = find_box(text)
        return None if values is None else self.box_space.read(values, size=size, resized=resized)

    def square_side(self, tokens: int) -> int:
        """Compute the side of a square grid of ``tokens``."""
        side = round(tokens**0.5)
        if side * side != tokens:
            raise UnsupportedError(f"{self.name}: {tokens} tokens per tile do not form a square grid")
        return side
