"""The layers from K on, for the short sequences of several configurations as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from biaslab.errors import UnsupportedError
from biaslab.evaluation.sweep.kv_cache import fresh
from biaslab.evaluation.sweep.prefix import Prefix
from biaslab.models.transformers_versions import with_kv_cache
from biaslab.pruning.engine.pruned_index import PrunedIndex
from biaslab.pruning.engine.short_inputs import ShortInputs

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["run_short"]


def run_short(vlm: VLM, prefix: Prefix, layer: int, cuts: Sequence[PrunedIndex], positions: str) -> tuple[Tensor, Any]:
    """Run the layers from K on.

    Parameters
    ----------
    vlm : VLM
    prefix : Prefix
        Of B prompts.
    layer : int
        K.
    cuts : sequence of G PrunedIndex
        Of the B prompts each, all of one length.
    positions : "original", "renumber" or "remap"

    Returns
    -------
    hidden : (G * B, 1, D) Tensor
        Of the last token, after the last layer.
    cache : DynamicCache
        Entries of the layers from K on.
    """
    decoder: Any = vlm.decoder
    given, cache = prefix.inputs[layer], fresh(prefix.empty)
    short = ShortInputs(decoder, positions)
    each = []
    for cut in cuts:
        kwargs = with_kv_cache(given.kwargs, cache)
        each.append(short.of_layer(layer, cut, given.args, kwargs, cut.gather(given.hidden, 1), prefill=True))
    hidden = torch.cat([args[0] if args else kwargs["hidden_states"] for args, kwargs in each])
    args, kwargs = each[0]
    kwargs = {name: _joined([kw[name] for _, kw in each]) for name in kwargs if name != "hidden_states"}
    # every layer is given what the first is: check_setup has refused those that see the sequence in another way
    for module in decoder.layers[layer:]:
        hidden = module(hidden, *args[1:], **kwargs)
        if not isinstance(hidden, Tensor):
            raise UnsupportedError(f"{type(module).__name__} returns {type(hidden).__name__}")
    return hidden[:, -1:], cache


def _joined(values: list[Any]) -> Any:
    """Put what several configurations hand a layer under each other, where they differ."""
    first = values[0]
    if all(value is first for value in values):
        return first
    if isinstance(first, tuple):
        return tuple(_joined(list(each)) for each in zip(*values, strict=True))
    return torch.cat(values)
