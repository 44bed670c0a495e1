"""Several pruning methods on one picture: answers, boxes, what each kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from biaslab.evaluation.configurations import UNPRUNED, configurations
from biaslab.evaluation.run_once import GenerationOptions, run_once
from biaslab.pruning import Method, Selection

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


def compare_methods(
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
    configs, options = configurations(methods, keep, layer, profile), GenerationOptions(seed)
    encoded = vlm.vision(vlm.encode_grounding([image], [expression]))
    (layout,) = encoded.layouts
    answers = []
    for config in configs:
        run = run_once(vlm, encoded, config, options)
        name = UNPRUNED if config.method is None else config.method.label
        (answer,) = vlm.groundings(encoded, run.answers)
        answers.append(PrunedAnswer(name, answer, run.selections[0], layout, vlm.name))
    return answers
