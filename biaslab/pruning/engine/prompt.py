"""What the engine knows of one prefill: where the visual tokens, the padding and the query rows are."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, UnsupportedError
from biaslab.models.encoded import Encoded, last_token, text_after_image
from biaslab.models.prefill import PromptIds
from biaslab.pruning.base import Method

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["FIX", "Prompt", "PromptImage", "read_prompt", "sample_seed"]

FIX = "encode with vlm.encode(...) and run vlm.generate(encoded) or vlm.forward(encoded)"


@dataclass(frozen=True, eq=False)
class PromptImage:
    """One image of a prompt.

    Attributes
    ----------
    layout : TokenLayout or None
        Where its tokens lie in the image.
    first, last : int
        Its tokens are the columns ``first .. last - 1`` of ``Prompt.visual``.
    seed : int
        Of its selection.
    whole : TokenLayout or None
        Behind a cut: the layout of all its tokens; ``layout`` is that of those that are left.
    survivors : (n,) int64 Tensor or None
        Behind a cut: positions of those that are left among all of them.
    """

    layout: TokenLayout | None
    first: int
    last: int
    seed: int
    whole: TokenLayout | None = None
    survivors: Tensor | None = None

    @property
    def n(self) -> int:
        """Number of visual tokens."""
        return self.last - self.first

    @property
    def total(self) -> int:
        """Number of visual tokens before any cut."""
        return self.n if self.whole is None else self.whole.n


@dataclass(frozen=True, eq=False)
class Prompt:
    """Tokens of a batch that is about to be prefilled; positions are absolute in the padded prompt of N tokens.

    Attributes
    ----------
    length : int
        N.
    visual : (B, V) int64 Tensor
        Positions of the visual tokens, ascending, image after image; ``counts`` of each row are real, the rest
        fillers.
    counts : list of int
    padding : (B, N) bool Tensor or None
        True for padding; None when nothing is known to be padding.
    pads : list of int
        Padding tokens of each row.
    rows : (B, Q) int64 Tensor or None
        Query positions; ``row_counts`` of each row are real. None for methods without attention.
    row_counts : list of int
    text : (B, T) int64 Tensor or None
        Positions of the tokens behind the last image; ``text_counts`` of each row are real. None where no method reads
        them.
    text_counts : list of int
    images : list of list of PromptImage
        The images of each row.
    repeats : int
        Consecutive rows that are copies of one sample (beam search).
    fillers : (B, N) bool Tensor or None
        Behind a cut: True for what stands there to give all rows one length; None where nothing does.
    filler_counts : list of int
        Of each row; empty before any cut.
    """

    length: int
    visual: Tensor
    counts: list[int]
    padding: Tensor | None
    pads: list[int]
    rows: Tensor | None
    row_counts: list[int]
    text: Tensor | None
    text_counts: list[int]
    images: list[list[PromptImage]]
    repeats: int
    fillers: Tensor | None = None
    filler_counts: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.counts)


def read_prompt(vlm: VLM, method: Method, found: PromptIds, seed: int) -> Prompt | None:
    """Read the prompts of a first forward.

    Parameters
    ----------
    vlm : VLM
        Its announced prompts (``vlm.prefill.encoded``), if any, give layouts and sample ids.
    method : Method
        Decides which query rows are read, and whether a true layout is needed.
    found : PromptIds
        Token ids, padding and repeats of the forward.
    seed : int
        Of the run.

    Returns
    -------
    Prompt or None
        None if the prompt holds no image.

    Raises
    ------
    UnsupportedError
        The forward is not the one announced, or leaves the layout open.
    """
    ids, repeats = found.ids, found.repeats
    is_image = ids == vlm.image_token_id
    if not bool(is_image.any()):
        return None
    real = None if found.padding is None else found.padding.bool()
    encoded = vlm.prefill.encoded
    if encoded is not None:
        announced = [n for n in _placeholders(encoded) for _ in range(repeats)]
        n_image = is_image.sum(1).tolist()
        if n_image != announced or ids.shape[1] != encoded.last + 1:
            raise UnsupportedError(
                f"this forward ({n_image} image tokens in {ids.shape[1]}) is not the prompt announced "
                f"({announced} in {encoded.last + 1}; chunked prefill?): {FIX}"
            )
    visual, visual_mask = vlm.visual_tokens(ids)
    none = is_image.new_zeros(len(ids), dtype=torch.long)
    text, text_mask = text_after_image(is_image, real) if "text" in method.needs else (None, None)
    sums = [
        visual_mask.sum(1),
        none if real is None else (~real).sum(1),
        none if text_mask is None else text_mask.sum(1),
    ]
    counts, pads, text_counts = torch.stack(sums).tolist()
    if text is not None and not all(text_counts):
        raise InputError(f"method {method.name!r} reads the question behind the image: put the image first")
    rows, row_mask = _query_rows(getattr(method, "queries", None), is_image, real)
    if encoded is not None:
        images = [row for row in _announced(encoded, seed) for _ in range(repeats)]
    else:
        _check_single(vlm, is_image)
        layouts = [_guess_layout(vlm, method, n) for n in counts]
        guessed = enumerate(zip(layouts, counts, strict=True))
        images = [[PromptImage(layout, 0, n, sample_seed(seed, str(i // repeats)))] for i, (layout, n) in guessed]
    return Prompt(
        length=ids.shape[1],
        visual=visual,
        counts=counts,
        padding=None if real is None else ~real,
        pads=pads,
        rows=rows,
        row_counts=[] if row_mask is None else row_mask.sum(1).tolist(),
        text=text,
        text_counts=text_counts,
        images=images,
        repeats=repeats,
    )


def _placeholders(encoded: Encoded) -> list[int]:
    """Count the image tokens of every prompt, those that show no place included."""
    total = [0] * len(encoded)
    for owner, layout in zip(encoded.owners, encoded.layouts, strict=True):
        total[owner] += layout.placeholders
    return total


def _announced(encoded: Encoded, seed: int) -> list[list[PromptImage]]:
    """List the images of every prompt."""
    names = encoded.sample_ids or [str(i) for i in range(len(encoded))]
    rows: list[list[PromptImage]] = [[] for _ in range(len(encoded))]
    for owner, layout, (first, last) in zip(encoded.owners, encoded.layouts, encoded.spans, strict=True):
        row, name = rows[owner], names[owner]
        name = f"{name}#{len(row)}" if row else name  # of a prompt with several images
        row.append(PromptImage(layout, first, last, sample_seed(seed, name)))
    return rows


def sample_seed(seed: int, sample_id: str) -> int:
    """Derive the seed of one sample: the same in any batch, on any number of processes, after any interruption."""
    digest = hashlib.blake2b(f"{seed}:{sample_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _query_rows(queries, is_image: Tensor, real: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Find the absolute positions (B, Q) of the query rows, and which are real."""
    if queries is None:
        return None, None
    if queries == "text":
        rows, mask = text_after_image(is_image, real)
        if not bool(mask.any(1).all()):
            raise InputError("queries='text' needs text after the image in every prompt: put the image first")
        # fillers repeat a real row: the row of a padding token is undefined
        return torch.where(mask, rows, rows[:, :1]), mask
    everywhere = torch.ones_like(is_image) if real is None else real
    first = everywhere.long().argmax(1, keepdim=True)
    last = last_token(is_image, real)
    if queries == "last":
        return last, torch.ones_like(last, dtype=torch.bool)
    # counted within each prompt, not within the padded batch: what a row gives must not depend on its batch
    # mates
    positions = torch.tensor(queries, device=is_image.device)
    rows = torch.where(positions < 0, last + 1 + positions, first + positions)
    if bool(((rows < first) | (rows > last)).any()):
        raise InputError(f"queries {queries} lie outside a prompt of the batch: choose positions all prompts have")
    return rows, torch.ones_like(rows, dtype=torch.bool)


