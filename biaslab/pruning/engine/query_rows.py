"""Which rows of a prompt a method reads: the queries whose attention is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from biaslab.errors import InputError
from biaslab.models.encoded import first_behind, last_token, text_after_image
from biaslab.pruning.base import Method

__all__ = ["RowKind", "kinds_of", "query_rows"]


@dataclass(frozen=True)
class RowKind:
    """Where the rows of one kind stand among all query rows of a prompt.

    Attributes
    ----------
    kind : str or tuple of int
        As in ``AttentionMethod.queries``.
    start : int
        First column of ``Prompt.rows``.
    counts : list of int
        Rows of each prompt; what stands behind them is filling.
    per_image : bool
        Whether image i of a prompt reads row i alone.

    Examples
    --------
    >>> RowKind("null", 1, [2], per_image=True).of(0, image=1)
    slice(2, 3, None)
    """

    kind: Any
    start: int
    counts: list[int]
    per_image: bool = False

    def of(self, row: int, image: int) -> slice:
        """Tell which columns an image of a prompt reads."""
        first = self.start + (image if self.per_image else 0)
        return slice(first, first + (1 if self.per_image else self.counts[row]))


def kinds_of(method: Method) -> tuple[Any, ...]:
    """List the kinds of query rows that a method reads, that of `TokenContext.attention` first; none for many."""
    return tuple(getattr(method, "query_kinds", ())) if "attention" in method.needs else ()


def query_rows(
    kinds: Sequence[Any], is_image: Tensor, real: Tensor | None, placeholders: Sequence[Sequence[int]]
) -> tuple[Tensor | None, list[RowKind]]:
    """Find the absolute positions of the query rows of all kinds, one kind after the other.

    Parameters
    ----------
    kinds : sequence of str or tuple of int
        "last", "text", "null", "raters" (the rows that these are chosen from: those of "text"), or positions counted
        within each prompt.
    is_image : (B, N) bool Tensor
        Image placeholders.
    real : (B, N) bool Tensor or None
        False for padding.
    placeholders : sequence of sequence of int
        Image placeholders of every image of each prompt.

    Returns
    -------
    rows : (B, Q) int64 Tensor or None
        None without kinds.
    parts : list of RowKind

    Raises
    ------
    InputError
        A prompt that has no such rows.

    Examples
    --------
    >>> is_image = torch.tensor([[False, True, True, False, False, False]])
    >>> rows, parts = query_rows(["last", "null"], is_image, None, [[2]])
    >>> rows, [part.kind for part in parts]
    (tensor([[5, 3]]), ['last', 'null'])
    """
    found: list[Tensor] = []
    parts: list[RowKind] = []
    for kind in kinds:
        rows, counts = _of_kind(kind, is_image, real, placeholders)
        parts.append(RowKind(kind, sum(x.shape[1] for x in found), counts, per_image=kind == "null"))
        found.append(rows)
    return (torch.cat(found, 1) if found else None), parts


def _of_kind(
    kind: Any, is_image: Tensor, real: Tensor | None, placeholders: Sequence[Sequence[int]]
) -> tuple[Tensor, list[int]]:
    """Find the rows (B, Q) of one kind, and how many of each prompt are real."""
    batch = len(is_image)
    if kind == "null":
        return first_behind(is_image, placeholders), [len(own) for own in placeholders]
    if kind in ("text", "raters"):
        rows, mask = text_after_image(is_image, real)
        counts = mask.sum(1).tolist()
        if not all(counts):
            raise InputError(f"queries={kind!r} needs text after the image in every prompt: put the image first")
        # fillers repeat a real row: the row of a padding token is undefined
        return torch.where(mask, rows, rows[:, :1]), counts
    everywhere = torch.ones_like(is_image) if real is None else real
    first = everywhere.long().argmax(1, keepdim=True)
    last = last_token(is_image, real)
    if kind == "last":
        return last, [1] * batch
    # counted within each prompt, not within the padded batch: what a row gives must not depend on its batch
    # mates
    positions = torch.tensor(kind, device=is_image.device)
    rows = torch.where(positions < 0, last + 1 + positions, first + positions)
    if bool(((rows < first) | (rows > last)).any()):
        raise InputError(f"queries {kind} lie outside a prompt of the batch: choose positions all prompts have")
    return rows, [len(kind)] * batch
