"""The short sequence of a pruned prefill, and how to bring every tensor to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from biaslab.attention.hook import is_flash
from biaslab.errors import UnsupportedError
from biaslab.pruning.base import Selection
from biaslab.pruning.engine.prompt import Prompt

__all__ = ["PrunedIndex", "make_index", "remapped", "short_lengths", "stacked", "whole"]


@dataclass(frozen=True, eq=False)
class PrunedIndex:
    """Which M of the N prompt positions are left, for every row of the batch.

    Attributes
    ----------
    length : int
        N.
    keep : (B, M) int64 Tensor
        Positions left, ascending: all text, the kept visual tokens, and fillers that give all rows the same length.
    pad : (B, M) bool Tensor or None
        True for fillers, at which no other token may look; None when there are none. The prompt's own padding is not
        among them: the model's own mask hides it already.
    n_dropped_before : (B, M) int64 Tensor
        Visual tokens that were dropped before each entry.
    n_dropped : (B, 1) int64 Tensor
        Visual tokens that were dropped in all.
    places : (B, M) int64 Tensor or None
        Of which prompt position each entry takes the position id at the prefill (:func:`remapped`); None for its own.
    """

    length: int
    keep: Tensor
    pad: Tensor | None
    n_dropped_before: Tensor
    n_dropped: Tensor
    places: Tensor | None = None
    _moved: dict[torch.device, PrunedIndex] = field(default_factory=dict, repr=False)

    @property
    def kept(self) -> int:
        """M."""
        return self.keep.shape[1]

    def to(self, device: torch.device) -> PrunedIndex:
        """Copy the index to another device; moved once."""
        if self.keep.device == device:
            return self
        if device not in self._moved:
            tensors = {
                name: None if (held := getattr(self, name)) is None else held.to(device)
                for name in ("keep", "pad", "n_dropped_before", "n_dropped", "places")
            }
            self._moved[device] = PrunedIndex(self.length, **tensors)  # type: ignore[arg-type]
        return self._moved[device]

    def rows(self, index: Tensor) -> PrunedIndex:
        """Pick rows of the batch, (R,) int64: as often as they are named, in that order."""
        pad, places = (None if held is None else held[index] for held in (self.pad, self.places))
        before = self.n_dropped_before[index]
        return PrunedIndex(self.length, self.keep[index], pad, before, self.n_dropped[index], places)

    def within(self, earlier: PrunedIndex) -> PrunedIndex:
        """Of an index into the short sequence of an earlier cut, make the one into what that was cut from."""
        own = self.to(earlier.keep.device)
        return PrunedIndex(
            length=earlier.length,
            keep=earlier.keep.gather(1, own.keep),
            pad=own.pad,
            n_dropped_before=earlier.n_dropped_before.gather(1, own.keep) + own.n_dropped_before,
            n_dropped=earlier.n_dropped + own.n_dropped,
        )

    def gather(self, x: Tensor, dim: int) -> Tensor:
        """Gather the entries left of ``x`` along ``dim``; the batch (or 1) is the axis before it, or axis 0."""
        return _gather(x, self.to(x.device).keep, dim)

    def placed(self, x: Tensor, dim: int) -> Tensor:
        """Gather what belongs to the positions of the entries left (ids, rotary tables), as `gather`."""
        own = self.to(x.device)
        return _gather(x, own.keep if own.places is None else own.places, dim)

    def mask(self, mask: Tensor | None, prefill: bool, later: int | None = None) -> Tensor | None:
        """Bring an attention mask to the short sequence, its columns continued by whatever came after the prompt.

        Parameters
        ----------
        mask : Tensor or None
            (B, T) padding, 1 = real; (B or 1, 1, Q, T) bool, True = look; or the same additive.
        prefill : bool
            Whether the query rows are those of the prompt, to be cut as well.
        later : int, optional
            Columns behind those of the prompt; where it is known, a mask of another width is refused.

        Returns
        -------
        Tensor or None

        Raises
        ------
        UnsupportedError
            A mask of another kind or width.
        """
        if mask is None:
            return None
        if not isinstance(mask, Tensor) or mask.ndim not in (2, 4):
            raise UnsupportedError(f"cannot prune under an attention mask of type {type(mask).__name__}")
        width = mask.shape[-1]
        if width < self.length or (later is not None and width != self.length + later):
            wanted = f"{self.length} + {later or 0} tokens"
            raise UnsupportedError(f"cannot prune under an attention mask of {width} columns for {wanted}")
        index = self.to(mask.device)
        after = torch.arange(self.length, width, device=mask.device).expand(len(index.keep), -1)
        if prefill and mask.ndim == 4:
            mask = _gather(mask, index.keep, 2)
        mask = _gather(mask, torch.cat([index.keep, after], 1), mask.ndim - 1)
        return index.hide_fillers(mask, prefill)

    def hide_fillers(self, mask: Tensor, prefill: bool) -> Tensor:
        """Close the fillers' columns of a mask over the short sequence."""
        if self.pad is None:
            return mask
        hidden = torch.zeros(len(mask), mask.shape[-1], dtype=torch.bool, device=mask.device)
        hidden[:, : self.kept] = self.pad
        if mask.ndim == 2:
            return mask.masked_fill(hidden, 0)
        hidden = hidden[:, None, None]
        if prefill:  # a filler may see itself, or its own row would be empty and its output undefined
            hidden = hidden & ~torch.eye(self.kept, dtype=torch.bool, device=mask.device)
        closed = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        return mask.masked_fill(hidden, closed)

    def build_mask(self, hidden: Tensor, implementation: str, past: int) -> Tensor | None:
        """Build the mask for a forward that came without one: None unless there are fillers to hide.

        Parameters
        ----------
        hidden : (B, Q, D) Tensor
            Hidden states of the forward.
        implementation : str
            Name of the attention implementation; decides the form of the mask.
        past : int
            Entries of the short sequence in the cache, 0 at the prefill.
        """
        if self.pad is None:
            return None
        index = self.to(hidden.device)
        batch, n_query = hidden.shape[:2]
        n_key = past + n_query
        if is_flash(implementation):
            return index.hide_fillers(torch.ones(batch, n_key, dtype=torch.long, device=hidden.device), past == 0)
        key = torch.arange(n_key, device=hidden.device)
        look = (key[None] <= key[past:, None]).expand(batch, 1, -1, -1)
        look = index.hide_fillers(look, past == 0)
        if "eager" not in implementation:
            return look
        return torch.zeros_like(look, dtype=hidden.dtype).masked_fill(~look, torch.finfo(hidden.dtype).min)


