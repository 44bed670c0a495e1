"""The way in: decode what a prefill has left, in the way asked for where the model can."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from biaslab.errors import UnsupportedError
from biaslab.evaluation.decoding.dynamic_loop import decode_dynamic
from biaslab.evaluation.decoding.static_loop import StaticDecoding
from biaslab.evaluation.decoding.step_graph import GraphedStates
from biaslab.evaluation.sweep.generation import Generation
from biaslab.pruning.engine.pruned_index import PrunedIndex

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["decode", "started", "warn_not_static"]


def decode(
    vlm: VLM,
    generation: Generation,
    logits: Tensor,
    cuts: Sequence[tuple[int, PrunedIndex]],
    positions: str,
    *,
    way: str = "dynamic",
    graphs: GraphedStates | None = None,
) -> list[Tensor]:
    """Decode greedily until every row has ended.

    Parameters
    ----------
    vlm : VLM
    generation : Generation
        R prompts, with the filled KV cache of the R rows.
    logits : (R, 1, vocabulary) Tensor
        Of the first token.
    cuts : sequence of (int, PrunedIndex)
        From which layer on the rows have which short sequence, ascending.
    positions : "original", "renumber" or "remap"
    way : "dynamic", "static" or "graph"
        What a model does not allow is decoded dynamically.
    graphs : GraphedStates, optional
        Of earlier batches; by default every call captures its own.

    Returns
    -------
    list of R LongTensor (T,)
        New tokens of each row; behind its end, padding.

    Warns
    -----
    UserWarning
        The model cannot be decoded in that way.
    """
    static = started(vlm, generation, cuts, positions, way)
    if static is None:
        return decode_dynamic(vlm, generation, logits, cuts, positions)
    return static.decode(logits, (graphs or GraphedStates()) if way == "graph" else None)


def started(
    vlm: VLM,
    generation: Generation,
    cuts: Sequence[tuple[int, PrunedIndex]],
    positions: str,
    way: str,
    *,
    shown: PrunedIndex | None = None,
) -> StaticDecoding | None:
    """Begin a static decoding; None where another way is asked for, or, with a warning, where the model cannot.

    Arguments are those of `decode` and, ``shown``, of `StaticDecoding`.
    """
    if way == "dynamic":
        return None
    try:
        return StaticDecoding(vlm, generation, cuts, positions, shown=shown)
    except UnsupportedError as error:
        warn_not_static(vlm, way, str(error))
        return None


def warn_not_static(vlm: VLM, way: str, why: str) -> None:
    """Say that a model is decoded dynamically, and why."""
    warnings.warn(f"decode={way!r} is not for {vlm.name}: {why}; it is decoded dynamically", stacklevel=3)
