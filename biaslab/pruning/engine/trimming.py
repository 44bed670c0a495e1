"""The KV cache below a cut, cut as well behind the prefill: generated tokens then see the same in every layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

from biaslab.cost.decoder import check_kept
from biaslab.errors import UnsupportedError
from biaslab.pruning.engine.checks import layer_types
from biaslab.pruning.engine.counting_layer import CountingLayer
from biaslab.pruning.engine.cut import Cut

__all__ = ["check_kind", "check_layers", "check_trimming", "trim"]


def check_trimming(config: Any, stages: Iterable[Any], positions: str, cache: str) -> None:
    """Refuse, before any work, what a trimmed cache cannot be.

    Parameters
    ----------
    config : PretrainedConfig
        Of the decoder.
    stages : Schedule
    positions, cache : str
        Arguments of `prune`.

    Raises
    ------
    InputError
        Neither "full" nor "trimmed".
    UnsupportedError
        With the reason and what to do.
    """
    check_kept(cache)
    if cache == "full":
        return
    stages = list(stages)
    if len(stages) > 1 and any(stage.rule.restores for stage in stages):
        raise UnsupportedError(
            "tokens that come back are in no cache of the layers before: such a schedule needs cache='full'"
        )
    if positions == "renumber":
        raise UnsupportedError(
            "renumbered positions differ between the layers of a trimmed cache: use positions='original'"
        )
    if other := set(layer_types(config)[: stages[-1].layer]) - {"full_attention"}:
        raise UnsupportedError(
            f"layers below K = {stages[-1].layer} use {', '.join(sorted(other))}, whose cache has lost tokens already: "
            "use cache='full'"
        )


def check_kind(offloaded: bool) -> None:
    """Refuse a cache whose layers are elsewhere once they have run."""
    if offloaded:
        raise UnsupportedError("layers of an offloaded cache are not there to be trimmed: use cache='full'")


def check_layers(cache: Any, below: int) -> None:
    """Refuse a cache whose filled layers below a cut are of a kind that cannot be cut."""
    check_kind(getattr(cache, "offloading", False))
    for layer in cache.layers[:below]:
        if type(layer) is not DynamicLayer:
            raise UnsupportedError(f"a {type(layer).__name__} of the KV cache cannot be trimmed: use cache='full'")


def trim(cache: Any, cuts: Sequence[Cut]) -> None:
    """Let every layer below the last cut hold what that has left, and count the rest in its length.

    Parameters
    ----------
    cache : DynamicCache
        Of a prefill that is through.
    cuts : sequence of Cut
        Each among what the one before has left.
    """
    last = cuts[-1]
    at: Tensor = last.local.keep  # of what the layers just below see
    dropped = last.index.length - last.index.kept
    ends = [cut.layer for cut in cuts]
    for number in range(len(cuts) - 1, -1, -1):
        if number < len(cuts) - 1:
            at = cuts[number].local.keep.gather(1, at)
        for index in range(ends[number - 1] if number else 0, ends[number]):
            held = cache.layers[index]
            layer = CountingLayer(dropped)
            layer.lazy_initialization(held.keys, held.values)
            layer.keys, layer.values = (_kept(x, at) for x in (held.keys, held.values))
            cache.layers[index] = layer


def _kept(x: Tensor, at: Tensor) -> Tensor:
    """Gather entries (B, M) of keys or values (B, Hkv, N, d)."""
    at = at.to(x.device)[:, None, :, None]
    return x.gather(2, at.expand(-1, x.shape[1], -1, x.shape[3]))
