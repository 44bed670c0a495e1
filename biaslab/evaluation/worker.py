"""Runs a share of the samples of an evaluation through every configuration, a batch at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

from biaslab._util.ahead import ahead
from biaslab.datasets.base import content_hash
from biaslab.datasets.question import Question, are_questions
from biaslab.datasets.sample import Sample
from biaslab.errors import UnsupportedError
from biaslab.evaluation.configurations import Config
from biaslab.evaluation.kept_tokens import token_mask
from biaslab.evaluation.metrics import auroc, grounding_iou, is_hit, kept_share, target_tokens
from biaslab.evaluation.prepared import PreparedBatch, Ready, prepare, prepare_batch
from biaslab.evaluation.question_answers import is_right
from biaslab.evaluation.run_once import GenerationOptions, OneRun, run_once
from biaslab.evaluation.schema import VERDICT_FIELDS
from biaslab.models.preparing import Preparers
from biaslab.pruning import Selection
from biaslab.pruning.engine.vision import with_tower

if TYPE_CHECKING:
    from biaslab.evaluation.decoding.step_graph import GraphedStates
    from biaslab.models.encoded import Encoded
    from biaslab.models.grounding import Grounding
    from biaslab.models.vlm import VLM


#: rows (samples x configurations) that are decoded together, unless memory runs out
WIDTH = 128

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkItem:
    """A sample and the configurations it still lacks (indices into the plan)."""

    index: int
    sample: Sample
    missing: tuple[int, ...]


@dataclass
class Worker:
    """Evaluates tasks and hands every finished line to ``write``.

    The vision tower runs once per batch and image. From its features all configurations are answered together, what
    they share computed once (:mod:`biaslab.evaluation.sweep`); those that cannot be, and all of them with
    ``options.plain``, are one ``generate`` each, in which the engine captures, scores, selects and drops. Whatever
    fails in a batch is repeated sample by sample, and of a single sample configuration by configuration, so that an
    exception costs the sample it belongs to, and only that one: its line then has an ``error`` and no verdict.

    Images of the next batches are opened and cut by threads in the meantime, ``workers`` of them (default: of
    :func:`~biaslab.models.preparing.default_workers`); lines are those of none, in their order.
    """

    vlm: VLM
    configs: Sequence[Config]
    options: GenerationOptions
    write: Callable[[dict[str, Any]], None]
    workers: int | None = None
    names: list[dict[str, Any]] = field(init=False)
    width: int = field(init=False, default=WIDTH)
    shares: bool = field(init=False)
    graphs: GraphedStates | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.names = [config.describe() for config in self.configs]
        self.shares = not self.options.plain
        if self.options.decode == "graph":
            from biaslab.evaluation.decoding.step_graph import GraphedStates  # pulls in transformers

            self.graphs = GraphedStates()

    def run(self, tasks: Sequence[WorkItem], batch_size: int) -> None:
        """Evaluate all tasks, those of one image after each other."""
        each = batches(chain.from_iterable(by_image(tasks)), batch_size)
        preparers = self._preparers
        with ahead(partial(prepare_batch, preparers), each, workers=preparers.workers) as prepared:
            for batch in prepared:
                self._batch(batch)

    @cached_property
    def _preparers(self) -> Preparers:
        return Preparers(self.vlm, self.workers)

    def _batch(self, batch: PreparedBatch) -> None:
        for task, error in batch.failed:
            self._fail(task, task.missing, error)
        if batch.ready:
            self._attempt(batch.ready, batch.ready[0][0].missing, batch.prompts)

    def _attempt(self, ready: Ready, missing: Iterable[int], prompts: Encoded | Exception | None = None) -> None:
        encoded = self._tried(ready, missing, lambda: self._encode(ready, prompts))
        if encoded is None:
            return
        left = list(missing)
        if self.shares and (numbers := self._shareable(left)):
            done: set[int] = set()
            if not self._shared(ready, encoded, numbers, done) and len(ready) > 1:
                del encoded  # the tensors of the failed batch make room
                for item in ready:
                    self._attempt([item], [i for i in left if i not in done])
                return
            left = [i for i in left if i not in done]
        for i in left:
            for line in self._tried(ready, [i], partial(self._answer, ready, encoded, i)) or ():
                self.write(line)

    def _shareable(self, missing: Iterable[int]) -> list[int]:
        from biaslab.evaluation.sweep.shared import shareable  # pulls in transformers

        return shareable(self.vlm, {i: self.configs[i] for i in missing}, self.options)

    def _shared(self, ready: Ready, encoded: Encoded, numbers: Iterable[int], done: set[int]) -> bool:
        """Answer several configurations together; False if samples have to be tried alone.

        ``done`` hears of the configurations that are written; the others are left to the plain path.
        """
        from biaslab.evaluation.sweep.shared import run_shared

        def write(i: int, run: OneRun) -> None:
            lines = self.lines(ready, encoded, i, run)
            for line in lines:
                self.write(line)
            done.add(i)

        while True:
            configs = {i: self.configs[i] for i in numbers if i not in done}
            rows = len(ready) * len(configs)
            try:
                run_shared(
                    self.vlm, encoded, configs, self.options, write, width=self.width, graphs=self.graphs
                )  # fmt: skip
                return True
            except UnsupportedError as error:  # of this model, not of these samples
                logger.debug("nothing is shared from here on: %s", error)
                self.shares = False
                return True
            except Exception as error:
                logger.debug("%d configurations of %d samples do not go together: %r", len(configs), len(ready), error)
                if not is_out_of_memory(error) or min(self.width, rows) <= len(ready):
                    return False
            self.width = max(min(self.width, rows) // 2, len(ready))  # for the batches that follow as well
            self._make_room()  # outside the except block, which holds what the failed try has made

    def _tried(self, ready: Ready, missing: Iterable[int], work: Callable[[], Any]) -> Any:
        """Return what ``work()`` does, or None if it failed: each sample is then tried alone, a single one logged."""
        try:
            return work()
        except Exception as error:
            if len(ready) == 1:
                self._fail(ready[0][0], missing, error)
                return None
        # only here, outside the except block, are the tensors of the failed batch free again
        self._make_room()
        for item in ready:
            self._attempt([item], missing)
        return None

    def _make_room(self) -> None:
        """Give back what no tensor needs any more."""
        if self.graphs is not None:
            self.graphs.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _encode(self, ready: Ready, prompts: Encoded | Exception | None) -> Encoded:
        """Send prompts to the device, or, where there are none, make them first, and compute their features."""
        if isinstance(prompts, Exception):
            raise prompts
        encoded = self.vlm.send(prepare(self.vlm, ready) if prompts is None else prompts)
        methods, pictures = [config.method for config in self.configs], [task.sample.image_id for task, _ in ready]
        return with_tower(self.vlm, encoded, methods, pictures)

    def _answer(self, ready: Ready, encoded: Encoded, i: int) -> list[dict[str, Any]]:
        run = run_once(self.vlm, encoded, self.configs[i], self.options, graphs=self.graphs)
        return self.lines(ready, encoded, i, run)

    def lines(self, ready: Ready, encoded: Encoded, i: int, run: OneRun) -> list[dict[str, Any]]:
        """Make the lines of a batch's samples under configuration ``i``."""
        return [
            self._line(task, i)
            | judged
            | selected(run.selections[b], encoded.layouts[b], task.sample, run.stages[b] if run.stages else ())
            | costs(run, b)
            for b, ((task, _), judged) in enumerate(zip(ready, self._verdicts(ready, encoded, run), strict=True))
        ]

    def _verdicts(self, ready: Ready, encoded: Encoded, run: OneRun) -> list[dict[str, Any]]:
        samples = [task.sample for task, _ in ready]
        if are_questions(samples):
            asked = zip(run.answers, samples, run.truncated, strict=True)
            return [answered(text, sample, cut) for text, sample, cut in asked if isinstance(sample, Question)]
        answers = self.vlm.groundings(encoded, run.answers, run.truncated)
        return [verdict(answer, sample) for answer, sample in zip(answers, samples, strict=True)]

    def _line(self, task: WorkItem, i: int) -> dict[str, Any]:
        sample = task.sample
        return {
            "index": task.index,
            "id": sample.id,
            "sample_hash": content_hash([sample]),
            "image_id": sample.image_id,
            "expression_type": sample.expression_type,
            "object_size": sample.object_size,
            **self.names[i],
            "seed": self.options.seed,
            "target": list(sample.box.as_tuple()) if sample.has_target else None,
            "error": None,
            **self.vlm.watermark,
        }

    def _fail(self, task: WorkItem, missing: Iterable[int], error: Exception) -> None:
        first = (str(error).strip().splitlines() or [""])[0]
        for i in missing:
            line = self._line(task, i) | dict.fromkeys(VERDICT_FIELDS)
            self.write(line | {"error": f"{type(error).__name__}: {first}"[:500]})


