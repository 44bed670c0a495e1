"""One batch of prompts through one configuration: what an evaluation, a benchmark and a single image all do."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from biaslab.cost import Flops, VisionInput, prompt_flops
from biaslab.cost.decoder import check_kept
from biaslab.errors import InputError, UnsupportedError
from biaslab.evaluation.configurations import Config
from biaslab.evaluation.stopwatch import GenerationTimer
from biaslab.models.answers import Answers, answers_to
from biaslab.models.grounding import MAX_NEW_TOKENS
from biaslab.models.lengths import position_limit
from biaslab.pruning import Selection
from biaslab.pruning.engine.checks import check_positions
from biaslab.pruning.engine.prune import engaged

if TYPE_CHECKING:
    from biaslab.evaluation.decoding.step_graph import GraphedStates
    from biaslab.models.encoded import Encoded
    from biaslab.models.vlm import VLM

__all__ = ["GenerationOptions", "OneRun", "check_text", "finished_run", "prompt_lengths", "run_once"]


@dataclass(frozen=True)
class GenerationOptions:
    """Options that change answers beyond the configuration, and ``plain``, which changes none.

    Attributes
    ----------
    seed : int
    max_new_tokens : int
    positions : "original", "renumber" or "remap"
    plain : bool
        One ``generate`` per configuration, in which nothing is shared: the reference.
    decode : "dynamic", "static" or "graph"
        How the tokens after the first are made (:mod:`biaslab.evaluation.decoding`).
    cache : "full" or "trimmed"
        What layers below the last cut hold of the prompt then; see :func:`biaslab.pruning.prune`.
    """

    seed: int = 0
    max_new_tokens: int = MAX_NEW_TOKENS
    positions: str = "original"
    plain: bool = False
    decode: str = "dynamic"
    cache: str = "full"

    def __post_init__(self) -> None:
        """Refuse unknown words, also where no method reads them."""
        check_positions(self.positions)
        check_kept(self.cache)

    @property
    def engagement(self) -> dict[str, Any]:
        """What `biaslab.pruning.engine.prune.engaged` is to be given for it."""
        return {"positions": self.positions, "seed": self.seed, "cache": self.cache}

    def recorded(self) -> dict[str, Any]:
        """List what ``run.json`` records as part of a run's identity: what came later, only where it is asked for."""
        names = ("seed", "max_new_tokens", "positions")
        return {name: getattr(self, name) for name in names} | ({"cache": self.cache} if self.cache != "full" else {})


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
        Stopped: prefill, decoding, peak memory, of the whole batch; never started where the run shared its work with
        those of other configurations.
    selection_times : dict of str to float
        Of the batch, in ms; with ``timed=True``: what the prefill spent on "attention_ms" and "select_ms".
    flops : list of Flops or None
        One per prompt, padding left out; None for a model whose cost is not known.
    stages : list of list of int
        Visual tokens of each image that each cut of a schedule leaves; empty without one.
    cuts : sequence of sequence of Selection
        Of each cut, one per image; empty for the unpruned model.
    """

    answers: list[str]
    truncated: list[bool]
    selections: list[Selection | None]
    kept: list[int]
    timer: GenerationTimer
    selection_times: dict[str, float]
    flops: list[Flops | None]
    stages: list[list[int]] = field(default_factory=list)
    cuts: Sequence[Sequence[Selection]] = ()


def run_once(
    vlm: VLM,
    encoded: Encoded,
    config: Config,
    options: GenerationOptions,
    *,
    full_length: bool = False,
    timed: bool = False,
    graphs: GraphedStates | None = None,
    marks: Sequence[int] = (),
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
    graphs : GraphedStates, optional
        Of earlier runs, for ``options.decode = "graph"``.
    marks : sequence of int
        Decoder layers whose beginning in the prefill is timed; see
        :class:`~biaslab.evaluation.stopwatch.GenerationTimer`.

    Returns
    -------
    OneRun

    Raises
    ------
    InputError, UnsupportedError, ProfileMismatchError
        What the pruning engine refuses; see :func:`biaslab.pruning.prune`.
    """
    new = options.max_new_tokens
    timer = GenerationTimer(vlm.model, vlm.decoder, layers=marks)
    given: dict[str, Any] = {"min_new_tokens": new} if full_length else {}
    with timer, _pruned(vlm, config, options, timed) as engine:
        run = None if engine is None else engine.run
        if options.decode != "dynamic":
            from biaslab.evaluation.decoding.one_generate import static_options  # pulls in transformers

            given |= static_options(vlm, options.decode, new, engine, options.positions, graphs)
        answers = answers_to(vlm, encoded, new, given)
        timer.stop()
        chosen = None if run is None else list(run.stages)
    lengths = [new] * len(answers.texts) if full_length else None
    times = {} if run is None else run.times
    return finished_run(
        vlm, encoded, config, answers, chosen, timer, limit=new, lengths=lengths, times=times, cache=options.cache
    )