def make_index(prompt: Prompt, kept: list[Tensor]) -> PrunedIndex:
    """Drop what was not selected, at equal length for all rows.

    Parameters
    ----------
    prompt : Prompt
    kept : list of Tensor
        Each row's columns of ``prompt.visual`` that stay.

    Returns
    -------
    PrunedIndex

    Notes
    -----
    Text and selected tokens always stay. Rows that would be shorter than the longest are filled up, first
    with their own padding, which is hidden anyway, then with dropped tokens that are marked as fillers.
    Padding that all rows share stays, so that keeping everything changes nothing.
    """
    device, n = prompt.visual.device, prompt.length
    # 0 must stay, 1 padding, 2 dropped
    rank = torch.zeros(len(prompt), n, dtype=torch.uint8, device=device)
    if prompt.padding is not None:
        rank += prompt.padding
    for row, columns in enumerate(kept):
        visual = prompt.visual[row, : prompt.counts[row]]
        rank[row, visual] = 2
        rank[row, visual[columns.to(device)]] = 0
    is_dropped = rank == 2
    if prompt.fillers is not None:  # of an earlier cut: they were dropped there
        rank.masked_fill_(prompt.fillers, 2)
    short, unwanted = short_lengths(prompt, kept)
    keep = rank.argsort(dim=1, stable=True)[:, :short].sort(1).values
    fillers = any(n - d < short for d in unwanted)
    kept_rank = rank.gather(1, keep)
    return PrunedIndex(
        length=n,
        keep=keep,
        pad=kept_rank == 2 if fillers else None,
        n_dropped_before=is_dropped.cumsum(1).gather(1, keep),
        n_dropped=is_dropped.sum(1, keepdim=True),
    )