def verdict(answer: Grounding, sample: Sample) -> dict[str, Any]:
    """Judge the answer to one sample: answer, box, IoU, hit, parsed and truncated."""
    iou = grounding_iou(answer.box, sample.box)
    box = None if answer.box is None else list(answer.box.as_tuple())
    return {
        "answer": answer.text,
        "box": box,
        "iou": iou,
        "hit": is_hit(iou),
        "parsed": answer.parsed,
        "truncated": answer.truncated,
    }


def answered(text: str, question: Question, truncated: bool) -> dict[str, Any]:
    """Judge the answer to a question: it has no box and no IoU, a hit is a right answer."""
    right, parsed = is_right(text, question.answers)
    return {"answer": text, "box": None, "iou": None, "hit": right, "parsed": parsed, "truncated": truncated}


def selected(selection: Selection | None, layout: Any, sample: Sample, stages: Sequence[int] = ()) -> dict[str, Any]:
    """Describe what a selection did to the target; without one (no pruning) everything is kept.

    ``stages`` are the tokens that each cut of a schedule has left.
    """
    fields: dict[str, Any] = {
        "target_auroc": None,
        "target_kept": 1.0 if sample.has_target else None,
        "tokens": layout.n,
        "tokens_kept": layout.n,
        "kept": None,
        "info": {"answers": list(sample.answers)} if isinstance(sample, Question) else {},
    }
    if selection is None:
        return fields
    kept = selection.indices.cpu().numpy()
    if sample.has_target:
        target = target_tokens(layout, sample.box)
        if selection.scores is not None:
            fields["target_auroc"] = float(auroc(selection.scores.float().cpu().numpy(), target))
        fields["target_kept"] = kept_share(kept, target)
    fields["tokens_kept"] = len(kept)
    fields["info"] |= selection.info
    if stages:
        fields["info"]["kept_per_stage"] = list(stages)
    fields["kept"] = token_mask(kept, layout.n)
    return fields


