"""One map of an answer: the rows that its tokens were chosen from, weighed by how much each looks at something."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from biaslab.attention.rows import CapturedRows
from biaslab.core.neighbours import neighbours
from biaslab.maps.looking import LOOKS, moran_and_skewness
from biaslab.maps.moments import TINY

if TYPE_CHECKING:
    from biaslab.core.layout import TokenLayout
    from biaslab.models.encoded import Encoded

__all__ = ["ANSWER_TOKENS", "answer_maps", "is_answer", "looking_row"]

ANSWER_TOKENS = 32  # of an answer, at most: a box takes 9 to 30


def is_answer(queries: Any) -> bool:
    """Tell whether these query rows are those of the model's answer."""
    return isinstance(queries, str) and queries == "answer"


def answer_maps(
    rows: CapturedRows, encoded: Encoded, device: torch.device | str | None = None
) -> list[tuple[TokenLayout, Tensor]]:
    """Make of the rows of generated tokens one map per image, layer and head.

    Parameters
    ----------
    rows : CapturedRows
        Of ``capture(vlm, queries="generated")`` around ``vlm.generate(encoded)``.
    encoded : Encoded
    device : torch.device or str, optional
        Where the maps go; by default they stay on the device of the first layer.

    Returns
    -------
    list of (TokenLayout, (L, H, N) float32 Tensor)
        As of `CapturedRows.per_image`, with `looking_row` in the place of the mean over rows.
    """
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    here = rows[rows.layers[0]].values.device
    of_layers = [(rows[layer].values, rows[layer].query_mask) for layer in rows.layers]
    maps = []
    for layout, owner, (first, last) in zip(encoded.layouts, encoded.owners, encoded.spans, strict=True):
        if layout.key not in pairs:
            left, right = neighbours(layout)
            pairs[layout.key] = (torch.from_numpy(left).to(here), torch.from_numpy(right).to(here))
        each = [  # layer by layer: in float32 the rows of all at once would be half a GB of an image of 3,328 tokens
            looking_row(own[owner, :, :, first:last].to(here), there[owner], *pairs[layout.key])
            for own, there in of_layers
        ]
        maps.append((layout, torch.stack(each)))
    return maps if device is None else [(layout, own.to(device)) for layout, own in maps]


def looking_row(values: Tensor, there: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Combine attention rows to one: their weighted mean logarithm.

    An answer has rows of all kinds: the one that a coordinate is chosen from looks at an edge of the object, the one of
    a bracket at nothing. Of each row, L is the logarithm of its attention, centred over the image; it weighs ``(Moran *
    skewness)**2`` of L, negative factors counting as 0: blobs instead of specks, a few tokens that stick out, upwards
    (`biaslab.profiles.head_quality` rates heads alike). A row that gives the image less than 1 % of its
    attention weighs nothing; where no row weighs anything, all weigh alike.

    Parameters
    ----------
    values : (..., T, N) Tensor
        Attention of T rows to the N tokens of an image.
    there : (T,) bool Tensor
        False for fillers.
    left, right : (P,) int64 Tensor
        Pairs of tokens that touch.

    Returns
    -------
    (..., N) float32 Tensor
        Its sum is the weighted mean of the rows' sums.

    Examples
    --------
    >>> blob = torch.tensor([[0.05, 0.05, 0.05, 0.05, 0.05, 0.35, 0.35, 0.05]])
    >>> even = torch.full((1, 8), 1 / 8)
    >>> side = torch.arange(7)
    >>> both = looking_row(torch.cat([blob, even]), torch.tensor([True, True]), side, side + 1)
    >>> torch.allclose(both, blob[0], atol=1e-6)
    True
    """
    values = values.float()
    log = (values + TINY).log()
    log = log - log.mean(-1, keepdim=True)
    moran, skewness = moran_and_skewness(log, left, right)
    mass, counted = values.sum(-1), there.to(values.device)
    weight = (moran.clamp(0, 1) * skewness.clamp(min=0)) ** 2 * (mass >= LOOKS) * counted
    total = weight.sum(-1, keepdim=True)
    alike = counted.float() / counted.sum().clamp(min=1)
    weight = torch.where(total > 0, weight / total.clamp(min=torch.finfo(torch.float32).tiny), alike)
    combined = (weight[..., None] * log).sum(-2).softmax(-1)
    return combined * (weight * mass).sum(-1, keepdim=True)
