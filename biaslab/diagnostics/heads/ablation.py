"""Heads rated by ablation: what the model's own answer loses when a head says nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from biaslab._util.progress import progress_bar
from biaslab.diagnostics.heads.own_answers import OwnAnswers, head_width, output_projection
from biaslab.diagnostics.heads.ratings import HeadRatings, ratings_of

if TYPE_CHECKING:
    from biaslab.models.encoded import Encoded
    from biaslab.models.vlm import VLM

__all__ = ["by_ablation", "silenced"]


@contextmanager
def silenced(vlm: VLM, layer: int, head: int) -> Iterator[None]:
    """Let a head say nothing inside the block: its part of the output projection's input is 0.

    Parameters
    ----------
    vlm : VLM
    layer, head : int

    Raises
    ------
    UnsupportedError
        A model whose output projection is not found.
    """
    projection = output_projection(vlm, layer)
    width = head_width(vlm, projection)

    def silence(module: Any, args: tuple) -> tuple:
        heads = args[0].clone()
        heads[..., head * width : (head + 1) * width] = 0
        return (heads, *args[1:])

    handle = projection.register_forward_pre_hook(silence)
    try:
        yield
    finally:
        handle.remove()


def by_ablation(
    vlm: VLM, batches: Iterable[Encoded], layers: Sequence[int], groups: np.ndarray, *, progress: bool = True
) -> HeadRatings:
    """Rate heads by the rise of the cross entropy of the model's own answer when each in turn says nothing.

    One forward per batch and head, and one more; the vision tower runs once per batch.

    Parameters
    ----------
    vlm : VLM
    batches : iterable of Encoded
        Of the images, each with its question.
    layers : sequence of int
        Layers whose heads are rated.
    groups : (n,) int array
        Of :func:`~biaslab.diagnostics.heads.ratings.groups_of`.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    HeadRatings
        In nats per token of the answer.

    Raises
    ------
    UnsupportedError
        A model whose output projections are not found.
    """
    config: Any = vlm.decoder.config
    n_heads = int(config.num_attention_heads)
    for layer in layers:
        output_projection(vlm, layer)  # refuses before any work
    rows = []
    with progress_bar("ablate", total=len(groups), show=progress) as advance:
        for encoded in batches:
            answers = OwnAnswers.of(vlm, vlm.vision(encoded))
            with torch.no_grad():
                base = answers.loss(vlm)
                each = torch.empty(len(base), len(layers), n_heads, device=base.device)
                for at, layer in enumerate(layers):
                    for head in range(n_heads):
                        with silenced(vlm, layer, head):
                            each[:, at, head] = answers.loss(vlm) - base
            rows.append(each.cpu().numpy())
            advance(len(encoded))
    losses = np.concatenate(rows).astype(np.float64)
    return ratings_of("ablation", layers, groups, lambda mask: losses[mask].mean(0))
