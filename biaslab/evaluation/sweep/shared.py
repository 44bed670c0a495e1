"""Every configuration of a batch, what they have in common computed once.

The layers below the smallest K run once, on to the next K from there. Each configuration selects from what they have
shown; the layers from K on run for all configurations of one budget as one batch, and their answers are decoded
together. The unpruned model is the same prefix, run to its end. Everything goes through the model's own modules.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from biaslab.errors import BiaslabError
from biaslab.evaluation.configurations import Config
from biaslab.evaluation.decoding.greedy import decode
from biaslab.evaluation.decoding.ways import not_plain_greedy
from biaslab.evaluation.run_once import GenerationOptions, OneRun, finished_run
from biaslab.evaluation.stopwatch import GenerationTimer
from biaslab.evaluation.sweep.generation import Generation
from biaslab.evaluation.sweep.kv_cache import Rows, wide_cache
from biaslab.evaluation.sweep.prefix import run_prefix
from biaslab.evaluation.sweep.selections import Selecting
from biaslab.evaluation.sweep.short_prefill import run_short
from biaslab.evaluation.sweep.swapped_layers import logits_of
from biaslab.models.answering import generation_options
from biaslab.models.answers import read_answers
from biaslab.pruning import Schedule
from biaslab.pruning.engine.checks import check_setup
from biaslab.pruning.engine.pruned_index import PrunedIndex, stacked, whole

if TYPE_CHECKING:
    from biaslab.evaluation.decoding.step_graph import GraphedStates
    from biaslab.models.encoded import Encoded
    from biaslab.models.vlm import VLM

__all__ = ["run_shared", "shareable"]

logger = logging.getLogger(__name__)


def shareable(vlm: VLM, configs: Mapping[int, Config], options: GenerationOptions) -> list[int]:
    """List the configurations, by number, that can be run from one prefix; the others run one by one.

    Left out are configurations that the engine refuses, for it to say why, and ways to generate other than greedy
    decoding into a dynamic KV cache, which a checkpoint's generation config may ask for.
    """
    if why := not_plain_greedy(vlm, options.max_new_tokens):
        logger.debug("nothing is shared: %s", why)
        return []
    if options.cache != "full":
        logger.debug("nothing is shared: the layers of a shared prefix hold what every configuration needs of them")
        return []
    numbers = [i for i, config in configs.items() if _is_accepted(vlm, config, options.positions)]
    return numbers if len(numbers) > 1 else []


def _is_accepted(vlm: VLM, config: Config, positions: str) -> bool:
    """Whether the engine takes a configuration."""
    if config.method is None:
        return True
    if isinstance(config.method, Schedule):
        return False  # what its later stages read depends on what the first one left
    if config.method.merges:
        logger.debug("%s goes the plain way: its tokens are merged", config.method.label)
        return False
    try:
        check_setup(vlm, config.method, config.layer, positions)
    except BiaslabError as error:
        logger.debug("%s goes the plain way: %s", config.method.label, error)
        return False
    return True


def run_shared(
    vlm: VLM,
    encoded: Encoded,
    configs: Mapping[int, Config],
    options: GenerationOptions,
    write: Callable[[int, OneRun], None],
    *,
    width: int,
    graphs: GraphedStates | None = None,
) -> None:
    """Answer a batch of prompts under several configurations.

    Parameters
    ----------
    vlm : VLM
    encoded : Encoded
        B prompts.
    configs : mapping of int to Config
    options : GenerationOptions
    write : callable
        ``write(number, run)`` is given the run of each configuration as soon as it is done. One whose selection fails
        is not written; nor are those that have not been reached when an exception passes through.
    width : int
        Rows of a wide batch at most; B at least.
    graphs : GraphedStates, optional
        Of earlier batches, for ``options.decode = "graph"``.
    """
    sweep = _Sweep(vlm, encoded, configs, options, write, max(1, width // len(encoded)), graphs)
    with vlm.running(encoded) as inputs, torch.no_grad():
        vlm.model.generate(**inputs, **sweep.settings, custom_generate=sweep.generate)


@dataclass(frozen=True, eq=False)
class _Part:
    """Configurations whose rows have been prefilled: B rows each, one configuration after the other."""

    numbers: list[int]
    logits: Tensor
    layer: int  # K; the number of layers where nothing is pruned
    cut: PrunedIndex | None
    cache: Any


class _Sweep:
    """The work on one batch."""

    def __init__(
        self, vlm: VLM, encoded: Encoded, configs: Mapping[int, Config], options: GenerationOptions,
        write: Callable[[int, OneRun], None], per_batch: int, graphs: GraphedStates | None,
    ) -> None:  # fmt: skip
        self.vlm, self.encoded, self.configs, self.options = vlm, encoded, configs, options
        self.write, self.per_batch, self.graphs = write, per_batch, graphs
        self.settings = generation_options(vlm, options.max_new_tokens, {})
        self.timer = GenerationTimer(vlm.model, vlm.decoder)  # never started: no time here is one run's alone

    def generate(
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
        """Do what the generation loop of transformers does, for all configurations."""
        given = (model_kwargs, logits_processor, stopping_criteria, generation_config)
        self.generation = Generation.of(model, input_ids, *given)
        self.prefix = run_prefix(self.vlm, self.generation, list(self.configs.values()), self.options.seed)
        pruned = {i: config for i, config in self.configs.items() if config.method is not None}
        self.chosen = Selecting(self.vlm, self.prefix, self.options.positions).of(pruned)
        waiting: list[_Part] = []
        for part in self._parts():
            if waiting and sum(len(p.numbers) for p in (*waiting, part)) > self.per_batch:
                self._answer(waiting)
                waiting = []
            waiting.append(part)
        if waiting:
            self._answer(waiting)
        return input_ids

    def _parts(self) -> Iterator[_Part]:
        """Prefill configurations of one budget together, the longest sequences first: neighbours differ least."""
        if self.prefix.logits is not None:
            numbers = [i for i, config in self.configs.items() if config.method is None]
            yield _Part(numbers, self.prefix.logits, self.vlm.n_layers, None, None)
        groups: dict[tuple[int, int], list[int]] = {}
        for i, choice in self.chosen.items():
            groups.setdefault((self.configs[i].layer or 0, choice.cut.kept), []).append(i)
        for (layer, _), group in sorted(groups.items(), key=lambda item: (item[0][0], -item[0][1])):
            for first in range(0, len(group), self.per_batch):
                yield self._prefilled(layer, group[first : first + self.per_batch])

    def _prefilled(self, layer: int, numbers: list[int]) -> _Part:
        cuts = [self.chosen[i].cut for i in numbers]
        hidden, cache = run_short(self.vlm, self.prefix, layer, cuts, self.options.positions)
        rows = self.generation.rows(self._samples(numbers))
        return _Part(numbers, logits_of(self.vlm, rows, hidden, self.prefix.empty), layer, stacked(cuts), cache)

    def _answer(self, parts: Sequence[_Part]) -> None:
        """Decode the rows of some parts as one batch, and write the runs."""
        samples = [self._samples(part.numbers) for part in parts]
        rows = [Rows(len(part.numbers), part.layer, part.cache) for part in parts]
        cache = wide_cache(self.prefix.cache, rows, self.encoded.last + 1)
        wide = self.generation.rows(torch.cat(samples)).with_cache(cache)
        logits = torch.cat([part.logits for part in parts])
        tokens = decode(
            self.vlm, wide, logits, self._cuts(parts), self.options.positions, way=self.options.decode,
            graphs=self.graphs,
        )  # fmt: skip
        batch = len(self.encoded)
        for place, i in enumerate(i for part in parts for i in part.numbers):
            own = tokens[place * batch : (place + 1) * batch]
            ids = self.generation.padded(own)
            stages = [self.chosen[i].selections] if i in self.chosen else None
            answers = read_answers(self.vlm, ids, self.settings)
            limit = self.options.max_new_tokens
            run = finished_run(self.vlm, self.encoded, self.configs[i], answers, stages, self.timer, limit=limit)
            self.write(i, run)

    def _cuts(self, parts: Sequence[_Part]) -> list[tuple[int, PrunedIndex]]:
        """Tell from which layer on the rows of a batch see which sequence."""
        length, device = self.encoded.last + 1, self.encoded.device
        return [
            (
                start,
                stacked([
                    part.cut if part.cut is not None and part.layer <= start
                    else whole(len(part.logits), length, device)
                    for part in parts
                ]),
            )
            for start in sorted({part.layer for part in parts if part.cut is not None})
        ]  # fmt: skip

    def _samples(self, numbers: Sequence[int]) -> Tensor:
        """List the prompt of every row: all of the batch, for one configuration after the other."""
        return torch.arange(len(self.encoded), device=self.generation.ids.device).repeat(len(numbers))
