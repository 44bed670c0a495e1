"""How a run on Ray hands out its work, on a Ray that dies at command; the real one is in `test_kills.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from toy_grounding import Toy, run

from biaslab.errors import BiaslabError, InputError, RunFolderError
from biaslab.evaluation import on_ray
from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.on_ray import DEATHS, _Pool, _resources, _Unit, _units
from biaslab.evaluation.run_once import GenerationOptions
from biaslab.evaluation.sharing import Plan
from biaslab.evaluation.worker import WorkItem

CONFIGS = configurations(("none", "random"), (0.5,), 2)
TASKS = [WorkItem(i, sample, (0, 1)) for i, sample in enumerate(Toy(12))]  # six images


class RayActorError(Exception):
    """As Ray's."""


class RayTaskError(Exception):
    """As Ray's: what the actor raised is its cause."""

    def __init__(self, cause):
        super().__init__(str(cause))
        self.cause = cause


class Ray:
    """Actors in this process, which do as a test says: a function of the unit that may raise."""

    exceptions = SimpleNamespace(RayActorError=RayActorError, RayTaskError=RayTaskError)

    def __init__(self, does, starts=lambda: []):
        self.does, self.starts = does, starts
        self.started, self.killed = 0, []

    def remote(self, kind):
        self.started += 1
        start = SimpleNamespace(remote=lambda shared: (object(), lambda: self.starts()))
        work = SimpleNamespace(remote=lambda tasks: (object(), lambda: self.does(tasks)))
        actor = SimpleNamespace(start=start, run=work)
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: actor))

    def wait(self, refs, timeout):
        return refs[:1], refs[1:]

    def get(self, ref):
        return ref[1]()

    def kill(self, actor):
        self.killed.append(actor)


class Written(list):
    """What is in the logs."""

    def records(self):
        return iter(self)


def pool(tmp_path, does, written=None, **kw):
    plan = Plan(CONFIGS, GenerationOptions(), 4, tmp_path, "party")
    ray = Ray(does, **kw)
    return ray, _Pool(ray, plan, Written() if written is None else written, {}, None, busy={})


def test_units_are_whole_images_that_fill_a_batch():
    assert [[t.index for t in unit] for unit in _units(TASKS, 1)] == [[i, i + 1] for i in range(0, 12, 2)]
    assert [[t.index for t in unit] for unit in _units(TASKS, 5)] == [[*range(6)], [*range(6, 12)]]
    assert [[t.index for t in unit] for unit in _units(TASKS, 8)] == [[*range(8)], [*range(8, 12)]]


def test_what_a_dead_actor_had_not_finished_goes_to_another_one(tmp_path, caplog):
    written, seen = Written(), []

    def does(tasks):
        for task in tasks:
            for i in task.missing:
                if len(written) == 5 and len(seen) == 1:
                    seen.append("died")
                    raise RayActorError("worker died")
                written.append({"id": task.sample.id, **CONFIGS[i].describe()})
        seen.append("done")
        return [["in doubt", "builtins:FutureWarning", "rule.py", 3]]

    ray, actors = pool(tmp_path, does, written)
    with pytest.warns(FutureWarning, match="in doubt"):
        actors.run([_Unit(unit) for unit in _units(TASKS, 1)], 2)
    lines = [(line["id"], line["method"]) for line in written]
    assert len(lines) == len(set(lines)) == 24 and seen.count("died") == 1
    assert ray.started == 3 and len(ray.killed) == 1 and "another one goes on from its log" in caplog.text


def test_work_that_ends_every_actor_is_left_out_and_named_after_all_others(tmp_path):
    done = []

    def does(tasks):
        if tasks[0].sample.image_id == "image1":
            raise RayActorError("out of memory")
        done.append(tasks[0].sample.image_id)
        return []

    ray, actors = pool(tmp_path, does)
    with pytest.raises(BiaslabError, match="1 units of work ended 3 processes each, the first .* image image1"):
        actors.run([_Unit(unit) for unit in _units(TASKS, 1)], 1)
    assert done == ["image0", *(f"image{i}" for i in range(2, 6))] and ray.started == 1 + DEATHS


