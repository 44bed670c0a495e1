"""`VLM`: one face for every multimodal model, from images and words to answers and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from biaslab.core.boxes import Box
from biaslab.errors import InputError
from biaslab.models.answers import answers_to
from biaslab.models.encoded import Encoded
from biaslab.models.grounding import MAX_NEW_TOKENS, Grounding, read_boxes, warn_cut
from biaslab.models.pairing import paired
from biaslab.models.prompted_model import PromptedModel

__all__ = ["VLM"]


class VLM(PromptedModel):
    """A multimodal model, its processor and its family adapter. Made by `load` or `wrap`.

    Attributes
    ----------
    model, processor : transformers objects, unmodified
    family : Family
    name, revision, fingerprint : str
        Provenance: what it is called, and what its weights are known by (None where that is not known).
    image_options : dict
        Preprocessing options used by every call (InternVL: ``max_tiles``; Qwen: ``max_pixels`` ...).
    recipe : LoadRecipe or None
        How it was loaded (`biaslab.models.recipe.recipe_of`); None for a wrapped model and a rehearsal.
    prefill : PrefillState
        The prompts that are running, and what a pruning engine has cut out of them.

    Examples
    --------
    >>> import biaslab as bl
    >>> vlm = bl.load("grounder", device="cpu")
    >>> vlm
    VLM('grounder', family='internvl', layers=10, device=cpu)
    >>> isinstance(bl.wrap(vlm.model, vlm.processor), bl.VLM)  # of a model that you have loaded yourself
    True
    """

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
        return answers_to(self, encoded, max_new_tokens, gen_kw).texts

    def ask(
        self,
        image: Any,
        text: str | Sequence[str],
        *,
        max_new_tokens: int | None = None,
        frames: bool = False,
        **gen_kw: Any,
    ) -> str | list[str]:
        """Answer a question about an image; lists (of either) are answered as one batch.

        An answer that is cut at the default limit of new tokens is warned of.

        Parameters
        ----------
        image : PIL image, path or sample, or a list of them
            A list inside the list is a prompt with several images: ``ask([[a, b]], ["which ..."])``.
        text : str or list of str
            The question. A single one is asked of every image, and a single image for every question.
        max_new_tokens : int, optional
            Default: 128.
        frames : bool
            The images of each prompt are frames of a video, in order: ``ask([[first, second]], "...", frames=True)``.
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
        limit = MAX_NEW_TOKENS if max_new_tokens is None else max_new_tokens
        answers = answers_to(self, self.encode(images, texts, frames=frames), limit, gen_kw)
        if max_new_tokens is None:
            warn_cut(answers.truncated, limit)
        return answers.texts[0] if single else answers.texts

    def locate(
        self, image: Any, expression: str | Sequence[str], *, max_new_tokens: int = MAX_NEW_TOKENS, **gen_kw: Any
    ) -> Box | None | list[Box | None]:
        """Find what an expression refers to in an image; lists (of either) are located as one batch.

        A box that is missing because the answer was cut at the limit of new tokens is warned of.

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
        found = self.locate_answers(images, expressions, max_new_tokens=max_new_tokens, **gen_kw)
        warn_cut([each.truncated and each.box is None for each in found], max_new_tokens, "before a box")
        boxes = [each.box for each in found]
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
            With `truncated` where an answer was cut at the limit of new tokens.

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
            raise InputError("a box belongs to one image: give one image per expression")
        answers = answers_to(self, encoded, max_new_tokens, gen_kw)
        return self.groundings(encoded, answers.texts, answers.truncated)

    def groundings(
        self, encoded: Encoded, answers: Sequence[str], truncated: Sequence[bool] | None = None
    ) -> list[Grounding]:
        """Read the boxes out of answers to the prompts of `encode_grounding`.

        Parameters
        ----------
        encoded : Encoded
            B prompts with one image each.
        answers : sequence of B str
        truncated : sequence of B bool, optional
            Which of them were cut, if that is known.

        Returns
        -------
        list of B Grounding
        """
        return read_boxes(self.family, encoded, answers, truncated)