def remapped(index: PrunedIndex, prompt: Prompt, chosen: Sequence[Sequence[Selection]]) -> PrunedIndex:
    """Stretch the positions of the kept tokens of each image over all that the image had.

    Of n tokens the j-th of m kept ones takes the position of token ``round(j (n - 1) / (m - 1))``, halves rounded up;
    a single one keeps its own.

    Parameters
    ----------
    index : PrunedIndex
        Of the choice.
    prompt : Prompt
    chosen : sequence of sequence of Selection
        Of the images of each row that is no copy.

    Returns
    -------
    PrunedIndex
        The same, with ``places``.
    """
    device, visual = index.keep.device, prompt.visual.to(index.keep.device)
    places = torch.arange(prompt.length, device=device).repeat(len(prompt), 1)
    for first, row in zip(range(0, len(prompt), prompt.repeats), chosen, strict=True):
        for image, selection in zip(prompt.images[first], row, strict=True):
            gaps = len(selection.indices) - 1
            if gaps < 1:
                continue
            steps = (2 * torch.arange(gaps + 1, device=device) * (image.n - 1) + gaps) // (2 * gaps)
            own = visual[first : first + prompt.repeats, image.first : image.last]
            rows = torch.arange(first, first + prompt.repeats, device=device)[:, None]
            places[rows, own[:, selection.indices.to(device)]] = own[:, steps]
    return replace(index, places=places.gather(1, index.keep), _moved={})


def short_lengths(prompt: Prompt, kept: list[Tensor]) -> tuple[int, list[int]]:
    """Tell how long the short sequence is, and how many tokens of each row are not wanted in it, padding apart."""
    fillers = prompt.filler_counts or [0] * len(prompt)
    each = zip(prompt.counts, kept, fillers, strict=True)
    unwanted = [n_visual - len(columns) + f for n_visual, columns, f in each]
    spare = [p - min(prompt.pads) for p in prompt.pads]
    return max(prompt.length - d - s for d, s in zip(unwanted, spare, strict=True)), unwanted


def whole(rows: int, length: int, device: torch.device) -> PrunedIndex:
    """Make the index that drops nothing of ``rows`` prompts of ``length`` tokens."""
    keep = torch.arange(length, device=device).expand(rows, -1)
    none = torch.zeros_like(keep)
    return PrunedIndex(length, keep, None, none, none[:, :1])


def stacked(parts: Sequence[PrunedIndex]) -> PrunedIndex:
    """Put the rows of several indices under each other; shorter ones get fillers in front.

    Parameters
    ----------
    parts : sequence of PrunedIndex
        Of prompts of one length.

    Returns
    -------
    PrunedIndex
        For decoding: without ``places``, which only a prefill looks at.
    """
    longest = max(part.kept for part in parts)

    def padded(x: Tensor, value: Any) -> Tensor:
        return torch.nn.functional.pad(x, (longest - x.shape[1], 0), value=value)

    pads = [part.keep.new_zeros(part.keep.shape, dtype=torch.bool) if part.pad is None else part.pad for part in parts]
    fillers = any(part.pad is not None or part.kept < longest for part in parts)
    return PrunedIndex(
        length=parts[0].length,
        keep=torch.cat([padded(part.keep, 0) for part in parts]),
        pad=torch.cat([padded(pad, True) for pad in pads]) if fillers else None,
        n_dropped_before=torch.cat([padded(part.n_dropped_before, 0) for part in parts]),
        n_dropped=torch.cat([part.n_dropped for part in parts]),
    )


def _gather(x: Tensor, index: Tensor, dim: int) -> Tensor:
    """Gather ``x`` at ``index`` (B, M) along ``dim``; the batch is axis 0, or 1 for position ids (axes, B, N)."""
    batch_axis = 1 if x.ndim == 3 and dim == 2 else 0
    shape = list(x.shape)
    shape[batch_axis] = len(index)
    x = x.expand(shape)
    view, shape = [1] * x.ndim, list(x.shape)
    view[batch_axis], view[dim] = index.shape
    shape[dim] = index.shape[1]
    return x.gather(dim, index.view(view).expand(shape))
