"""`fit-bias` and `probe` on several processes, which are killed: what comes out is that of one unbroken process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.kills import descendants

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc"),
]

FIT = ("fit-bias", "--n", "48", "--layers", "1,3", "--batch-size", "2", "--maps", "maps", "--out", "p.safetensors")
PROBE = ("probe", "--pairs", "2", "--grid", "5x5", "--layers", "3", "--batch-size", "2", "--out", "probe")


def start(folder, verb, world):
    """Type the command in a folder: alone, or under torchrun."""
    folder.mkdir(exist_ok=True)
    prefix, name = [sys.executable], ["-m", "biaslab"]
    if world > 1:
        prefix += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}", "--max-restarts=9"]
        name = ["-m", "--", "biaslab"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [*prefix, *name, *verb]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def lines(folder, pattern):
    return sum(path.read_bytes().count(b"\n") for path in folder.rglob(pattern))


def wait_for(process, folder, pattern, more):
    """Wait until so many new lines are there."""
    until = lines(folder, pattern) + more
    while lines(folder, pattern) < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def workers(process, n, without=()):
    """Wait for so many processes of the command, none of which was there before."""
    while len(found := descendants(process.pid, "biaslab")) < n or set(found) & set(without):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return found


def killed_worker(folder, verb, pattern, world):
    """Start so many processes and kill one of them with SIGKILL: torchrun starts all of them again."""
    process = start(folder, verb, world)
    wait_for(process, folder, pattern, 2)
    before = workers(process, world)
    os.kill(before[1], signal.SIGKILL)
    return process, workers(process, world, without=before)


def contents(folder):
    """All that is no lock, figure or time."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    paths = [path for path in paths if path.suffix not in (".png", ".pdf")]
    return {str(p.relative_to(folder)): re.sub(rb'"created": "[^"]*"', b"", p.read_bytes()) for p in paths}


def is_that_of_one(folder, out, err, verb):
    alone = start(folder / "alone", verb, 1)
    printed, _ = alone.communicate()
    assert alone.returncode == 0
    assert contents(folder / "ranks") == contents(folder / "alone")
    assert out == printed and err.count("own share done") == 1  # one of the two speaks, and says the same


def test_fit_bias_is_killed_and_any_number_of_processes_goes_on(tmp_path):
    """1, killed; 2, of which one is killed, to the end. Launchers die in tests/evaluation/test_kills.py."""
    folder, pattern = tmp_path / "ranks", "images.jsonl"
    process = start(folder, FIT, 1)
    wait_for(process, folder, pattern, 2)
    process.kill()
    process.communicate()
    process, _ = killed_worker(folder, FIT, pattern, 2)
    out, err = process.communicate()
    assert process.returncode == 0, err
    is_that_of_one(tmp_path, out, err, FIT)


def test_a_process_of_a_probe_is_killed(tmp_path):
    process, _ = killed_worker(tmp_path / "ranks", PROBE, "stimuli*.jsonl", 2)
    out, err = process.communicate()
    assert process.returncode == 0, err
    is_that_of_one(tmp_path, out, err, PROBE)
