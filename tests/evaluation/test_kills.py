"""Processes of an evaluation are killed, at work and under every launcher: nothing is lost, nothing done twice."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import pytest
from toy_grounding import Toy, run

import biaslab as bl
from benchmarks.kills import MARKS, Run, descendants
from biaslab.errors import BiaslabError, InputError
from biaslab.evaluation import local_processes
from biaslab.evaluation.sample_log import log_files

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc"),
]
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The same run by one process that nobody disturbs."""
    undisturbed = Run(tmp_path_factory.mktemp("whole") / "run", n=20, batch_size=16)
    assert undisturbed.start(1).wait() == 0
    return undisturbed


def end(disturbed, process, number=signal.SIGKILL):
    """End a launcher; its exit status. None of our processes stays behind; Ray's own helpers take their time."""
    workers = descendants(process.pid, MARKS[disturbed.engine])
    assert workers
    process.send_signal(number)
    status = process.wait()
    assert not disturbed.wait_for_the_dead(workers)
    return status


def is_whole(disturbed, whole):
    row = disturbed.row(whole)
    assert row["wanted"] == row["found"] == row["distinct"] == 40 and row["equal"] == "yes", row
    assert (disturbed.out / "results.csv").read_text().count("\n") > 2


def test_workers_and_launchers_die_and_any_number_of_processes_goes_on(tmp_path, whole):
    disturbed = Run(
        tmp_path / "run", "torchrun", n=20, batch_size=1
    )  # lines come in pairs: some are left for every kill
    process = disturbed.start(2)
    assert disturbed.kill(process, 2, "worker")  # torchrun starts its processes again
    assert disturbed.kill(process, 2, "nobody") and end(disturbed, process) == -signal.SIGKILL
    disturbed.engine = "processes"
    process = disturbed.start(2)
    assert disturbed.kill(process, 2, "worker")  # torch's agent starts them again
    assert disturbed.kill(process, 2, "nobody") and end(disturbed, process, signal.SIGTERM) == 143
    assert disturbed.start(1).wait() == 0
    is_whole(disturbed, whole)


@needs_ray
def test_actors_and_the_driver_of_ray_die(tmp_path, whole):
    disturbed = Run(tmp_path / "run", "ray", n=20)
    process = disturbed.start(2)
    assert disturbed.kill(process, 2, "worker")  # another actor goes on
    assert disturbed.kill(process, 4, "nobody") and end(disturbed, process) == -signal.SIGKILL
    assert disturbed.start(2).wait() == 0
    is_whole(disturbed, whole)
    assert all("-ray-" in path.name for path in log_files(disturbed.out))


def test_a_process_that_always_dies_ends_the_run_with_what_others_finished(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(local_processes, "RESTARTS", 1)
    data = Toy(4)
    vars(data)["samples"] = [
        replace(sample, loader=partial(os._exit, 9)) if i == 3 else sample for i, sample in enumerate(data)
    ]
    vlm, settings = bl.load("grounder"), {"methods": "none", "keep": 1.0, "batch_size": 1, "layer": 4}
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(BiaslabError, match=r"process \d of the .* died 2 times .*exit status 9.*fewer processes"):
        run(tmp_path, vlm, data, processes=2, **settings)
    assert "all are started again and go on from their logs" in caplog.text
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert "TORCHELASTIC_SIGNALS_TO_HANDLE" not in os.environ
    assert run(tmp_path, vlm, Toy(4), **settings).complete


def test_what_another_start_would_not_help_is_said_and_samples_must_travel(tmp_path):
    vlm = bl.load("grounder")
    vlm.model.lm_head.weight.data += 1e-3
    with pytest.raises(BiaslabError, match="a process .* failed: 'grounder' as loaded has other weights"):
        run(tmp_path / "a", vlm, methods="none", keep=1.0, layer=4, processes=2)
    data = Toy(4)
    vars(data)["samples"] = [replace(sample, loader=lambda: None) for sample in data]
    with pytest.raises(InputError, match="the samples or methods cannot go to another process .* use processes=1"):
        run(tmp_path / "b", vlm, data, methods="none", keep=1.0, layer=4, processes=2)
