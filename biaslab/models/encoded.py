"""A batch of prompts ready for the model, with the places of image tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from biaslab.core.layout import TokenLayout
from biaslab.core.seen import SeenImage
from biaslab.errors import InputError

if TYPE_CHECKING:
    from biaslab.models.pixel_values import RawPixels

__all__ = ["Encoded", "first_behind", "last_token", "positions", "text_after_image"]


def positions(flags: Tensor) -> tuple[Tensor, Tensor]:
    """Find where each row of ``flags`` is True.

    Parameters
    ----------
    flags : BoolTensor (B, N)

    Returns
    -------
    indices : LongTensor (B, M)
        Ascending column indices, M the largest count; fillers hold 0.
    mask : BoolTensor (B, M)
        False for fillers.
    """
    count = flags.sum(1, keepdim=True)
    width = int(count.max())  # the one device sync of a prefill
    order = flags.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :width]
    mask = torch.arange(width, device=flags.device) < count
    return order.masked_fill(~mask, 0), mask


def text_after_image(is_image: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Find the text after the last image token of each row: question, end of turn, answer header.

    Parameters
    ----------
    is_image : BoolTensor (B, N)
        Which tokens of the prompts are image tokens.
    attention_mask : Tensor (B, N), optional
        0 or False for padding, which is left out.

    Returns
    -------
    indices, mask : LongTensor, BoolTensor (B, Tmax)
        As from `positions`.
    """
    later = is_image.flip(1).cumsum(1).flip(1) == 0
    if attention_mask is not None:
        later = later & attention_mask.bool()
    return positions(later)


