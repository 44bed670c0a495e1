"""From a prefill to what a method looks at, and from its choices back to the rows of the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from biaslab.pruning.base import Method, Selection, TokenContext
from biaslab.pruning.batch import TokenBatch
from biaslab.pruning.engine.prompt import Prompt
from biaslab.pruning.engine.sources import Sources

__all__ = ["Owner", "by_row", "kept_columns", "token_batch"]

Owner = tuple[int, int]  # (row, image of that row)


def token_batch(
    prompt: Prompt,
    method: Method,
    layer: int,
    hidden: Tensor,
    attention: Mapping[int, Tensor],
    sources: Sources | None = None,
) -> tuple[TokenBatch, list[Owner]]:
    """Make one context per image that has tokens; copies of a row (beam search) count once.

    Parameters
    ----------
    prompt : Prompt
        Of B rows.
    method : Method
        Decides whether features are gathered, and gives the budgets.
    layer : int
        K.
    hidden : (B, N, D) Tensor
        Hidden states entering layer K.
    attention : mapping of int to (B, H, Q, V) Tensor
        Rows of the layer that is read and of others below it.
    sources : Sources, optional
        What else the method reads.

    Returns
    -------
    TokenBatch
        On the device of ``hidden``; its contexts are views.
    list of (int, int)
        Row and image of each context.
    """
    step, device, width = prompt.repeats, hidden.device, prompt.visual.shape[1]
    stack = None
    if "features" in method.needs:
        visual = prompt.visual[::step].to(device)
        # one gather for all rows; what stands behind the last token of a shorter row belongs to nobody
        stack = hidden[::step].gather(1, visual[..., None].expand(-1, -1, hidden.shape[2])).flatten(0, 1)
    words = None
    if "text" in method.needs and prompt.text is not None:
        text = prompt.text[::step].to(device)
        words = hidden[::step].gather(1, text[..., None].expand(-1, -1, hidden.shape[2]))
    moved = {index: rows.to(device) for index, rows in attention.items()}
    main = method.layer_read(layer)
    images, owners, starts = [], [], []
    for row in range(0, len(prompt), step):
        for i, image in enumerate(prompt.images[row]):
            if image.n == 0 or image.layout is None:
                continue
            rows, others = _rows_of(prompt, moved, row, i)
            start = row // step * width + image.first
            features = None if stack is None else stack[start : start + image.n]
            keep = min(method.budget_of(image.total), image.n)
            deep = rows.pop(main, None)
            said = None if words is None else words[row // step, : prompt.text_counts[row]]
            further = {kind: each[main] for kind, each in others.items()}
            more = {} if sources is None else sources.of_image(prompt, row, i, device)
            images.append(
                TokenContext(
                    image.layout, keep, image.seed, layer, deep, features, rows, said,
                    survivors=image.survivors, original=image.whole, other_rows=further, prompt=row, **more,
                )
            )  # fmt: skip
            owners.append((row, i))
            starts.append(start)
    return TokenBatch(images, stack, starts), owners


def _rows_of(
    prompt: Prompt, attention: Mapping[int, Tensor], row: int, image: int
) -> tuple[dict[int, Tensor], dict[Any, dict[int, Tensor]]]:
    """Cut out what an image is attended by: layer -> (H, Q, N) of the first kind of rows, and of each further kind."""
    own = slice(prompt.images[row][image].first, prompt.images[row][image].last)
    kinds = {part.kind: {layer: x[row, :, part.of(row, image), own] for layer, x in attention.items()}
             for part in prompt.kinds}  # fmt: skip
    first = kinds.pop(prompt.kinds[0].kind) if prompt.kinds else {}
    return first, kinds


def by_row(prompt: Prompt, owners: Sequence[Owner], chosen: Sequence[Selection]) -> list[list[Selection]]:
    """Put the selections back: one list per row that is no copy, an empty selection for an image without tokens."""
    found = dict(zip(owners, chosen, strict=True))
    nothing = torch.empty(0, dtype=torch.long)
    return [
        [found.get((row, i), Selection(nothing)) for i in range(len(prompt.images[row]))]
        for row in range(0, len(prompt), prompt.repeats)
    ]


def kept_columns(prompt: Prompt, rows: Sequence[Sequence[Selection]]) -> list[Tensor]:
    """List the columns of ``Prompt.visual`` that each row keeps, copies left out; ``rows`` is of `by_row`."""
    images = prompt.images[:: prompt.repeats]
    return [
        torch.cat([s.indices + image.first for s, image in zip(row, own, strict=True)])
        for row, own in zip(rows, images, strict=True)
    ]
