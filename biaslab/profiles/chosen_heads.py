"""Attention heads chosen by their quality, and what each weighs among them."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from biaslab.errors import InputError

__all__ = ["SHARE", "Head", "choose_heads", "head_weights"]

SHARE = 0.25  # of the best quality, from which on a head is chosen


class Head(NamedTuple):
    """An attention head, and its weight among others."""

    layer: int
    head: int
    weight: float


def choose_heads(quality: pd.DataFrame, *, share: float = SHARE) -> list[Head]:
    """Take the heads whose quality is at least ``share`` of the best one's; they weigh as their quality.

    Parameters
    ----------
    quality : DataFrame
        Of :func:`biaslab.profiles.head_quality`.
    share : float
        In (0, 1].

    Returns
    -------
    list of Head
        The best first; weights sum to 1.

    Raises
    ------
    InputError
        No head looks at anything.
    """
    best = float(quality["quality"].max())
    if not best > 0:
        raise InputError(
            "no head of these layers looks at anything that position does not explain: collect more layers or images"
        )
    chosen = quality[quality["quality"] >= share * best].sort_values("quality", ascending=False, kind="stable")
    total = float(chosen["quality"].sum())
    return [Head(int(r.layer), int(r.head), float(r.quality) / total) for r in chosen.itertuples()]  # type: ignore[arg-type]


def head_weights(quality: pd.DataFrame, layer: int) -> Tensor:
    """Weigh the heads of a layer by their quality: (heads,) float32, 0 for those that are not chosen.

    Raises
    ------
    InputError
        Their quality was not measured, or none looks at anything.
    """
    own = quality[quality["layer"] == layer] if len(quality) else quality
    if not len(own):
        raise InputError(
            "this profile does not tell the quality of heads: fit one with `biaslab fit-bias --heads all --maps "
            "FOLDER`, or profile.rate_heads(maps)"
        )
    if not own["quality"].max() > 0:
        raise InputError(f"no head of layer {layer} looks at anything that position does not explain: take another K")
    weights = torch.zeros(int(own["head"].max()) + 1)
    for head in choose_heads(own):
        weights[head.head] = head.weight
    return weights
