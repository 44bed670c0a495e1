"""What a model hands its decoder layers at a decode step, seen at one step that runs no layer.

The step's static form calls the decoder's own modules: embedding, layers, norm, output embedding. Whether that is all a
model does is not assumed: its own forward runs once, with layers that only look, and what comes out of both must be
equal to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from biaslab.errors import UnsupportedError
from biaslab.evaluation.sweep.generation import Generation
from biaslab.evaluation.sweep.swapped_layers import Stop, swapped_layers
from biaslab.models.transformers_versions import constant_arguments, rope_limit

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["Observed", "observe"]


@dataclass(frozen=True, eq=False)
class Observed:
    """A decode step as the model makes it.

    Attributes
    ----------
    kwargs : dict
        Of every layer's forward, without what changes from step to step; the KV cache is among them.
    positions : LongTensor (..., R, 1)
        What the rotary embedding is given for the first new token: with M-RoPE one set for each of its axes.
    hidden : (R, 1, D) Tensor
        What enters the first layer.
    vocabulary : int
        Logits of a row.
    """

    kwargs: dict[str, Any]
    positions: Tensor
    hidden: Tensor
    vocabulary: int


def observe(vlm: VLM, generation: Generation, real: Tensor, most: int) -> Observed:
    """Look at the decode step that follows a prefill.

    Parameters
    ----------
    vlm : VLM
    generation : Generation
        R rows with a filled KV cache, no token chosen yet.
    real : (R, T) bool Tensor
        Which entries of the first layer's cache a new token may see.
    most : int
        New tokens at most.

    Returns
    -------
    Observed

    Raises
    ------
    UnsupportedError
        The model does more at a step than is known here, or changes its rotary embedding with the length.
    """
    decoder: Any = vlm.decoder
    limit = rope_limit(decoder)
    if limit is not None and generation.ids.shape[1] + most > limit:
        raise UnsupportedError(f"its rotary embedding changes beyond {limit} positions")
    tokens = generation.ids[:, -1]
    layers, rotary = [_Look() for _ in decoder.layers], _Calls()
    handle = decoder.rotary_emb.register_forward_hook(rotary, with_kwargs=True)
    try:
        with swapped_layers(decoder, layers):
            logits = generation.grown(tokens, {}).step().logits[:, -1:]
    finally:
        handle.remove()
    first = layers[0]
    hidden, kwargs = first.hidden, constant_arguments(first.args, first.kwargs)
    positions, rope = rotary.only()
    mask = first.kwargs.get("attention_mask")
    for layer in layers:
        mine = constant_arguments(layer.args, layer.kwargs)
        if mine != kwargs or layer.kwargs.get("attention_mask") is not mask:
            raise UnsupportedError("its layers are not all given the same")
    head = vlm.model.get_output_embeddings()
    mine = decoder.embed_tokens(tokens[:, None])
    given = first.kwargs["position_embeddings"]
    same = {
        "its embedding": _equal(mine, hidden),
        "its logits": _equal(head(decoder.norm(mine)), logits),
        "its mask": _sees(mask, real),
        "its rotary embedding": torch.stack([_equal(a, b) for a, b in zip(given, rope, strict=True)]).all(),
    }
    held = torch.stack([flag.to(hidden.device) for flag in same.values()]).tolist()
    if wrong := [name for name, equal in zip(same, held, strict=True) if not equal]:
        raise UnsupportedError(f"{', '.join(wrong)} at a decode step is not what its modules alone make")
    return Observed(kwargs, positions.expand(*positions.shape[:-2], len(tokens), 1), hidden, logits.shape[-1])


class _Look(Stop):
    """Stands for a layer, and remembers what it was given."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        self.args, self.kwargs = args, kwargs
        self.hidden = super().forward(*args, **kwargs)
        return self.hidden


class _Calls:
    """Remembers the calls of a rotary embedding."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple, dict, Any]] = []

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        self.calls.append((args, kwargs, output))

    def only(self) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return position ids and cosines and sines of the one call there was."""
        if len(self.calls) != 1:
            raise UnsupportedError(f"it makes {len(self.calls)} rotary embeddings at a step")
        (args, kwargs, rope) = self.calls[0]
        positions = args[1] if len(args) == 2 else kwargs.get("position_ids")
        if len(args) + len(kwargs) != 2 or not isinstance(positions, Tensor) or not isinstance(rope, tuple):
            raise UnsupportedError("its rotary embedding is called in an unknown way")
        return positions, rope


def _equal(a: Tensor, b: Tensor) -> Tensor:
    if a.shape != b.shape or a.dtype != b.dtype:
        return torch.tensor(False, device=a.device)
    return (a == b).all()


def _sees(mask: Tensor | None, real: Tensor) -> Tensor:
    """Whether a mask of the first new token, None or (R or 1, 1, 1, T + 1), lets it see what is ``real``."""
    if mask is None:
        return real.all()
    look = mask if mask.dtype == torch.bool else mask == 0
    if look.ndim != 4 or look.shape[-1] != real.shape[1] + 1:
        return torch.tensor(False, device=real.device)
    return (look[:, 0, 0, :-1] == real).all() & look[..., -1].all()