def test_actors_that_cannot_even_start_end_the_run(tmp_path):
    def starts():
        raise RayActorError("killed by the memory monitor")

    ray, actors = pool(tmp_path, lambda tasks: [], starts=starts)
    with pytest.raises(BiaslabError, match="processes died while they loaded the model .killed by the memory monitor"):
        actors.run([_Unit(TASKS)], 2)
    assert ray.started <= 2 + DEATHS


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (RunFolderError("does not see the run folder: choose another"), "failed: does not see the run folder: choose"),
        (ZeroDivisionError("division by zero"), "failed: ZeroDivisionError: division by zero; the same command"),
    ],
)
def test_what_an_actor_raises_is_said_in_a_line(tmp_path, cause, said):
    def does(tasks):
        raise RayTaskError(cause)

    with pytest.raises(BiaslabError, match=said):
        pool(tmp_path, does)[1].run([_Unit(TASKS)], 1)


def test_actors_are_as_many_as_the_cluster_has_room_for(caplog):
    def ray(gpus, *cores):
        total = {"CPU": float(sum(cores))} | ({"GPU": float(gpus)} if gpus else {})
        nodes = [{"Alive": True, "Resources": {"CPU": float(n)}} for n in cores]
        return SimpleNamespace(cluster_resources=lambda: total, nodes=lambda: nodes)

    assert _resources(ray(8, 32, 32), None, None, 999) == (8, {"num_cpus": 1.0, "num_gpus": 1.0})
    assert _resources(ray(8, 32, 32), None, 0.5, 999) == (16, {"num_cpus": 1.0, "num_gpus": 0.5})
    assert _resources(ray(8, 32, 32), 4, 2, 999) == (4, {"num_cpus": 1.0, "num_gpus": 2.0})
    assert _resources(ray(8, 32, 32), None, None, 3)[0] == 3
    assert _resources(ray(0, 16, 4), None, None, 999) == (1, {"num_cpus": 4.0, "num_gpus": 0.0})
    assert _resources(ray(8, 16, 16), 8, 0, 999) == (8, {"num_cpus": 4.0, "num_gpus": 0.0})
    assert not caplog.messages
    assert _resources(ray(2, 16), 4, None, 999)[0] == 2
    assert caplog.messages == ["2 processes are used instead of 4: 999 units of work, room for 2 in the cluster"]
    for share in (-1, 1.5, 9):
        with pytest.raises(InputError, match="GPUs per process of a cluster with 8"):
            _resources(ray(8, 32), None, share, 9)


def test_without_ray_the_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"engine='ray' needs Ray: pip install 'biaslab\[ray\]'"):
        run(methods="none", keep=0.5, engine="ray")


def test_engines_and_what_belongs_to_one():
    with pytest.raises(InputError, match="engine must be one of local, ray, got 'spark'"):
        run(methods="none", keep=0.5, engine="spark")
    with pytest.raises(InputError, match="gpus_per_process is for engine='ray'"):
        run(methods="none", keep=0.5, gpus_per_process=0.5)


def test_an_address_that_was_asked_for_is_not_replaced(monkeypatch):
    def init(**options):
        raise ConnectionError("nobody there")

    ray = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=lambda: None)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(BiaslabError, match="no Ray cluster answers at RAY_ADDRESS=10.0.0.1:6379"), on_ray._session(ray):
        pass


@pytest.mark.parametrize(
    ("started", "alive", "calls"),
    [
        (False, False, ["own"]),
        (True, True, ["own", "joined"]),
        (True, False, ["own", "joined", "local"]),  # `ray start`, and then the machine was switched off
    ],
)
def test_a_cluster_that_was_started_is_joined_else_one_tells_nobody(monkeypatch, started, alive, calls):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    asked, told = [], []

    def init(address=None, num_cpus=None, **options):
        assert address != "auto"  # which takes any cluster
        asked.append(address or ("own" if num_cpus else "joined"))
        told.append(os.environ.get("RAY_USAGE_STATS_ENABLED"))
        if started and asked[-1] == "own":
            raise ValueError("When connecting to an existing cluster, num_cpus and num_gpus must not be provided.")
        if asked[-1] == "joined" and not alive:
            raise ConnectionError

    ray = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=lambda: asked.append("down"))
    with on_ray._session(ray):
        pass
    assert asked == [*calls, "down"]
    assert set(told) == {"0"} and "RAY_USAGE_STATS_ENABLED" not in os.environ


OTHER = """
import ray
ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR")
print(ray.get_runtime_context().gcs_address, flush=True)
input()
"""


@pytest.mark.long
def test_a_cluster_of_another_program_is_left_to_it(monkeypatch):
    """It would end with that program, and this evaluation with it."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray = on_ray.import_ray()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", OTHER], **pipes) as other:
        theirs = other.stdout.readline().strip()
        with on_ray._session(ray):
            ours = ray.get_runtime_context().gcs_address
        other.communicate("\n")
    assert theirs and ours != theirs
