"""Verbs under a launcher do their share, and the last rank prints; what is one process is refused."""

from __future__ import annotations

import pytest
from commands import run

from biaslab.cli import app

pytestmark = pytest.mark.slow


@pytest.fixture
def rank(monkeypatch):
    def set_to(index):
        for name, value in {"RANK": index, "WORLD_SIZE": 2, "LOCAL_RANK": index}.items():
            monkeypatch.setenv(name, str(value))

    return set_to


def test_verbs_that_are_one_process_say_so(rank, capsys, tmp_path):
    rank(1)
    for verb in sorted(app._ONE_PROCESS):
        status, out, err = run(capsys, verb, "--out", tmp_path / "x")
        assert status == 2 and not out
        assert err == (
            f"biaslab: `biaslab {verb}` is one process, and this is rank 1 of 2: start it without torchrun, "
            "accelerate or srun\n"
        )
    assert not list(tmp_path.iterdir())
    assert run(capsys, "models")[0] == 0


def test_evaluate_does_its_share_and_the_last_rank_prints(rank, capsys, tmp_path):
    command = ("evaluate", "--n", 6, "--methods", "none", "--keep", 0.5, "--out", tmp_path / "run")
    rank(1)
    status, out, err = run(capsys, *command)
    assert (status, out) == (0, "") and "biaslab, rank 1 of 2: own share done: " in err
    rank(0)
    status, out, err = run(capsys, *command)
    assert status == 0 and "acc50" in out and f"wrote {tmp_path / 'run' / 'results.csv'}" in out
    assert "own share done" not in err


def test_fit_bias_collects_its_share_and_the_last_rank_fits(rank, capsys, tmp_path):
    command = ("fit-bias", "--n", 4, "--layers", 1, "--batch-size", 1, "--out", tmp_path / "p.safetensors")
    rank(1)
    status, out, err = run(capsys, *command)
    assert (status, out) == (2, "")
    assert err == (
        "biaslab, rank 1 of 2: ranks share the images in a folder of maps: give --maps FOLDER, where all of them can "
        "write\n"
    )
    command += ("--maps", tmp_path / "maps")
    status, out, err = run(capsys, *command)
    assert (status, out) == (0, "") and "biaslab, rank 1 of 2: own share done: 2 of 4 images of all ranks are in" in err
    assert not (tmp_path / "p.safetensors").exists()
    rank(0)
    status, out, err = run(capsys, *command)
    assert status == 0 and "4 images (scenes), estimator mean" in out and f"wrote {tmp_path / 'p.safetensors'}" in out
    assert "own share done" not in err


def test_objects_are_named_by_one_process(rank, capsys, tmp_path):
    rank(1)
    fit = ("fit-bias", "--model", "internvl2.5-1b", "--maps", tmp_path / "maps", "--out", tmp_path / "p.safetensors")
    status, out, err = run(capsys, *fit, "--prompts", "named")
    assert (status, out) == (2, "") and f"--prompts {tmp_path / 'p.named.jsonl'}" in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_bad_variables_are_bad_arguments(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, _, err = run(capsys, "evaluate", "--out", tmp_path / "run")
    assert status == 2 and err.startswith("biaslab: RANK=5 is no process of WORLD_SIZE=2: start it with torchrun")
    monkeypatch.setenv("RANK", "1")
    status, _, err = run(capsys, "evaluate", "--out", tmp_path / "run", "--processes", 2)
    assert status == 2 and "this is rank 1 of 2 already: leave them out" in err and "--engine ray" in err, err
