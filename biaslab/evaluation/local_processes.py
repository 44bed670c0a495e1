"""Spreads an evaluation over processes of this machine, which torch's elastic agent starts, and starts again."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING

import torch

from biaslab._util.launch import Launch
from biaslab._util.processes import deaf_to_interrupts, end_with_parent
from biaslab._util.seats import seat, turn
from biaslab.errors import BiaslabError, InputError
from biaslab.evaluation.log_growth import LogGrowth, heard
from biaslab.evaluation.reports import Reports, WarningRepeater
from biaslab.evaluation.sample_log import log_path
from biaslab.evaluation.sharing import Plan, even_shares, share_of_cores
from biaslab.evaluation.worker import WorkItem
from biaslab.models.recipe import LoadRecipe, recipe_of

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["check_spreadable", "run_processes"]

RESTARTS = 3  # of one agent; a process that has finished nothing between its deaths ends the run
_POLL_SECONDS = 0.2
_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")  # the agent replaces their handlers
_HANDLED = "TORCHELASTIC_SIGNALS_TO_HANDLE"  # torch leaves it in the environment

_TALKATIVE = ("torch.distributed.elastic", "torch.multiprocessing", "torch.distributed.launcher")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    """What the agent hands to every process."""

    plan: Plan
    recipe: LoadRecipe
    shares: Sequence[Sequence[WorkItem]]
    growth: LogGrowth
    reports: Reports
    on_gpu: bool


def check_spreadable(vlm: VLM) -> None:
    """Refuse a model that cannot be given to one device per process.

    Raises
    ------
    InputError
        It lies on several devices, or on one that is neither CPU nor CUDA.
    """
    devices = {parameter.device.type for parameter in vlm.model.parameters()}
    if len({parameter.device for parameter in vlm.model.parameters()}) > 1 or not devices <= {"cpu", "cuda"}:
        raise InputError(
            "processes > 1 give every process a copy of the model on a device of its own, and this one is spread "
            "over several or lies on another kind: use processes=1"
        )


def run_processes(
    vlm: VLM, plan: Plan, tasks: Sequence[WorkItem], *, processes: int, advance: Callable[[int], None]
) -> None:
    """Evaluate tasks on ``processes`` processes; ``advance(n)`` hears of new lines as they appear.

    A process that dies is started again, together with the others, and all go on from their logs.

    Raises
    ------
    InputError
        If the model or the samples cannot be given to another process.
    BiaslabError
        If a process fails, or dies again and again; what all of them finished stays in their logs.
    """
    check_spreadable(vlm)
    growth = LogGrowth(plan.folder)
    with tempfile.TemporaryDirectory(prefix="biaslab-") as scratch:
        reports = Reports(scratch)
        shares = even_shares(tasks, processes)
        job = _Job(plan, recipe_of(vlm), shares, growth, reports, vlm.device.type == "cuda")
        _check_picklable(job)
        hearer = _Hearer(reports)
        with heard(LogGrowth(plan.folder), hearer.hear, advance=advance), _agent_manners():
            _launch(job, processes, scratch)
        if hearer.failures:
            raise BiaslabError(f"a process of the evaluation failed: {hearer.failures[0]}")


def _check_picklable(job: _Job) -> None:
    try:
        ForkingPickler.dumps(job)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(f"the samples or methods cannot go to another process ({error}): use processes=1") from error


def _launch(job: _Job, processes: int, scratch: str) -> None:
    """Start agents until the work is done; each restarts its processes a few times."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    while True:
        before = _written(job, processes)
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
            rdzv_endpoint="localhost:0", max_restarts=RESTARTS, monitor_interval=_POLL_SECONDS, start_method="spawn",
            local_addr="localhost",
            logs_specs=DefaultLogsSpecs(log_dir=scratch),
        )  # fmt: skip
        try:
            elastic_launch(config, _work)(job)
            return
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if _written(job, processes)[rank] > before[rank]:
                continue
            raise BiaslabError(
                f"process {rank} of the evaluation died {RESTARTS + 1} times without finishing anything (exit status "
                f"{failure.exitcode}): the same command goes on; use fewer processes if memory ran out; in a script, "
                "call evaluate under `if __name__ == '__main__'`"
            ) from None


def _written(job: _Job, processes: int) -> list[int]:
    """Bytes that each process has in its log."""
    launches = (Launch(rank=rank, world_size=processes) for rank in range(processes))
    paths = [log_path(job.plan.folder, launch.writer) for launch in launches]
    return [path.stat().st_size if path.exists() else 0 for path in paths]


class _Hearer:
    """Repeats what the processes report: warnings once, restarts, failures."""

    def __init__(self, reports: Reports) -> None:
        self.reports = reports
        self.failures: list[str] = []
        self._warnings, self._starts = WarningRepeater(), set[str]()

    def hear(self) -> None:
        for kind, content in self.reports.new():
            if kind == "warning":
                self._warnings.repeat(content)
            elif kind == "failure":
                self.failures.append(content)
                logger.warning("a process of the evaluation ended, the others go on: %s", content)
            elif kind == "death":
                logger.warning("a process of the evaluation failed with %s", content)
            elif kind == "start" and content not in self._starts:
                if self._starts:
                    logger.warning("a process of the evaluation died: all are started again and go on from their logs")
                self._starts.add(content)


@contextmanager
def _agent_manners() -> Iterator[None]:
    """Let torch's agent change nothing for good: signal handlers, the environment; and keep its log to itself."""
    import_module("torch.distributed.launcher.api")  # its loggers are there, to be silenced
    from torch.distributed.elastic.multiprocessing import SignalException

    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    handlers = {number: signal.getsignal(number) for number in numbers}
    variable, received = os.environ.get(_HANDLED), None
    names = [name for name in logging.root.manager.loggerDict if name.startswith(_TALKATIVE)]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with deaf_to_interrupts():  # the processes; this one hears them in the thread that counts the lines
            yield
    except SignalException as error:
        received = error.sigval
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        os.environ.pop(_HANDLED, None)
        if variable is not None:
            os.environ[_HANDLED] = variable
    if received is not None:
        signal.raise_signal(received)  # to whom it would have come without the agent
        raise KeyboardInterrupt


def _work(job: _Job) -> None:
    """Be one of the processes: the agent's entry point."""
    _end_quietly()
    end_with_parent()  # an agent that was killed cannot stop its processes
    launch = Launch.from_environment()  # the door of this process
    job.reports.say("start", f"{launch.id}.{launch.restart}")
    try:
        with job.reports.warnings_told():
            _share(job, launch)
    except BiaslabError as error:  # its one line names the fix, and another start would not help
        job.reports.say("failure", str(error))
    except Exception as error:
        job.reports.say("death", f"{type(error).__name__}: {' '.join(str(error).split())}")
        sys.exit(1)


def _share(job: _Job, launch: Launch) -> None:
    with ExitStack() as stack:
        with turn(job.plan.folder):
            stack.enter_context(seat(job.plan.folder, job.plan.party, launch.writer))
        tasks = job.plan.without(job.shares[launch.rank], job.growth.records())
        if tasks:
            device = torch.device("cuda", launch.local_rank) if job.on_gpu else torch.device("cpu")
            with share_of_cores(device, launch.local_world_size):
                job.plan.run(job.recipe.load(device=device), tasks, launch.writer, lambda lines: None)


def _end_quietly() -> None:
    """End at Ctrl-C without a word: the process that was typed says what there is to say."""
    if hasattr(signal, "pthread_sigmask"):
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
