"""Several pruning methods on one picture: answers, boxes, what each kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from biaslab.evaluation.configurations import UNPRUNED, configurations
from biaslab.pruning import Method, Selection
from biaslab.pruning.engine.prune import prune

if TYPE_CHECKING:
    from biaslab.core.layout import TokenLayout
    from biaslab.models.vlm import VLM, Grounding
    from biaslab.profiles import Profile


@dataclass(frozen=True)
class PrunedAnswer:
    """What one method made of one picture; `selection` is None for the unpruned model, `model` its name."""

    method: str
    answer: Grounding
    selection: Selection | None
    layout: TokenLayout
    model: str


def locate_pruned(
    vlm: VLM,
    image: Any,
    expression: str,
    methods: Sequence[str | Method],
    keep: float | int,
    layer: int,
    profile: Profile | None = None,
    seed: int = 0,
) -> list[PrunedAnswer]:
    """Locate an expression in one picture under each method.

    Parameters
    ----------
    methods : names or instances; ``"none"`` is the unpruned model.
    keep, layer, profile, seed : as in :func:`~biaslab.evaluation.runner.evaluate`.
    """

    configs = configurations(methods, keep, layer, profile)
    encoded = vlm.vision(vlm.encode_grounding([image], [expression]))
    (layout,) = encoded.layouts
    found = []
    for config in configs:
        if config.method is None:
            found.append(PrunedAnswer(UNPRUNED, vlm.locate_answers(encoded)[0], None, layout, vlm.name))
            continue
        with prune(vlm, config.method, config.layer, seed=seed) as run:
            answer = vlm.locate_answers(encoded)[0]
        found.append(PrunedAnswer(config.method.label, answer, run.selections[0], layout, vlm.name))
    return found
