"""One cut of a prefill, and what is known of the prompt behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from biaslab.core.layout import TokenLayout
from biaslab.core.sub_layout import sub_layout
from biaslab.pruning.base import Selection
from biaslab.pruning.batch import padded
from biaslab.pruning.engine.prompt import Prompt, PromptImage
from biaslab.pruning.engine.pruned_index import PrunedIndex, make_index, remapped, short_lengths

__all__ = ["Cut", "gathered", "in_original", "make_cut", "shortened", "with_layouts"]


@dataclass(frozen=True, eq=False)
class Cut:
    """Where tokens have been dropped, and how every tensor gets to what is left.

    Attributes
    ----------
    layer : int
        K: layers from it on see what is left, until the next cut.
    index : PrunedIndex
        Into what the decoder hands its layers: the whole prompt, or what a cut before the decoder has left of it.
    local : PrunedIndex
        Into the sequence that the layers just below see.
    positions : (B, M) int64 Tensor
        Positions in the whole prompt.
    """

    layer: int
    index: PrunedIndex
    local: PrunedIndex
    positions: Tensor

    def rows(self, index: Tensor) -> Cut:
        """Pick rows of the batch, (R,) int64."""
        index = index.to(self.positions.device)
        return Cut(self.layer, self.index.rows(index), self.local.rows(index), self.positions[index])


def make_cut(
    layer: int,
    prompt: Prompt,
    kept: list[Tensor],
    before: Cut | None,
    remap: Sequence[Sequence[Selection]] | None = None,
) -> Cut:
    """Drop what was not selected.

    Parameters
    ----------
    layer : int
        K.
    prompt : Prompt
        As the layers just below see it.
    kept : list of Tensor
        Each row's columns of ``prompt.visual`` that stay.
    before : Cut, optional
        The one before.
    remap : sequence of sequence of Selection, optional
        The choice, where positions are to be stretched over the image; of the first cut alone.

    Returns
    -------
    Cut
    """
    local = make_index(prompt, kept)
    if remap is not None:
        local = remapped(local, prompt, remap)
    if before is None:
        return Cut(layer, local, local, local.keep)
    index = local if before.layer == 0 else local.within(before.index)
    return Cut(layer, index, local, before.positions.gather(1, local.keep))


def shortened(prompt: Prompt, chosen: Sequence[Sequence[Selection]], kept: list[Tensor], cut: Cut) -> Prompt:
    """Tell what the layers behind a cut see of a prompt.

    Parameters
    ----------
    prompt : Prompt
        As the layers just below the cut see it.
    chosen : sequence of sequence of Selection
        What stays of the images of each row that is no copy.
    kept : list of Tensor
        The same as columns of ``prompt.visual``, for every row.
    cut : Cut
        Made of these.

    Returns
    -------
    Prompt
        Positions are those in the short sequence. The layouts of its images are missing (`with_layouts`).
    """
    device, index = prompt.visual.device, cut.local
    length, unwanted = short_lengths(prompt, kept)
    # what is wanted of each row; its padding comes next, then what fills the row up
    wanted = [prompt.length - n - p for n, p in zip(unwanted, prompt.pads, strict=True)]
    pads = [min(p, length - n) for n, p in zip(wanted, prompt.pads, strict=True)]
    columns = padded([own.to(device) for own in kept], 0)
    step = prompt.repeats
    images = [_left(row, own) for row, own in zip(prompt.images[::step], chosen, strict=True)]
    return replace(
        prompt,
        length=length,
        visual=_places(index, prompt.visual.gather(1, columns)),
        counts=[len(own) for own in kept],
        padding=None if prompt.padding is None else prompt.padding.gather(1, index.keep),
        pads=pads,
        rows=None if prompt.rows is None else _places(index, prompt.rows),
        text=None if prompt.text is None else _places(index, prompt.text),
        images=[row for row in images for _ in range(step)],
        fillers=index.pad,
        filler_counts=[length - n - p for n, p in zip(wanted, pads, strict=True)],
    )


def gathered(rows: Tensor, kept: list[Tensor]) -> Tensor:
    """Gather attention (B, H, Q, V) to the visual tokens that a cut has left, (B, H, Q, V'); ``kept`` as above."""
    columns = padded([own.to(rows.device) for own in kept], 0)
    return rows.gather(3, columns[:, None, None, :].expand(-1, *rows.shape[1:3], -1))


def with_layouts(prompt: Prompt, survivors: np.ndarray | None) -> Prompt:
    """Give the images behind a cut their layouts.

    Parameters
    ----------
    prompt : Prompt
    survivors : ndarray, optional
        Of all images that are no copies, one after the other, on the host; without them nobody looks at the layouts,
        which then only count.

    Returns
    -------
    Prompt
    """
    first, rows = 0, []
    for row in prompt.images[:: prompt.repeats]:
        images = []
        for image in row:
            own = None if survivors is None else survivors[first : first + image.n]
            first += image.n
            images.append(replace(image, layout=_layout(image, own)))
        rows.append(images)
    return replace(prompt, images=[row for row in rows for _ in range(prompt.repeats)])


def in_original(image: PromptImage, chosen: Selection) -> Selection:
    """Bring a selection among survivors to the positions among all tokens of the image.

    Tokens that an earlier stage has dropped have no score: they rank last.
    """
    kept = image.survivors
    if kept is None:
        return chosen
    kept = kept.to(chosen.indices.device)
    scores = chosen.scores
    if scores is not None:
        scores = scores.new_full((image.total,), -torch.inf).scatter(0, kept.to(scores.device), scores)
    merge = chosen.merge
    if merge is not None:
        merge = merge.new_zeros(len(merge), image.total).index_copy(1, kept.to(merge.device), merge)
    return Selection(kept[chosen.indices], scores, _positions(chosen.info, kept), merge)


def _positions(info: Mapping, kept: Tensor) -> dict:
    """Translate the positions that a method reports."""
    named = [name for name, value in info.items() if name.endswith("_indices") and isinstance(value, (list, tuple))]
    if not named:
        return dict(info)
    there = kept.tolist()
    return {**info, **{name: [there[i] for i in info[name]] for name in named}}


def _left(row: Sequence[PromptImage], chosen: Sequence[Selection]) -> list[PromptImage]:
    """List the images of a row with what is left of each."""
    first, images = 0, []
    for image, selection in zip(row, chosen, strict=True):
        own = selection.indices
        own = own if image.survivors is None else image.survivors.to(own.device)[own]
        last = first + len(own)
        whole = image.layout if image.whole is None else image.whole
        images.append(replace(image, layout=None, first=first, last=last, whole=whole, survivors=own))
        first = last
    return images


def _places(index: PrunedIndex, positions: Tensor) -> Tensor:
    """Find positions (B, Q) that are left in the short sequence; what is not (fillers behind a row) gets any place."""
    return torch.searchsorted(index.keep, positions.contiguous()).clamp_max(index.kept - 1)


def _layout(image: PromptImage, survivors: np.ndarray | None) -> TokenLayout | None:
    if image.n == 0 or image.whole is None:
        return None
    if survivors is None:
        return TokenLayout.raster(1, image.n, size=(image.n, 1), family=image.whole.family)
    return sub_layout(image.whole, survivors)