def last_token(is_image: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Find the position of the last token of each row that is no padding, (B, 1)."""
    batch, length = is_image.shape
    if attention_mask is None:
        return is_image.new_full((batch, 1), length - 1, dtype=torch.long)
    return length - 1 - attention_mask.flip(1).long().argmax(1, keepdim=True)


def first_behind(is_image: Tensor, placeholders: Sequence[Sequence[int]]) -> Tensor:
    """Find the first token behind each image that belongs to no image.

    It closes the image (a newline, an end-of-image token) and, in a causal decoder, has seen all of it and nothing
    of a question that follows. Tiles and a thumbnail are one image: what separates them is no end. Of images without
    anything between them all have the same one.

    Parameters
    ----------
    is_image : (B, N) bool Tensor
    placeholders : sequence of sequence of int
        Image placeholders of every image of each prompt, those included that show no place.

    Returns
    -------
    (B, I) int64 Tensor
        I the largest number of images; behind a prompt's own its last one is repeated.

    Raises
    ------
    InputError
        A prompt that ends with an image, or holds none.

    Examples
    --------
    >>> is_image = torch.tensor([[False, True, True, False, True, False, False]])
    >>> first_behind(is_image, [[2, 1]])
    tensor([[3, 5]])
    """
    if not all(placeholders):
        raise InputError("queries='null' needs an image in every prompt: leave out those without")
    most = max(len(own) for own in placeholders)
    ends = torch.tensor([[*accumulate(own), *([sum(own)] * (most - len(own)))] for own in placeholders])
    ends = ends.to(is_image.device)
    seen = is_image.long().cumsum(1)
    # rank of each image's last placeholder -> tokens that are no image and stand behind it
    behind = (seen[:, None] >= ends[..., None]) & ~is_image[:, None]
    if not bool(behind.any(2).all()):
        raise InputError("queries='null' needs a token behind every image: put the image before the text")
    return behind.long().argmax(2)


_EACH_ITS_OWN: Any = None  # one image per prompt


@dataclass(frozen=True, eq=False, repr=False)
class Encoded:
    """Left-padded prompts of a batch; made by `VLM.encode`.

    Attributes
    ----------
    inputs : dict
        Keyword arguments for ``model(**inputs)`` and ``model.generate(**inputs)``.
    layouts : list of TokenLayout
        One per image, in the order of the prompts: with one image per prompt, one per prompt.
    visual, visual_mask : (B, Vmax) LongTensor, BoolTensor
        Absolute indices of the visual tokens in the padded prompt, and which of them are no fillers. Several
        images of a prompt follow each other: `spans` tells them apart. Placeholders that show no place
        (LLaVA-NeXT's newlines) are no visual tokens.
    last : int
        Index of the last prompt token (prompt length - 1, for every sample, because padding is on the left).
    resized : list of (width, height)
        Size of the image the model saw, pixels (before tiling into equal squares where there is tiling).
    sample_ids : list of str, optional
        Names the prompts carry through pruning (their random seeds depend on it) and logs.
    owners : list of int
        Prompt of each image.
    pictures : list of int, optional
        For every image of the batch, its distinct image: those of one number are equal, pixel by pixel. None
        where nothing is known of it (`VLM.vision` finds out).
    raw : RawPixels, optional
        Of prompts from `VLM.prepare` that have not been sent to the model's device: what becomes of their 8-bit pixels
        there.
    tower : sequence, optional
        Of prompts whose features have been computed (`VLM.vision`): what was kept of the vision tower, a
        :class:`biaslab.attention.vision_record.VisionRecord` for each image, for methods that read it.
    frames : bool
        Whether the images of each prompt are frames of a video.
    references : sequence
        Weak references of the images, in the order of ``layouts`` (`seen`); empty where they are not known.

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.models import Encoded
    >>> from biaslab.scenes import scene
    >>> vlm = bl.load("grounder")
    >>> encoded = vlm.encode([scene("test", 0).image], ["Where is the cat?"], sample_ids=["cat"])
    >>> isinstance(encoded, Encoded)
    True
    >>> encoded.sample_ids, encoded.spans, encoded.owners, encoded.resized
    (['cat'], [(0, 256)], [0], [(224, 224)])
    >>> int(encoded.inputs["input_ids"][0, encoded.visual[0, 0]]) == vlm.image_token_id
    True
    """

    inputs: dict[str, Any]
    layouts: list[TokenLayout]
    visual: Tensor
    visual_mask: Tensor
    last: int
    resized: list[tuple[int, int]]
    sample_ids: list[str] | None = None
    owners: list[int] = _EACH_ITS_OWN
    pictures: list[int] | None = None
    raw: RawPixels | None = None
    tower: Sequence[Any] | None = None
    frames: bool = False
    references: Sequence[Any] = ()

    def __post_init__(self) -> None:
        if self.owners is None:
            object.__setattr__(self, "owners", list(range(len(self.layouts))))

    @classmethod
    def from_inputs(
        cls,
        inputs: dict[str, Any],
        layouts: list[TokenLayout],
        resized: list[tuple[int, int]],
        *,
        image_token_id: int,
        sample_ids: list[str] | None = None,
        owners: list[int] | None = None,
    ) -> Encoded:
        """Locate image tokens in processor output.

        Parameters
        ----------
        inputs : dict
            Output of the processor.
        layouts : list of TokenLayout
        resized : list of (width, height)
        image_token_id : int
        sample_ids : list of str, optional
        owners : list of int, optional
            Prompt of each image; by default one image per prompt.

        Returns
        -------
        Encoded

        Raises
        ------
        InputError
            Image tokens that are not as many as the layouts say, or ids that are not as many as the prompts.
        """
        ids = inputs["input_ids"]
        owners = list(range(len(layouts))) if owners is None else list(owners)
        is_image = ids == image_token_id
        counts, expected = is_image.sum(1).tolist(), [0] * len(ids)
        for owner, layout in zip(owners, layouts, strict=True):
            expected[owner] += layout.placeholders
        if counts != expected:
            raise InputError(
                f"the prompts hold {counts} image tokens but the layouts {expected}: check that the text does "
                "not contain the image token, and that the processor belongs to the model"
            )
        if sample_ids is not None and len(sample_ids) != len(ids):
            raise InputError(f"{len(sample_ids)} sample_ids for {len(ids)} samples: give one id per sample")
        visual, visual_mask = positions(_visual(is_image, layouts))
        names = None if sample_ids is None else [str(s) for s in sample_ids]
        return cls(inputs, layouts, visual, visual_mask, ids.shape[1] - 1, resized, names, owners)

    def __len__(self) -> int:
        """Count the prompts."""
        return len(self.visual)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.visual.device

    @property
    def places(self) -> list[int]:
        """Of each image, its number within its prompt, from 0."""
        seen = [0] * len(self)
        out = []
        for owner in self.owners:
            out.append(seen[owner])
            seen[owner] += 1
        return out

    @property
    def placeholders(self) -> list[list[int]]:
        """Of each prompt, the image tokens of every image, those that show no place included."""
        each: list[list[int]] = [[] for _ in range(len(self))]
        for owner, layout in zip(self.owners, self.layouts, strict=True):
            each[owner].append(layout.placeholders)
        return each

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Of each image, the columns of `visual` (first, last + 1) that are its tokens."""
        used, out = [0] * len(self), []
        for owner, layout in zip(self.owners, self.layouts, strict=True):
            out.append((used[owner], used[owner] + layout.n))
            used[owner] += layout.n
        return out

    @property
    def seen(self) -> list[SeenImage]:
        """The images for whoever draws over them, in the order of ``layouts``."""
        known = len(self.references) == len(self.layouts)
        references = self.references if known else [None] * len(self.layouts)
        each = zip(self.layouts, self.owners, self.spans, references, strict=True)
        return [SeenImage(*one) for one in each]

    def __repr__(self) -> str:
        tokens = ", ".join(str(layout.n) for layout in self.layouts[:8]) + (", ..." if len(self.layouts) > 8 else "")
        return f"Encoded(prompts={len(self)}, visual tokens=[{tokens}], length={self.last + 1}, device={self.device})"

    def find(self, ids: Tensor) -> tuple[Tensor, Tensor] | None:
        """Find the visual tokens in a forward of these prompts, each maybe repeated (beam search).

        Parameters
        ----------
        ids : LongTensor (R * B, N)
            Token ids of the forward.

        Returns
        -------
        (visual, visual_mask) or None
            With R * B rows; None if the ids have another shape.
        """
        repeats, rest = divmod(len(ids), len(self))
        if rest or ids.shape[1] != self.last + 1:
            return None
        if repeats == 1:
            return self.visual, self.visual_mask
        return self.visual.repeat_interleave(repeats, 0), self.visual_mask.repeat_interleave(repeats, 0)

    def with_inputs(self, inputs: dict[str, Any]) -> Encoded:
        """Copy the prompts with other model inputs, for example with the image features already computed."""
        return replace(self, inputs=inputs)


def _visual(is_image: Tensor, layouts: list[TokenLayout]) -> Tensor:
    """Take the placeholders that show no place out of ``is_image`` (B, N)."""
    if all(layout.placeholders == layout.n for layout in layouts):
        return is_image
    shows = torch.zeros(sum(layout.placeholders for layout in layouts), dtype=torch.bool)
    start = 0
    for layout in layouts:
        shows[start + torch.from_numpy(layout.placeholder_index.copy())] = True
        start += layout.placeholders
    return is_image.masked_scatter(is_image, shows.to(is_image.device))  # images come in the order of the prompts