def _check_single(vlm: VLM, is_image: Tensor) -> None:
    """Refuse prompts that nobody announced whose image tokens may be several images, or more than visual tokens."""
    before = torch.nn.functional.pad(is_image, (1, 0))[:, :-1]
    runs, counts = torch.stack([(is_image & ~before).sum(1), is_image.sum(1)]).tolist()
    for n_runs, n in zip(runs, counts, strict=True):
        if n and (n_runs > 1 or not vlm.family.is_one_image(vlm.model.config, n)):
            raise UnsupportedError(
                f"the {n} image tokens of a prompt may be several images or hold tokens that show no place, and this "
                f"forward does not say: {FIX}"
            )


def _guess_layout(vlm: VLM, method: Method, n: int) -> TokenLayout | None:
    """Guess the layout of an image nobody announced: a placeholder if nobody looks at it, or one square tile."""
    if n == 0:
        return None
    family = vlm.family.name
    if not method.needs_layout:
        return TokenLayout.raster(1, n, size=(n, 1), family=family)
    side = math.isqrt(n)
    if side * side != n or n != getattr(vlm.model.config, "image_seq_length", None):
        raise UnsupportedError(
            f"method {method.name!r} must know where the {n} visual tokens lie, and this forward does not say: {FIX}"
        )
    return TokenLayout.raster(side, side, size=(side, side), family=family)