def costs(run: OneRun, b: int) -> dict[str, float | None]:
    """Tell what sample ``b`` of a run took: its share of the batch's time, the batch's memory, its own FLOPs.

    A run that shared its work with others has no time and no memory of its own: these are null, and ``bench`` has them.
    """
    timer, flops, batch = run.timer, run.flops[b], len(run.answers)
    parts = ("vision", "projector", "decoder")
    return {
        **{f"tflops_{part}": None if flops is None else getattr(flops, part) / 1e12 for part in parts},
        "batch": batch,
        "prefill_ms": None if timer.prefill_ms is None else timer.prefill_ms / batch,
        "decode_ms": None if timer.decode_ms is None else timer.decode_ms / batch,
        "peak_mb": timer.peak_mb,
    }


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception says that memory has run out, on any device."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def by_image(tasks: Iterable[WorkItem]) -> list[list[WorkItem]]:
    """Put the tasks of one image together, in the order in which the images first appear."""
    images: dict[str, list[WorkItem]] = {}
    for task in tasks:
        images.setdefault(task.sample.image_id, []).append(task)
    return list(images.values())


def batches(tasks: Iterable[WorkItem], size: int) -> Iterator[list[WorkItem]]:
    """Yield runs of at most ``size`` neighbours that lack the same configurations."""
    batch: list[WorkItem] = []
    for task in tasks:
        if batch and (len(batch) == size or task.missing != batch[0].missing):
            yield batch
            batch = []
        batch.append(task)
    if batch:
        yield batch
