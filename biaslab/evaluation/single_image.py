"""Several pruning methods on one image: answers, boxes, kept tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from biaslab._util.arguments import at_least_one, whole_number
from biaslab.errors import InputError
from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.run_once import GenerationOptions, check_text, run_once
from biaslab.models.expected import expect_model
from biaslab.models.grounding import MAX_NEW_TOKENS
from biaslab.models.prune_layer import prune_layer
from biaslab.pruning import Method, Selection, Stage
from biaslab.pruning.engine.vision import with_tower
from biaslab.pruning.keep_counts import warn_of_counts

if TYPE_CHECKING:
    from biaslab.core.layout import TokenLayout
    from biaslab.evaluation.configurations import Profiles
    from biaslab.models.grounding import Grounding
    from biaslab.models.vlm import VLM


@dataclass(frozen=True)
class PrunedAnswer:
    """Answer of one method to one image.

    Attributes
    ----------
    method : str
        Label of the method, ``"none"`` for the unpruned model.
    answer : Grounding
        Text and box.
    selection : Selection or None
        The kept tokens; None for the unpruned model.
    layout : TokenLayout
        Where the visual tokens lie.
    model : str
        Name of the model.
    layer : int or None
        Before which tokens are dropped, of a schedule the first; None for the unpruned model.
    stages : tuple of (Stage, Selection)
        What each cut of a schedule has left, in order; the last is ``selection``. Empty without a schedule.

    Examples
    --------
    >>> import biaslab as bl
    >>> sample = next(iter(bl.load_dataset("scenes", split="test", n=1)))
    >>> (found,) = bl.compare_methods(
    ...     bl.load("grounder"), sample.image(), sample.expression, methods=["divprune"], keep=0.1, layer=4
    ... )
    >>> found.method, len(found.selection.indices), found.layout.n, found.model
    ('divprune', 25, 256, 'grounder')
    """

    method: str
    answer: Grounding
    selection: Selection | None
    layout: TokenLayout
    model: str
    layer: int | None = None
    stages: tuple[tuple[Stage, Selection], ...] = ()


def compare_methods(
    vlm: VLM,
    image: Any,
    expression: str,
    *,
    methods: Sequence[str | Method],
    keep: float | int,
    layer: int | None = None,
    profile: Profiles = None,
    seed: int = 0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    cache: str = "full",
) -> list[PrunedAnswer]:
    """Locate an expression in one image under each method.

    Parameters
    ----------
    vlm : VLM
    image : PIL image, path, or object with ``.image``
    expression : str
        The words, without any prompt.
    methods : sequence of str, Method or Schedule
        Names, with options as on the command line, or instances; ``"none"`` is the unpruned model. A schedule, as
        "divprune@0.4@2+fastv@0.06@4", has its own keeps and layers.
    keep : float or int
        Ratio in (0, 1] or count of visual tokens.
    layer : int, optional
        Prune layer K, -1 the last; default: from the model's geometry.
    profile : Profile or sequence of these, optional
        For the methods that need one and have none.
    seed : int
    max_new_tokens : int
        Length limit of an answer.
    cache : {"full", "trimmed"}
        What layers below K hold of the prompt while an answer is generated; see :func:`biaslab.pruning.prune`.

    Returns
    -------
    list of PrunedAnswer
        One per method.

    Raises
    ------
    InputError, UnsupportedError, ProfileMismatchError
        As in :func:`~biaslab.evaluation.runner.evaluate`.

    Examples
    --------
    >>> import biaslab as bl
    >>> sample = next(iter(bl.load_dataset("scenes", n=1)))
    >>> answers = bl.compare_methods(
    ...     bl.load("grounder"), sample, sample.expression, methods=["none", "divprune"], keep=0.2, layer=4
    ... )
    >>> [(a.method, a.answer.box.iou(sample.box) > 0.5) for a in answers]
    [('none', True), ('divprune', True)]
    >>> len(answers[1].selection.indices), answers[1].layout.n
    (51, 256)
    """
    expect_model(vlm)
    if not isinstance(expression, str):
        raise InputError(f"expression must be a string, got {type(expression).__name__}: one image and one text")
    if isinstance(image, (list, tuple)):
        raise InputError("image must be one image, got a list: compare the methods image by image")
    configs, options = (
        configurations(methods, keep, prune_layer(vlm, layer), profile, model=vlm),
        GenerationOptions(whole_number("seed", seed), at_least_one("max_new_tokens", max_new_tokens), cache=cache),
    )
    check_text(vlm, vlm.family.grounding_prompt(expression))
    encoded = vlm.encode_grounding([image], [expression])
    encoded = with_tower(vlm, encoded, [config.method for config in configs])
    (layout,) = encoded.layouts
    warn_of_counts((keep for config in configs for keep in config.keeps), layout.n)
    answers = []
    for config in configs:
        run = run_once(vlm, encoded, config, options)
        (answer,) = vlm.groundings(encoded, run.answers, run.truncated)
        left = [selection for (selection,) in run.cuts]
        stages = tuple(zip(config.stages, left, strict=True)) if len(left) > 1 else ()
        answers.append(PrunedAnswer(config.label, answer, run.selections[0], layout, vlm.name, config.layer, stages))
    return answers
