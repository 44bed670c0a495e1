"""Choosing among some of an image's tokens: what a method sees of them, and its choice among all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from biaslab.core.sub_layout import sub_layout
from biaslab.pruning.algorithms.transfer import upload
from biaslab.pruning.base import Method, Selection, TokenContext
from biaslab.pruning.context import Rotary

__all__ = ["Part", "select_parts", "subset"]

#: field of a context -> axis of the visual tokens
_AXES = {"attention": -1, "features": 0, "keys": 1, "values": 1, "embeddings": 0}


@dataclass(frozen=True, eq=False)
class Part:
    """Some tokens of an image, and how many of them are to be kept.

    Attributes
    ----------
    image : int
        Number of the image in the batch.
    where : (M,) int ndarray
        Ascending positions among its tokens.
    n : int
        Tokens to keep, 1 .. M.
    """

    image: int
    where: np.ndarray
    n: int


def subset(ctx: TokenContext, where: np.ndarray, budget: int) -> TokenContext:
    """Let a method see some of an image's tokens, as it sees what an earlier stage has left.

    Parameters
    ----------
    ctx : TokenContext
    where : (M,) int ndarray
        Ascending positions among its N tokens.
    budget : int

    Returns
    -------
    TokenContext
        Of M tokens; of all of them the context itself, at that budget.

    Examples
    --------
    >>> from biaslab.core.layout import TokenLayout
    >>> layout = TokenLayout.raster(1, 3, size=(3, 1), family="toy")
    >>> some = subset(TokenContext(layout, 2, features=torch.tensor([[5.0], [6.0], [7.0]])), np.array([0, 2]), 1)
    >>> some.features.flatten().tolist(), some.survivors.tolist(), some.layout.n
    ([5.0, 7.0], [0, 2], 2)
    """
    if len(where) == ctx.n:
        return replace(ctx, budget=budget)
    at = upload(np.ascontiguousarray(where, dtype=np.int64), ctx.device)

    def cut(tensor: Tensor, axis: int) -> Tensor:
        return tensor.index_select(axis, at.to(tensor.device))

    fields: dict[str, Any] = {
        name: cut(tensor, axis) for name, axis in _AXES.items() if (tensor := getattr(ctx, name)) is not None
    }
    if ctx.rotary is not None:
        fields["rotary"] = Rotary(ctx.rotary.theta, cut(ctx.rotary.positions, 1))
    if ctx.vision is not None:
        fields["vision"] = ctx.vision.at(at)
    return replace(
        ctx,
        layout=sub_layout(ctx.layout, where),
        budget=budget,
        earlier={index: cut(rows, -1) for index, rows in ctx.earlier.items()},
        other_rows={kind: cut(rows, -1) for kind, rows in ctx.other_rows.items()},
        survivors=at if ctx.survivors is None else ctx.survivors[at.to(ctx.survivors.device)],
        original=ctx.whole_layout,
        **fields,
    )


def select_parts(method: Method, images: Sequence[TokenContext], parts: Sequence[Part]) -> list[Selection]:
    """Let a method choose among parts of images, all at once.

    Parameters
    ----------
    method : Method
    images : sequence of TokenContext
    parts : sequence of Part

    Returns
    -------
    list of Selection
        Of each part; indices and scores are of all tokens of its image, tokens outside the part at -inf.
    """
    chosen = method.select_batch([subset(images[part.image], part.where, part.n) for part in parts])
    out = []
    for part, own in zip(parts, chosen, strict=True):
        n = images[part.image].n
        if len(part.where) == n:
            out.append(own)
            continue
        at = upload(np.ascontiguousarray(part.where, dtype=np.int64), own.indices.device)
        scores = own.scores
        if scores is not None:
            scores = scores.new_full((n,), -torch.inf).index_copy(0, at.to(scores.device), scores)
        out.append(Selection(at[own.indices], scores, _named(own.info, part.where)))
    return out


def _named(info: dict[str, Any], where: np.ndarray) -> dict[str, Any]:
    """Translate the positions that a method reports."""
    places = {name: value for name, value in info.items() if name.endswith("_indices") and isinstance(value, list)}
    return {**info, **{name: [int(where[i]) for i in value] for name, value in places.items()}}
