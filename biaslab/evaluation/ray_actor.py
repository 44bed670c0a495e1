"""What an actor of a Ray cluster does: loads the model, and evaluates what it is handed into a log of its own."""

from __future__ import annotations

import platform
import re
import uuid
import warnings
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

from biaslab._util.jsonl import JsonLines
from biaslab._util.seats import seat, turn
from biaslab.errors import RunFolderError
from biaslab.evaluation.reports import WarningRepeater
from biaslab.evaluation.run_folder import RUN_FILE
from biaslab.evaluation.sample_log import log_path
from biaslab.evaluation.worker import Worker

if TYPE_CHECKING:
    from biaslab.evaluation.sharing import Plan
    from biaslab.evaluation.worker import WorkItem
    from biaslab.models.recipe import LoadRecipe

__all__ = ["Evaluator"]


class Evaluator:
    """One process of a run on Ray; each time one starts it has another log."""

    def start(self, shared: tuple[Plan, LoadRecipe, bool]) -> list[list[Any]]:
        """Take a seat in the run folder and load the model; returns what was warned of.

        Raises
        ------
        RunFolderError
            This machine does not see the run folder.
        """
        import ray

        plan, recipe, on_gpu = shared
        if not (plan.folder / RUN_FILE).is_file():
            raise RunFolderError(
                f"{platform.node()} does not see the run folder {plan.folder}: choose one on a file system that all "
                "machines of the cluster share"
            )
        if not on_gpu:  # Ray says how many cores are this actor's
            torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
        host = re.sub(r"[^\w-]", "-", platform.node()) or "host"
        self._writer = f"{host}-ray-{uuid.uuid4().hex[:8]}"
        self._plan, self._stack = plan, ExitStack()
        with turn(plan.folder):
            self._stack.enter_context(seat(plan.folder, plan.party, self._writer))
        with warnings.catch_warnings(record=True) as warned:
            vlm = recipe.load(device="cuda" if on_gpu else "cpu")  # Ray shows an actor its own GPU alone
        log = self._stack.enter_context(JsonLines(log_path(plan.folder, self._writer)))
        # a unit is hardly more than a batch: there is none to look ahead to
        self._worker = Worker(vlm, plan.configs, plan.options, log.append, workers=0)
        return [WarningRepeater.described(w.message, w.category, w.filename, w.lineno) for w in warned]

    def run(self, tasks: list[WorkItem]) -> list[list[Any]]:
        """Evaluate tasks, each line into the log as it is made; returns what was warned of."""
        with warnings.catch_warnings(record=True) as warned:
            self._worker.run(tasks, self._plan.batch_size)
        return [WarningRepeater.described(w.message, w.category, w.filename, w.lineno) for w in warned]
