"""One batch of prompts through one configuration: what an evaluation, a benchmark and a single image all do."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from biaslab.cost import Flops, VisionInput, prompt_flops
from biaslab.errors import InputError, UnsupportedError
from biaslab.evaluation.configurations import Config
from biaslab.evaluation.stopwatch import GenerationTimer
from biaslab.models.answers import answers_to
from biaslab.models.grounding import MAX_NEW_TOKENS
from biaslab.models.lengths import position_limit
from biaslab.pruning import Selection, prune

if TYPE_CHECKING:
    from biaslab.models.encoded import Encoded
    from biaslab.models.vlm import VLM

__all__ = ["GenerationOptions", "OneRun", "check_text", "prompt_lengths", "run_once"]


@dataclass(frozen=True)
class GenerationOptions:
    """Options that change answers beyond the configuration."""

    seed: int = 0
    max_new_tokens: int = MAX_NEW_TOKENS
    positions: str = "original"


@dataclass(frozen=True, eq=False)
class OneRun:
    """Answers, selections, times and cost of one ``generate``.

    Attributes
    ----------
    answers : list of str
        One per prompt.
    truncated : list of bool
        Which of them were cut at the limit, without an end token.
    selections : list of Selection or None
        One per image in the order of the prompts; None for the unpruned model.
    kept : list of int
        Visual tokens of each image that are left.
    timer : GenerationTimer
        Stopped: prefill, decoding, peak memory, of the whole batch.
    selection_times : dict of str to float
        Of the batch, in ms; with ``timed=True``: what the prefill spent on "attention_ms" and "select_ms".
    flops : list of Flops or None
        One per prompt, padding left out; None for a model whose cost is not known.
    """

    answers: list[str]
    truncated: list[bool]
    selections: list[Selection | None]
    kept: list[int]
    timer: GenerationTimer
    selection_times: dict[str, float]
    flops: list[Flops | None]


def run_once(
    vlm: VLM,
    encoded: Encoded,
    config: Config,
    options: GenerationOptions,
    *,
    full_length: bool = False,
    timed: bool = False,
) -> OneRun:
    """Answer a batch of prompts under one configuration.

    Parameters
    ----------
    vlm : VLM
    encoded : Encoded
        From ``vlm.encode``; with ``vlm.vision`` before it, the vision tower is no part of the run.
    config : Config
    options : GenerationOptions
    full_length : bool
        Suppress end tokens, so that every answer has ``options.max_new_tokens`` tokens.
    timed : bool
        Measure scoring and selection apart; waits for the device.

    Returns
    -------
    OneRun

    Raises
    ------
    InputError, UnsupportedError, ProfileMismatchError
        What the pruning engine refuses; see :func:`biaslab.pruning.prune`.
    """
    new = options.max_new_tokens
    timer = GenerationTimer(vlm.model, vlm.decoder)
    length = {"min_new_tokens": new} if full_length else {}
    with timer, _pruned(vlm, config, options, timed) as run:
        answers = answers_to(vlm, encoded, new, length)
        timer.stop()
        selections = [None] * len(encoded.layouts) if run is None else list(run.selections)
    kept = [
        layout.n if selection is None else len(selection.indices)
        for selection, layout in zip(selections, encoded.layouts, strict=True)
    ]
    lengths = [new if full_length else min(_tokens(vlm, text) + 1, new) for text in answers.texts]  # + 1: the end token
    times = {} if run is None else run.times
    flops = _flops(vlm, encoded, config, kept, lengths)
    return OneRun(answers.texts, answers.truncated, selections, kept, timer, times, flops)


def check_text(vlm: VLM, expression: str) -> None:
    """Refuse a text that alone is too long for the model, or that it cannot take, without encoding an image.

    Raises
    ------
    InputError
        A text of more tokens than the model has positions, no proper Unicode, or one that holds an image token.
    """
    prompt = vlm.family.grounding_prompt(expression)
    vlm.family.check_text(vlm.processor, prompt)
    limit, length = position_limit(vlm.model.config), _tokens(vlm, prompt)
    if limit is not None and length > limit:
        raise InputError(f"the text takes {length} positions, and the model has {limit}: shorten the expression")


def prompt_lengths(encoded: Encoded) -> list[int]:
    """Count the tokens of each prompt, padding left out."""
    mask = encoded.inputs.get("attention_mask")
    return [encoded.last + 1] * len(encoded) if mask is None else mask.sum(1).tolist()


def _pruned(vlm: VLM, config: Config, options: GenerationOptions, timed: bool):
    if config.method is None:
        return nullcontext()
    return prune(vlm, config.method, config.layer, positions=options.positions, seed=options.seed, timed=timed)


def _tokens(vlm: VLM, answer: str) -> int:
    return len(vlm.processor.tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"])


def _flops(vlm: VLM, encoded: Encoded, config: Config, kept: list[int], new: list[int]) -> list[Flops | None]:
    """Count the FLOPs of each prompt: all its images together, its text once."""
    costs: list[Flops | None] = []
    for row, length in enumerate(prompt_lengths(encoded)):
        images = [i for i, owner in enumerate(encoded.owners) if owner == row]
        layouts = [encoded.layouts[i] for i in images]
        inputs, n_text = [VisionInput.of(layout) for layout in layouts], length - sum(layout.n for layout in layouts)
        n_kept = sum(kept[i] for i in images)
        try:
            cut = {"keep_n": n_kept, "layer": config.layer or 0, "new_tokens": new[row]}
            costs.append(prompt_flops(vlm.model.config, inputs, n_text, **cut))
        except UnsupportedError:  # a family whose cost nobody has written down yet can still be run
            costs.append(None)
    return costs
