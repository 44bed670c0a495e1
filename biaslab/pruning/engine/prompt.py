"""What the engine knows of one prefill: where the visual tokens, the padding and the query rows are."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from biaslab.core.frames import frames_layout
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, UnsupportedError
from biaslab.models.encoded import Encoded, text_after_image
from biaslab.models.image_runs import FIX, check_single
from biaslab.models.prefill import PromptIds
from biaslab.pruning.base import Method
from biaslab.pruning.engine.query_rows import RowKind, kinds_of, query_rows

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["Prompt", "PromptImage", "read_prompt", "sample_seed"]


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
        Query positions of all kinds that are read, `kinds` says which are whose. None for methods without attention.
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
    kinds : list of RowKind
        Kinds of query rows, that of ``TokenContext.attention`` first.
    """

    length: int
    visual: Tensor
    counts: list[int]
    padding: Tensor | None
    pads: list[int]
    rows: Tensor | None
    text: Tensor | None
    text_counts: list[int]
    images: list[list[PromptImage]]
    repeats: int
    fillers: Tensor | None = None
    filler_counts: list[int] = field(default_factory=list)
    kinds: list[RowKind] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.counts)


def read_prompt(vlm: VLM, method: Method, found: PromptIds, seed: int, *, joint: bool = False) -> Prompt | None:
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
    joint : bool
        Take the images of each prompt as one, of a layout of frames.

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
        announced = [sum(own) for own in encoded.placeholders for _ in range(repeats)]
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
    if encoded is not None:
        images = [row for row in _announced(encoded, seed, joint) for _ in range(repeats)]
    else:
        check_single(vlm, is_image)
        layouts = [_guess_layout(vlm, method, n) for n in counts]
        guessed = enumerate(zip(layouts, counts, strict=True))
        images = [[PromptImage(layout, 0, n, sample_seed(seed, str(i // repeats)))] for i, (layout, n) in guessed]
    rows, kinds = query_rows(kinds_of(method), is_image, real, _per_image(encoded, counts, repeats, joint))
    return Prompt(
        length=ids.shape[1],
        visual=visual,
        counts=counts,
        padding=None if real is None else ~real,
        pads=pads,
        rows=rows,
        text=text,
        text_counts=text_counts,
        images=images,
        repeats=repeats,
        kinds=kinds,
    )


def _per_image(encoded: Encoded | None, counts: list[int], repeats: int, joint: bool) -> list[list[int]]:
    """Count the image tokens of every image of each row; a prompt that nobody announced has one image at most."""
    if encoded is None:
        return [[n] if n else [] for n in counts]
    return [[sum(own)] if joint else own for own in encoded.placeholders for _ in range(repeats)]


def _announced(encoded: Encoded, seed: int, joint: bool) -> list[list[PromptImage]]:
    """List the images of every prompt, or the one that they are together."""
    names = encoded.sample_ids or [str(i) for i in range(len(encoded))]
    rows: list[list[PromptImage]] = [[] for _ in range(len(encoded))]
    for owner, layout, (first, last) in zip(encoded.owners, encoded.layouts, encoded.spans, strict=True):
        row, name = rows[owner], names[owner]
        name = f"{name}#{len(row)}" if row else name  # of a prompt with several images
        row.append(PromptImage(layout, first, last, sample_seed(seed, name)))
    return [[_as_one(row)] if len(row) > 1 else row for row in rows] if joint else rows


def _as_one(row: list[PromptImage]) -> PromptImage:
    layout = frames_layout([image.layout for image in row if image.layout is not None])
    return PromptImage(layout, row[0].first, row[-1].last, row[0].seed)


def sample_seed(seed: int, sample_id: str) -> int:
    """Derive the seed of one sample: the same in any batch, on any number of processes, after any interruption."""
    digest = hashlib.blake2b(f"{seed}:{sample_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


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