def finished_run(
    vlm: VLM,
    encoded: Encoded,
    config: Config,
    answers: Answers,
    stages: Sequence[Sequence[Selection]] | None,
    timer: GenerationTimer,
    *,
    limit: int,
    lengths: Sequence[int] | None = None,
    times: dict[str, float] | None = None,
    cache: str = "full",
) -> OneRun:
    """Put together what a batch of prompts gave under one configuration, and what it cost.

    Parameters
    ----------
    vlm : VLM
    encoded : Encoded
    config : Config
    answers : Answers
    stages : sequence of sequence of Selection, optional
        Of each cut, one per image; None for the unpruned model.
    timer : GenerationTimer
    limit : int
        Of new tokens.
    lengths : sequence of int, optional
        Tokens of each answer; by default those of its text and the end token.
    times : dict of str to float, optional
        What the prefill spent on scoring and selection, in ms.
    cache : "full" or "trimmed"

    Returns
    -------
    OneRun
    """
    chosen: list[Selection | None] = [None] * len(encoded.layouts) if not stages else list(stages[-1])
    left = [[len(selection.indices) for selection in stage] for stage in stages or ()]
    kept = [layout.n for layout in encoded.layouts] if not left else left[-1]
    if lengths is None:  # + 1: the end token
        lengths = [min(_tokens(vlm, text) + 1, limit) for text in answers.texts]
    flops = _flops(vlm, encoded, config, left or [kept], list(lengths), cache)
    each = [list(counts) for counts in zip(*left, strict=True)] if len(left) > 1 else []
    return OneRun(answers.texts, answers.truncated, chosen, kept, timer, times or {}, flops, each, stages or ())


def check_text(vlm: VLM, prompt: str) -> None:
    """Refuse a prompt that alone is too long for the model, or that it cannot take, without encoding an image.

    Raises
    ------
    InputError
        A text of more tokens than the model has positions, no proper Unicode, or one that holds an image token.
    """
    vlm.family.check_text(vlm.processor, prompt)
    limit, length = position_limit(vlm.model.config), _tokens(vlm, prompt)
    if limit is not None and length > limit:
        raise InputError(
            f"the text takes {length} positions, and the model has {limit}: shorten the expression or question"
        )


def prompt_lengths(encoded: Encoded) -> list[int]:
    """Count the tokens of each prompt, padding left out."""
    mask = encoded.inputs.get("attention_mask")
    return [encoded.last + 1] * len(encoded) if mask is None else mask.sum(1).tolist()


def _pruned(vlm: VLM, config: Config, options: GenerationOptions, timed: bool):
    if config.method is None:
        return nullcontext()
    return engaged(vlm, **config.engagement, **options.engagement, timed=timed)


def _tokens(vlm: VLM, answer: str) -> int:
    return len(vlm.processor.tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"])


def _flops(
    vlm: VLM, encoded: Encoded, config: Config, kept: Sequence[Sequence[int]], new: list[int], cache: str
) -> list[Flops | None]:
    """Count the FLOPs of each prompt: all its images together, its text once; ``kept`` is of each cut, by image."""
    layers = [stage.layer for stage in config.stages] or [0]
    costs: list[Flops | None] = []
    for row, length in enumerate(prompt_lengths(encoded)):
        images = [i for i, owner in enumerate(encoded.owners) if owner == row]
        layouts = [encoded.layouts[i] for i in images]
        inputs, n_text = [VisionInput.of(layout) for layout in layouts], length - sum(layout.n for layout in layouts)
        n_kept = [sum(stage[i] for i in images) for stage in kept]
        try:
            spent: Any = {"keep_n": n_kept, "layer": layers, "new_tokens": new[row], "cache": cache}
            costs.append(prompt_flops(vlm.model.config, inputs, n_text, **spent))
        except UnsupportedError:  # a family whose cost nobody has written down yet can still be run
            costs.append(None)
    return costs
