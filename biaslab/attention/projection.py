"""Queries, keys and values of a decoder layer before it runs: its own norm, projections and rotary embedding.

The layer's own code makes them, up to the call of its attention function, and goes no further: so they are right
whatever the layer has (norms of queries and keys, grouped heads, biases, adapters, quantised weights, rotary sections),
and neither attention nor anything behind it is computed. No (N, N) matrix is formed and no KV cache is written to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from biaslab.attention.hook import alone, watch
from biaslab.errors import UnsupportedError

__all__ = ["Projected", "project"]


@dataclass(frozen=True, eq=False)
class Projected:
    """What a layer calls its attention with.

    Attributes
    ----------
    module : nn.Module
        The attention module.
    query, key, value : (B, H, N, D), (B, Hkv, N, D), (B, Hkv, N, D) Tensor
        Queries and keys after rotary embedding, before heads are repeated.
    options : dict
        ``attention_mask``, ``scaling`` and the further keywords that a recorder of `biaslab.attention.hook.watch`
        hears; ``cos`` and ``sin`` where the layer is given them.
    """

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    options: Mapping[str, Any]


class _Reached(Exception):  # no error: the way out of a forward that has gone far enough
    def __init__(self, found: Projected) -> None:
        super().__init__()
        self.found = found


@torch.no_grad()
def project(model: Any, index: int, run: Callable[[], Any]) -> Projected:
    """Run a forward up to the attention of one decoder layer.

    Parameters
    ----------
    model : PreTrainedModel
        As for `biaslab.attention.hook.watch`.
    index : int
        Of the decoder layer.
    run : callable
        Calls the layer, or the decoder, without a KV cache. It does not return.

    Returns
    -------
    Projected

    Raises
    ------
    UnsupportedError
        ``run`` came to its end: the layer's attention does not go through transformers' interface.

    Notes
    -----
    Other watches of the layer do not hear of this call.

    Examples
    --------
    The queries of layer 3, of what enters it:

    >>> import biaslab as bl
    >>> vlm = bl.load("grounder")
    >>> (sample,) = bl.load_dataset("scenes", split="test", n=1)
    >>> encoded = vlm.encode_grounding([sample.image()], [sample.expression])
    >>> found = project(vlm.model, 3, lambda: vlm.model(**encoded.inputs, use_cache=False))
    >>> found.query.shape[2] == encoded.last + 1
    True
    """
    module = model.get_decoder().layers[index].self_attn
    rope: dict[str, Tensor] = {}

    def begins(module: nn.Module, args: tuple, kwargs: dict) -> None:
        given = kwargs.get("position_embeddings")
        rope.update({} if given is None else zip(("cos", "sin"), given, strict=True))

    def reached(module, query, key, value, attention_mask, scaling, **kw: Any) -> None:
        options = {**kw, **rope, "attention_mask": attention_mask, "scaling": scaling}
        raise _Reached(Projected(module, query, key, value, options))

    handle = module.register_forward_pre_hook(begins, with_kwargs=True)
    try:
        with watch(model, {}), alone(module, reached):
            run()
    except _Reached as end:
        return end.found
    finally:
        handle.remove()
    raise UnsupportedError(f"{type(module).__name__} does not use transformers' attention interface: update the model")
