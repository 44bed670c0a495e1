"""Several pruning methods on the frames of one video: answers, and what each leaves of every frame."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from biaslab._util.arguments import at_least_one, whole_number
from biaslab.core.frames import frames_layout
from biaslab.cost.decoder import check_kept
from biaslab.errors import InputError
from biaslab.evaluation.configurations import configurations
from biaslab.models.answers import answers_to
from biaslab.models.expected import expect_model
from biaslab.models.grounding import MAX_NEW_TOKENS
from biaslab.models.prune_layer import prune_layer
from biaslab.pruning import Method, Selection
from biaslab.pruning.engine.prune import engaged, is_joint
from biaslab.pruning.engine.vision import with_tower
from biaslab.pruning.keep_counts import warn_of_counts

if TYPE_CHECKING:
    from biaslab.core.layout import TokenLayout
    from biaslab.evaluation.configurations import Profiles
    from biaslab.models.vlm import VLM

__all__ = ["VideoAnswer", "compare_on_video"]


@dataclass(frozen=True)
class VideoAnswer:
    """Answer of one method to one video.

    Attributes
    ----------
    method : str
        Label of the method, ``"none"`` for the unpruned model.
    text : str
    truncated : bool
        Whether it was cut at the limit of new tokens.
    selections : list of Selection or None
        The kept tokens of each frame; None for the unpruned model.
    layouts : list of TokenLayout
        Of the frames.
    model : str
        Name of the model.
    """

    method: str
    text: str
    truncated: bool
    selections: list[Selection] | None
    layouts: list[TokenLayout]
    model: str

    @property
    def kept(self) -> list[int]:
        """Visual tokens that are left of each frame."""
        if self.selections is None:
            return [layout.n for layout in self.layouts]
        return [len(selection.indices) for selection in self.selections]


def compare_on_video(
    vlm: VLM,
    frames: Sequence[Any],
    question: str,
    *,
    methods: Sequence[str | Method],
    keep: float | int,
    layer: int | None = None,
    profile: Profiles = None,
    budget: str | None = None,
    seed: int = 0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    cache: str = "full",
) -> list[VideoAnswer]:
    """Ask about one video under each method.

    Parameters
    ----------
    vlm : VLM
    frames : sequence of PIL images, paths, or objects with ``.image``
        In order.
    question : str
        As it is asked.
    methods, keep, layer, profile, seed, max_new_tokens, cache
        As of `biaslab.compare_methods`; a ratio is one of all tokens of the video or, with separate budgets, of each
        frame's.
    budget : "separate" or "joint", optional
        As of `biaslab.prune`: one for all frames or one for each; by default what the method wants.

    Returns
    -------
    list of VideoAnswer
        One per method.

    Raises
    ------
    InputError, UnsupportedError, ProfileMismatchError
        An empty question, no frame, a family that takes no frames; else as of `biaslab.prune`.

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.scenes import scene
    >>> frames = [scene("test", i).image for i in range(3)]
    >>> made = compare_on_video(bl.load("grounder"), frames, "Where is the cat?", methods=["none", "adatp"], keep=0.1)
    >>> [(answer.method, sum(answer.kept), len(answer.kept)) for answer in made]
    [('none', 768, 3), ('adatp', 76, 3)]
    """
    expect_model(vlm)
    if not isinstance(question, str) or not question.strip():
        raise InputError("empty question: say what to ask about the video")
    if isinstance(frames, (str, bytes)) or not isinstance(frames, Sequence) or not frames:
        raise InputError("frames must be a list of at least one image, in order")
    configs = configurations(methods, keep, prune_layer(vlm, layer), profile, model=vlm)
    whole_number("seed", seed)
    check_kept(cache)
    limit = at_least_one("max_new_tokens", max_new_tokens)
    for config in configs:
        is_joint(config.stages, budget)  # refuses
    encoded = vlm.encode([list(frames)], [question], frames=True)
    encoded = with_tower(vlm, encoded, [config.method for config in configs])
    whole = frames_layout(encoded.layouts).n
    for config in configs:
        most = whole if is_joint(config.stages, budget) else max(layout.n for layout in encoded.layouts)
        warn_of_counts(config.keeps, most)
    answers = []
    for config in configs:
        pruned: Any = nullcontext()
        if config.method is not None:
            pruned = engaged(vlm, **config.engagement, positions="original", seed=seed, budget=budget, cache=cache)
        with pruned as engine:
            said = answers_to(vlm, encoded, limit, {})
            chosen = None if engine is None else list(engine.run.selections)
        (text,), (cut,) = said.texts, said.truncated
        answers.append(VideoAnswer(config.label, text, cut, chosen, encoded.layouts, vlm.name))
    return answers
