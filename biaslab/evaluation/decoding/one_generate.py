"""One ``generate`` for one configuration: the prefill as always, the decoding by a static step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from biaslab.evaluation.decoding.dynamic_loop import decode_dynamic
from biaslab.evaluation.decoding.greedy import started, warn_not_static
from biaslab.evaluation.decoding.step_graph import GraphedStates
from biaslab.evaluation.decoding.ways import not_plain_greedy, not_static
from biaslab.evaluation.sweep.generation import Generation
from biaslab.models.transformers_versions import kv_cache_of

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM
    from biaslab.pruning.engine.hooks import Engine

__all__ = ["StaticGenerate", "static_options"]


def static_options(
    vlm: VLM, way: str, max_new_tokens: int, engine: Engine | None, positions: str, graphs: GraphedStates | None
) -> dict[str, Any]:
    """Make the options of ``model.generate`` that let it decode in a way; none for the way it has of itself.

    Parameters
    ----------
    vlm : VLM
    way : "dynamic", "static" or "graph"
    max_new_tokens : int
    engine : Engine, optional
        That prunes the prefill.
    positions : "original", "renumber" or "remap"
    graphs : GraphedStates, optional
        Of earlier batches.

    Returns
    -------
    dict

    Warns
    -----
    UserWarning
        The model cannot be decoded in that way.
    """
    if way == "dynamic":
        return {}
    if why := not_plain_greedy(vlm, max_new_tokens) or (None if engine is not None else not_static(vlm)):
        warn_not_static(vlm, way, why)
        return {}
    return {"custom_generate": StaticGenerate(vlm, way, engine, positions, graphs)}


class StaticGenerate:
    """What ``generate`` runs in the place of its own loop.

    Parameters
    ----------
    vlm, way, engine, positions, graphs
        As of `static_options`.
    """

    def __init__(self, vlm: VLM, way: str, engine: Engine | None, positions: str, graphs: GraphedStates | None) -> None:
        self.vlm, self.way, self.engine, self.positions = vlm, way, engine, positions
        self.graphs = (graphs or GraphedStates()) if way == "graph" else None

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        synced_gpus: Any = None,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> Tensor:
        """Prefill, decode, and return prompts and answers."""
        given = (model_kwargs, logits_processor, stopping_criteria, generation_config)
        generation = Generation.of(model, input_ids, *given)
        logits = generation.step(first=True).logits[:, -1:]
        engine, cuts, shown = self.engine, [], None
        if engine is not None:
            cuts = engine.seen_later(kv_cache_of(model_kwargs))
            if engine.layer == 0:  # its hook on the decoder brings masks and positions to what is left
                shown = cuts[0][1] if cuts else None
                cuts = cuts[1:]
                engine.detach_layers()
            else:
                engine.detach()
        static = started(self.vlm, generation, cuts, self.positions, self.way, shown=shown)
        if static is None:
            narrow = None if engine is None or shown is None else engine.narrow
            tokens = decode_dynamic(self.vlm, generation, logits, cuts, self.positions, narrow=narrow)
        else:
            if engine is not None:
                engine.detach()
            tokens = static.decode(logits, self.graphs)
        return torch.cat([input_ids, generation.padded(tokens)], 1)
