"""Figures of what a conditional profile learned, and of what it foresees of one image."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biaslab.core.boxes import Box
from biaslab.errors import InputError, UnsupportedError
from biaslab.figures import LearnedPlacesDisplay, LearningCurveDisplay, RelevanceDisplay, WordWeightsDisplay, save
from biaslab.profiles.lookahead.foresight import foresee
from biaslab.profiles.lookahead.learned import held_out, learned_places, question_tokens, word_weights

if TYPE_CHECKING:
    from biaslab.diagnostics.probe import ProbeResult
    from biaslab.evaluation.single_image import PrunedAnswer
    from biaslab.maps.stored import StoredMaps
    from biaslab.models.vlm import VLM
    from biaslab.profiles import LookaheadProfile

__all__ = ["draw_foreseen", "draw_learned"]


def draw_learned(
    vlm: VLM,
    profile: LookaheadProfile,
    maps: StoredMaps,
    *,
    out: str | Path,
    prompts: Mapping[str, str] | None = None,
    images: Iterable[int] | None = None,
    probe: ProbeResult | None = None,
) -> list[Path]:
    """Draw the learning curve, how the student leans to places, and which words weigh.

    Parameters
    ----------
    vlm : VLM
        Spells the tokens of the prompts.
    profile : LookaheadProfile
        Fitted.
    maps : StoredMaps
        With features, such as those it was fitted to.
    out : str or Path
        Figures without extension: ``out-curve``, ``out-places`` and ``out-words`` are written.
    prompts : mapping of str to str, optional
        Id of a prompt in the maps -> what was asked; without it no words are drawn.
    images : iterable of int, optional
        Which prompts of the maps; default those on held-out images. Places are drawn of the layout that most of them
        have.
    probe : ProbeResult, optional
        Of the heads that taught, beside the places.

    Returns
    -------
    list of Path
        PDF, PNG and CSV of each. What there is nothing to draw of is left out: the curve of a profile of an earlier
        version, the words of a student that does not look at the question.

    Raises
    ------
    InputError
        A probe of other heads or places.
    RunFolderError
        The place cannot be written.

    Warns
    -----
    UserWarning
        Prompts that are not those of the maps: their words are not drawn.
    """
    stem = Path(out)
    chosen = held_out(maps) if images is None else list(images)
    files = []
    if len(profile.curve_):
        files += save(LearningCurveDisplay.from_profile(profile), _beside(stem, "curve"), close=True)
    seen = Counter(maps.record(i).layout.key for i in chosen)
    layout = maps.layouts[seen.most_common(1)[0][0]]
    places = learned_places(profile, maps, images=chosen, layout=layout)
    display = LearnedPlacesDisplay.from_places(places, layout, profile=profile, probe=probe)
    files += save(display, _beside(stem, "places"), close=True)
    if profile.reads and prompts:
        asked = {name: prompts[name] for name in (maps.record(i).id for i in chosen) if name in prompts}
        spelled = dict(zip(asked, question_tokens(vlm, list(asked.values())), strict=True))
        try:
            words = word_weights(profile, maps, spelled, images=chosen)
        except InputError as error:  # no reason to lose the other figures
            warnings.warn(f"the words are not drawn: {error}", stacklevel=2)
        else:
            files += save(WordWeightsDisplay.from_words(words, profile=profile), _beside(stem, "words"), close=True)
    return files


def draw_foreseen(
    vlm: VLM,
    profile: LookaheadProfile,
    image: Any,
    answer: PrunedAnswer,
    *,
    expression: str,
    out: str | Path,
    target: Box | None = None,
) -> list[Path]:
    """Draw the relevance by which one image was pruned, beside what the model attends to where nothing is pruned.

    Parameters
    ----------
    vlm : VLM
        Runs once more, unpruned.
    profile : LookaheadProfile
        By which it was pruned.
    image : PIL image or path
        The image.
    answer : PrunedAnswer
        Of the method ``lookahead``, of :func:`biaslab.compare_methods`.
    expression : str
        The referring expression.
    out : str or Path
        Figure without extension.
    target : Box, optional
        The true box, in pixels of the image.

    Returns
    -------
    list of Path
        PDF, PNG and CSV.

    Raises
    ------
    InputError
        An answer of another method.
    RunFolderError
        The place cannot be written.

    Warns
    -----
    UserWarning
        An attention kernel that cannot be watched: the model's attention is left out.
    """
    kept = answer.selection
    if kept is None or kept.scores is None:
        raise InputError(f"method {answer.method!r} keeps by no relevance: choose lookahead")
    attention, heads = None, ""
    try:
        attention = foresee(profile, vlm, image, vlm.family.grounding_prompt(expression)).attention
        heads = profile.teacher.names
    except UnsupportedError as error:  # it prunes under any attention kernel, but not every one can be watched
        warnings.warn(f"the later attention is not drawn: {error}", stacklevel=2)
    display = RelevanceDisplay.from_relevance(
        image, answer.layout, kept.scores, attention=attention, kept=kept, target=target, expression=expression,
        heads=heads, model=profile.provenance_,
    )  # fmt: skip
    return save(display, out, close=True)


def _beside(stem: Path, name: str) -> Path:
    return stem.with_name(f"{stem.name}-{name}")
