"""Which rows of a padded prompt `capture` records: the queries whose attention is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from biaslab.errors import InputError, UnsupportedError
from biaslab.models.encoded import Encoded, first_behind, last_token, text_after_image
from biaslab.models.image_runs import check_single

if TYPE_CHECKING:
    from biaslab.models.family import Family
    from biaslab.models.vlm import VLM

__all__ = ["NAMED", "QueryRows", "check_queries", "check_rows_of_family", "null_rows", "query_rows"]

#: query rows by name
NAMED = ("last", "text", "null", "raters", "generated")


class QueryRows(NamedTuple):
    """Positions (B, Q) in the padded prompt, and which of them are no fillers.

    ``row_of`` (B, V): which of the Q rows belongs to each visual token, where images have rows of their own; None where
    all rows belong to all.
    """

    rows: Tensor
    mask: Tensor
    row_of: Tensor | None = None


def check_queries(queries: Any, named: tuple[str, ...] = NAMED) -> None:
    """Refuse what names no query rows.

    Raises
    ------
    InputError

    Examples
    --------
    >>> check_queries("first")
    Traceback (most recent call last):
    biaslab.errors.InputError: queries must be 'last', 'text', 'null', 'raters', 'generated' or a LongTensor of \
prompt positions, got 'first'
    """
    if not (isinstance(queries, Tensor) or (isinstance(queries, str) and queries in named)):
        words = ", ".join(repr(name) for name in named)
        raise InputError(f"queries must be {words} or a LongTensor of prompt positions, got {queries!r}")
    if isinstance(queries, Tensor) and (queries.dtype != torch.long or queries.ndim not in (1, 2)):
        raise InputError("explicit queries must be a LongTensor of shape (Q,) or (B, Q)")


def check_rows_of_family(queries: Any, family: Family, reader: str = "queries='null'") -> None:
    """Refuse rows that no prompt of a family has: of a two-way prefix none has seen the image alone.

    Raises
    ------
    UnsupportedError
    """
    if isinstance(queries, str) and queries == "null" and family.two_way_prefix:
        raise UnsupportedError(
            f"{reader} reads a row that has not seen the question, and in {family.name} models every token of the "
            "prompt has: choose other rows or another model"
        )


def query_rows(queries: str | Tensor, is_image: Tensor, padding: Tensor | None) -> QueryRows:
    """Find the query rows of a padded prompt that are the same for all its images.

    Parameters
    ----------
    queries : "last", "text", or LongTensor (Q,) or (B, Q)
        As in `biaslab.capture`.
    is_image : Tensor (B, N), bool
        Marks the image tokens.
    padding : Tensor (B, N) or None
        The attention mask: 0 where a prompt is padded.

    Returns
    -------
    QueryRows

    Raises
    ------
    InputError
        Explicit positions outside the prompt, or of another batch.

    Examples
    --------
    >>> is_image = torch.tensor([[False, True, True, False, False]])
    >>> query_rows("last", is_image, None).rows, query_rows("text", is_image, None).rows
    (tensor([[4]]), tensor([[3, 4]]))
    """
    batch, length = is_image.shape
    if isinstance(queries, Tensor):
        if queries.ndim == 2 and queries.shape[0] != batch:
            raise InputError(f"queries of {queries.shape[0]} samples for a batch of {batch}")
        if queries.numel() == 0 or int(queries.min()) < -length or int(queries.max()) >= length:
            raise InputError(f"query positions must lie in -{length} .. {length - 1} of the padded prompt")
        rows = queries.to(is_image.device).remainder(length).expand(batch, -1)
        mask = torch.ones_like(rows, dtype=torch.bool)
        return QueryRows(rows, mask if padding is None else padding.gather(1, rows).bool())
    if queries == "text":
        return QueryRows(*text_after_image(is_image, padding))
    rows = last_token(is_image, padding)
    return QueryRows(rows, torch.ones_like(rows, dtype=torch.bool))


def null_rows(vlm: VLM, ids: Tensor, is_image: Tensor, visual: Tensor) -> QueryRows:
    """Find the first token behind each image; of frames of a video, the one behind the last for all of them.

    Parameters
    ----------
    vlm : VLM
        Whose announced prompts say which image tokens are one image, and whether images are frames.
    ids : (B, N) LongTensor
        Token ids of the forward.
    is_image : (B, N) bool Tensor
    visual : (B, V) LongTensor
        The visual tokens.

    Returns
    -------
    QueryRows
        One row per image of the prompt that has most; ``row_of`` says whose.

    Raises
    ------
    UnsupportedError
        A prompt of several images that nobody announced.
    InputError
        A prompt that ends with an image, or holds none.
    """
    encoded = vlm.prefill.encoded
    if encoded is None or encoded.find(ids) is None:
        return _one_each(is_image, [[n] if n else [] for n in check_single(vlm, is_image)])
    repeats = len(ids) // len(encoded)
    if encoded.frames:
        return _one_each(is_image, [[sum(own)] for own in encoded.placeholders for _ in range(repeats)])
    placeholders = [own for own in encoded.placeholders for _ in range(repeats)]
    rows = first_behind(is_image, placeholders)
    counts = torch.tensor([len(own) for own in placeholders], device=rows.device)
    mask = torch.arange(rows.shape[1], device=rows.device) < counts[:, None]
    row_of = _row_of(encoded, visual.shape[1]).to(rows.device).repeat_interleave(repeats, 0)
    return QueryRows(rows, mask, row_of)


def _one_each(is_image: Tensor, placeholders: list[list[int]]) -> QueryRows:
    rows = first_behind(is_image, placeholders)
    return QueryRows(rows, torch.ones_like(rows, dtype=torch.bool))


def _row_of(encoded: Encoded, width: int) -> Tensor:
    """Tell the number of the image of each visual token within its prompt: (B, V) int64, 0 for fillers."""
    out = torch.zeros(len(encoded), width, dtype=torch.long)
    for owner, place, (first, last) in zip(encoded.owners, encoded.places, encoded.spans, strict=True):
        out[owner, first:last] = place
    return out
