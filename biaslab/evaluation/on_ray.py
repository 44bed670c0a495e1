"""Spreads an evaluation over a Ray cluster: actors that come and go, and units of images handed to whoever is free."""

from __future__ import annotations

import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from biaslab._util.processes import usable_cores
from biaslab._util.text import first_line
from biaslab.errors import BiaslabError, InputError
from biaslab.evaluation.log_growth import LogGrowth, heard
from biaslab.evaluation.ray_actor import Evaluator
from biaslab.evaluation.reports import WarningRepeater
from biaslab.evaluation.sharing import Plan
from biaslab.evaluation.worker import WorkItem, by_image
from biaslab.models.recipe import recipe_of

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["import_ray", "run_on_ray"]

DEATHS = 3  # of actors over one unit, or in a row before any work: then another one would not help
_LOOK_SECONDS = 1.0  # between two looks for an interruption

logger = logging.getLogger(__name__)


def import_ray() -> Any:
    """Import Ray, which is installed with the extra ``biaslab[ray]``.

    Raises
    ------
    InputError
        It is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError("engine='ray' needs Ray: pip install 'biaslab[ray]', or use processes alone") from error
    return ray


def run_on_ray(
    vlm: VLM,
    plan: Plan,
    tasks: Sequence[WorkItem],
    *,
    processes: int | None,
    gpus: float | None,
    advance: Callable[[int], None],
) -> None:
    """Evaluate tasks with actors of a Ray cluster, or of this machine where none is running.

    The unit of work is an image with its expressions, or as many images as fill a batch. When an actor or its node
    dies, what the logs lack of its unit goes to another one, and a new actor is asked for.

    Parameters
    ----------
    vlm, plan, tasks
        The actors load the model anew, and write into logs of their own in the run folder.
    processes : int, optional
        Actors. Default: as many as the cluster's GPUs allow, one where it has none.
    gpus : float, optional
        GPUs of an actor, also a part of one. Default: 1 where the cluster has GPUs, else 0.
    advance : callable
        Hears of new lines as they appear.

    Raises
    ------
    InputError
        No Ray, a model or samples that cannot go to other processes, more than the cluster has.
    BiaslabError
        An actor failed, or died again and again; what is finished stays in the logs.
    """
    ray, recipe = import_ray(), recipe_of(vlm)
    if recipe.load_in is None:  # "auto" could be another precision on the devices of the actors
        recipe = replace(recipe, dtype=str(next(vlm.model.parameters()).dtype).removeprefix("torch."))
    growth = LogGrowth(plan.folder)
    with _session(ray):
        units = [_Unit(unit) for unit in _units(tasks, plan.batch_size)]
        n, resources = _resources(ray, processes, gpus, len(units))
        try:
            shared = ray.put((plan, recipe, bool(resources["num_gpus"])))
            ray.put(units[0].tasks)
        except TypeError as error:
            raise InputError(
                f"the samples or methods cannot go to another process ({' '.join(str(error).split())[:200]}): use "
                "processes=1 without engine='ray'"
            ) from error
        pool = _Pool(ray, plan, growth, resources, shared)
        try:
            with heard(LogGrowth(plan.folder), advance=advance):
                pool.run(units, n)
        finally:
            pool.end()


@dataclass
class _Unit:
    tasks: list[WorkItem]
    deaths: int = 0


def _units(tasks: Sequence[WorkItem], batch_size: int) -> Iterator[list[WorkItem]]:
    """Yield whole images, several together until they fill a batch."""
    unit: list[WorkItem] = []
    for image in by_image(tasks):
        unit += image
        if len(unit) >= batch_size:
            yield unit
            unit = []
    if unit:
        yield unit


@dataclass
class _Pool:
    """The actors of a run, what each is doing, and what is left to do."""

    ray: Any
    plan: Plan
    growth: LogGrowth
    resources: dict[str, float]
    shared: Any
    actors: list[Any] = field(default_factory=list)
    busy: dict[Any, tuple[Any, _Unit | None]] = field(default_factory=dict)  # None: it is starting
    idle: list[Any] = field(default_factory=list)
    queue: deque[_Unit] = field(default_factory=deque)
    warnings: WarningRepeater = field(default_factory=WarningRepeater)
    starts_lost: int = 0

    def run(self, units: Sequence[_Unit], n: int) -> None:
        self.queue.extend(units)
        for _ in range(n):
            self._start()
        given_up: list[_Unit] = []
        while self.queue or any(unit is not None for _, unit in self.busy.values()):
            while self.queue and self.idle:
                actor, next_unit = self.idle.pop(), self.queue.popleft()
                self.busy[actor.run.remote(next_unit.tasks)] = (actor, next_unit)
            for ref in self.ray.wait(list(self.busy), timeout=_LOOK_SECONDS)[0]:
                actor, unit = self.busy.pop(ref)
                try:
                    warned = self.ray.get(ref)
                except self.ray.exceptions.RayActorError as error:
                    given_up += self._lost(actor, unit, error)
                except self.ray.exceptions.RayTaskError as error:
                    raise _as_ours(error) from None
                else:
                    self.starts_lost = 0
                    self.idle.append(actor)
                    for warning in warned:
                        self.warnings.repeat(warning)
        if given_up:
            first = given_up[0].tasks[0].sample
            raise BiaslabError(
                f"{len(given_up)} units of work ended {DEATHS} processes each, the first one with the image "
                f"{first.image_id}; all others are done, and the same command tries these again: give an actor more "
                "memory, or a smaller --batch-size"
            )

    def _start(self) -> None:
        actor = self.ray.remote(Evaluator).options(max_restarts=0, max_task_retries=0, **self.resources).remote()
        self.actors.append(actor)
        self.busy[actor.start.remote(self.shared)] = (actor, None)

    def _lost(self, actor: Any, unit: _Unit | None, error: Exception) -> list[_Unit]:
        """Go on without an actor; returns the unit if nobody is to try it again."""
        self.actors.remove(actor)
        self.ray.kill(actor)  # one that is only out of reach must not go on with what another one does
        if unit is None:
            self.starts_lost += 1
            if self.starts_lost > DEATHS:
                raise BiaslabError(
                    f"{self.starts_lost} processes died while they loaded the model ({_first_line(error)}): the same "
                    "command goes on; use fewer --processes if memory ran out"
                )
        logger.warning("a process of the evaluation died, another one goes on from its log: %s", _first_line(error))
        self._start()
        if unit is None:
            return []
        unit.deaths += 1
        unit.tasks = self.plan.without(unit.tasks, self.growth.records())
        if unit.tasks and unit.deaths >= DEATHS:
            return [unit]
        if unit.tasks:
            self.queue.appendleft(unit)
        return []

    def end(self) -> None:
        for actor in self.actors:
            self.ray.kill(actor)


@contextmanager
def _session(ray: Any) -> Iterator[None]:
    """Use the cluster that is running, or one of this machine for as long as the block lasts."""
    if ray.is_initialized():  # the caller's own
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)  # Ray puts its own in the place of ours
    try:
        _join_or_start(ray)
        if handler is not None and signal.getsignal(signal.SIGTERM) is not handler:
            signal.signal(signal.SIGTERM, handler)
        yield
    finally:
        ray.shutdown()


def _join_or_start(ray: Any) -> None:
    """Join the cluster at ``RAY_ADDRESS`` or that ``ray start`` began; where there is none, start one.

    Ray's ``address="auto"`` would also join a cluster that another program started for itself, and die with it.
    """
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address := os.environ.get("RAY_ADDRESS"):  # asked for: no other one in its place
        try:
            ray.init(**quiet)
        except ConnectionError as error:
            raise BiaslabError(
                f"no Ray cluster answers at RAY_ADDRESS={address}: start it (ray start), or unset the variable"
            ) from error
        return
    own = {**quiet, "num_cpus": usable_cores(), "include_dashboard": False}
    with _no_telemetry():
        try:
            ray.init(**own)
            return
        except ValueError:  # a number of cores is refused where `ray start` began a cluster
            pass
        try:
            ray.init(**quiet)
        except ConnectionError:  # that cluster has died without `ray stop`
            ray.init(address="local", **own)


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Start no report to Ray's makers; the environment is the only place where Ray looks for that."""
    name = "RAY_USAGE_STATS_ENABLED"
    before = os.environ.get(name)
    os.environ[name] = "0" if before is None else before
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def _resources(ray: Any, asked: int | None, gpus: float | None, units: int) -> tuple[int, dict[str, float]]:
    """Say how many actors there are to be, and what each takes."""
    total = ray.cluster_resources()
    have_gpus, have_cores = total.get("GPU", 0.0), total.get("CPU", 1.0)
    share = (1.0 if have_gpus else 0.0) if gpus is None else float(gpus)
    if share < 0 or share > have_gpus or (share > 1 and share != int(share)):
        raise InputError(
            f"{share:g} GPUs per process of a cluster with {have_gpus:g}: use 1, a part of one such as 0.5, or 0 for "
            "the CPUs"
        )
    limit = int(have_gpus / share) if share else int(have_cores)
    wanted = (limit if share else 1) if asked is None else asked
    n = max(1, min(wanted, limit, units))
    if n < wanted and asked is not None:
        logger.warning(
            "%d processes are used instead of %d: %d units of work, room for %d in the cluster", n, wanted, units, limit
        )
    # the same everywhere: no more cores than the smallest machine has
    smallest = min((node["Resources"].get("CPU", 1.0) for node in ray.nodes() if node["Alive"]), default=1.0)
    cores = 1.0 if share else max(1.0, float(int(min(have_cores / n, smallest))))
    return n, {"num_cpus": cores, "num_gpus": share}


def _as_ours(error: Any) -> BiaslabError:
    cause = error.cause if isinstance(getattr(error, "cause", None), Exception) else error
    said = _first_line(cause)
    if isinstance(cause, BiaslabError):
        return BiaslabError(f"a process of the evaluation failed: {said}")
    return BiaslabError(
        f"a process of the evaluation failed: {type(cause).__name__}: {said}; the same command continues"
    )


def _first_line(error: Exception) -> str:
    return first_line(error)[:300]
