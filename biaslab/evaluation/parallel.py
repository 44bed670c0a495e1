"""Spreads an evaluation over processes on the CPU, each with its own copy of the model and its own log."""

from __future__ import annotations

import multiprocessing
import pickle
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from biaslab._util.jsonl import JsonLines
from biaslab._util.processes import deaf_to_interrupts, end_with_parent, usable_cores
from biaslab.errors import BiaslabError, InputError, ModelError
from biaslab.evaluation.configurations import Config
from biaslab.evaluation.run_once import GenerationOptions
from biaslab.evaluation.sample_log import LineCounter, log_path
from biaslab.evaluation.worker import Worker, WorkItem

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class ModelRecipe:
    """How another process gets the same model, and how it checks that it did."""

    name: str
    revision: str | None
    dtype: str
    attn_implementation: str
    image_options: dict[str, Any]
    probe: tuple[float, ...]

    @classmethod
    def of(cls, vlm: VLM) -> ModelRecipe:
        """Write down how to load a model that is in memory.

        Raises
        ------
        InputError
            If the model is not on the CPU, or its name is none that can be loaded (a wrapped model).
        """
        from biaslab.models.registry import resolve

        if vlm.device.type != "cpu":
            raise InputError(f"processes > 1 share CPU cores, the model is on {vlm.device}: use processes=1")
        try:
            resolve(vlm.name)
        except BiaslabError as error:
            raise InputError(
                f"other processes cannot load {vlm.name!r}: use processes=1, or save the model and load "
                "it from its folder"
            ) from error
        dtype = str(next(vlm.model.parameters()).dtype).removeprefix("torch.")
        config: Any = vlm.model.config
        attention = config._attn_implementation or "sdpa"
        return cls(vlm.name, vlm.revision, dtype, attention, dict(vlm.image_options), _probe(vlm))

    def load(self) -> VLM:
        """Load the model.

        Raises
        ------
        ModelError
            Its weights are others than those in memory were.
        """
        from biaslab.models.loading import load
        from biaslab.models.registry import resolve

        revision = self.revision if resolve(self.name).hub_id else None
        vlm = load(
            self.name,
            device="cpu",
            dtype=self.dtype,
            attn_implementation=self.attn_implementation,
            revision=revision,
        )
        vlm.image_options.update(self.image_options)
        if _probe(vlm) != self.probe:
            raise ModelError(f"{self.name!r} as loaded has other weights than the model in memory: use processes=1")
        return vlm


@dataclass(frozen=True)
class Job:
    """What one process does."""

    recipe: ModelRecipe
    configs: Sequence[Config]
    options: GenerationOptions
    tasks: Sequence[WorkItem]
    batch_size: int
    log: Path
    threads: int


def run_parallel(
    vlm: VLM,
    configs: Sequence[Config],
    options: GenerationOptions,
    tasks: Sequence[WorkItem],
    *,
    batch_size: int,
    folder: Path,
    processes: int,
    advance: Callable[[int], None],
) -> None:
    """Evaluate tasks on ``processes`` spawned processes; ``advance(n)`` hears of new lines as they appear.

    Raises
    ------
    InputError
        If the model or the samples cannot be given to another process.
    BiaslabError
        If a process fails; what all of them finished stays in their logs.
    """
    recipe = ModelRecipe.of(vlm)
    context = multiprocessing.get_context("spawn")
    threads = max(1, usable_cores() // processes)
    counter, failures, heard = LineCounter(folder), context.SimpleQueue(), _Warnings(context.SimpleQueue())
    workers = []
    try:
        for rank in range(processes):
            job = Job(
                recipe,
                configs,
                options,
                tasks[rank::processes],
                batch_size,
                log_path(folder, rank),
                threads,
            )
            worker = context.Process(target=_work, args=(job, failures, heard.queue), daemon=True)
            _start(worker)
            workers.append(worker)
        while any(worker.is_alive() for worker in workers):
            time.sleep(_POLL_SECONDS)
            advance(counter.new())
            heard.repeat()
            if any(worker.exitcode for worker in workers):
                break
        advance(counter.new())
        heard.repeat()
        if not failures.empty():
            raise BiaslabError(f"a process of the evaluation failed: {failures.get()}")
        if any(worker.exitcode for worker in workers):
            codes = [worker.exitcode for worker in workers]
            raise BiaslabError(
                f"a process of the evaluation died (exit statuses {codes}): the same command goes on; use fewer "
                "processes if memory ran out; in a script, call evaluate under `if __name__ == '__main__'`"
            )
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _start(worker: Any) -> None:
    try:
        with deaf_to_interrupts():
            worker.start()
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(f"the samples or methods cannot go to another process ({error}): use processes=1") from error


class _Warnings:
    """Warnings of the workers, repeated here: this process has the caller's filters and the command line's hook."""

    def __init__(self, queue: Any) -> None:
        self.queue = queue
        self._registry: dict[Any, Any] = {}  # what every worker warns of is one warning

    def repeat(self) -> None:
        while not self.queue.empty():
            message, category, filename, line = self.queue.get()
            warnings.warn_explicit(message, category, filename, line, registry=self._registry)


def _work(job: Job, failures: Any, heard: Any) -> None:
    end_with_parent()  # a parent that was killed cannot stop its children
    # this process is the workers' own: nobody else's hook is replaced
    warnings.showwarning = lambda message, category, filename, line, *_: heard.put(
        (str(message), category, filename, line)
    )
    torch.set_num_threads(job.threads)
    try:
        with JsonLines(job.log) as log:
            worker = Worker(job.recipe.load(), job.configs, job.options, log.append)
            worker.run(job.tasks, job.batch_size)
    except KeyboardInterrupt:
        return  # the parent was interrupted too, and reports it
    except BiaslabError as error:  # its one line names the fix
        failures.put(str(error))
    except Exception as error:
        failures.put(f"{type(error).__name__}: {error}; the same command continues")


def _probe(vlm: VLM) -> tuple[float, ...]:
    """Sum a few weight tensors over the depth of the model: equal for equal weights."""
    weights = list(vlm.model.parameters())
    picked = [*weights[:: max(1, len(weights) // 16)], weights[-1]]
    return tuple(float(weight.detach().double().sum()) for weight in picked)
