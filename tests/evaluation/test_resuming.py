"""Runs go on after a kill, an interruption or an error, refuse foreign folders, and may spread over processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import tiny
import toy_grounding as toy
from toy_grounding import Toy, run, same

from biaslab._util.jsonl import JsonLines
from biaslab._util.seats import seat
from biaslab.errors import InputError, RunFolderError
from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.results import Results
from biaslab.evaluation.run_folder import prepare_folder, run_record
from biaslab.evaluation.run_once import GenerationOptions
from biaslab.models import load
from biaslab.profiles import load as load_profile
from biaslab.pruning import D2Pruner


@pytest.fixture
def vlm(monkeypatch):
    """The tiny InternVL with answers that can be right or wrong."""
    model = tiny.vlm("internvl")
    monkeypatch.setattr(model.family, "parse_box", toy.hashed_box)
    return model


def lines_of(folder: Path) -> list[bytes]:
    return [line for path in sorted(folder.glob("samples-*.jsonl")) for line in path.read_bytes().splitlines()]


KILLED = """
import os, signal
import torch
torch.set_num_threads(1)
from biaslab._util.jsonl import JsonLines
whole = JsonLines.append
JsonLines.count = 0
def append(self, record):
    JsonLines.count += 1
    if JsonLines.count == 24:
        self._file.write(b'{{"index": 3, "id": "s3", "answ')
        os.kill(os.getpid(), signal.SIGKILL)
    whole(self, record)
JsonLines.append = append
from toy_grounding import run
run({folder!r})
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_and_gives_the_same_results(tmp_path):
    script = KILLED.format(folder=str(tmp_path / "run"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    survived = lines_of(tmp_path / "run")
    assert len(survived) == 24 and survived[-1].endswith(b'"answ')  # 23 whole lines and a torn one
    partial = Results.load(tmp_path / "run")
    assert not partial.complete and len(partial.samples) == 23
    resumed = run(tmp_path / "run")
    after = lines_of(tmp_path / "run")
    assert after[:23] == survived[:23] and len(after) == 42  # nothing lost, nothing done twice
    uninterrupted = run(tmp_path / "whole")
    same(resumed.samples, uninterrupted.samples)
    drop = ["prefill_ms", "decode_ms"]
    pd.testing.assert_frame_equal(resumed.table.drop(columns=drop), uninterrupted.table.drop(columns=drop))
    same(Results.load(tmp_path / "run").samples, uninterrupted.samples)


def test_an_interrupted_run_goes_on(vlm, tmp_path, monkeypatch):
    whole, count = JsonLines.append, iter(range(100))

    def interrupt(self, record):
        if next(count) == 30:
            raise KeyboardInterrupt
        whole(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "append", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, vlm)
    assert len(lines_of(tmp_path)) == 30
    assert not vlm.decoder._forward_pre_hooks
    same(run(tmp_path, vlm).samples, run(vlm=vlm).samples)


def test_a_finished_run_is_a_no_op(vlm, tmp_path, monkeypatch):
    first = run(tmp_path, vlm)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    monkeypatch.setattr(type(vlm), "prepare", lambda *a, **k: pytest.fail("a finished run prepares nothing"))
    again = run(tmp_path, vlm)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    pd.testing.assert_frame_equal(first.table, again.table)
    pd.testing.assert_frame_equal(first.table, Results.load(tmp_path, n_resamples=200).table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "options.seed: 0 there, 1 here"),
        ({"max_new_tokens": 9}, "options.max_new_tokens: 8 there, 9 here"),
        ({"dataset": Toy(4)}, "dataset.hash: .* dataset.n: 6 there, 4 here"),
        ({"vlm": "llava"}, "model.family: 'internvl' there, 'llava' here"),
    ],
)
def test_the_folder_of_another_run_is_refused(tmp_path, change, message):
    folder = tmp_path / "run"
    folder.mkdir()

    options = {**vars(GenerationOptions(0, 8)), "limit": None, "image_options": {}}
    configs = configurations(("none", "random", "fastv", "divprune"), (0.5, 0.2), 2)
    prepare_folder(folder, run_record(tiny.vlm("internvl"), Toy(), configs, options, {}) | {"n_samples": 6})
    before = (folder / "run.json").read_bytes()
    with pytest.raises(RunFolderError, match=message) as caught:
        run(folder, **change)
    assert "\n" not in str(caught.value) and "choose another folder" in str(caught.value)
    assert (folder / "run.json").read_bytes() == before and not lines_of(folder)


def test_what_does_not_change_answers_may_change(vlm, tmp_path):
    run(tmp_path, vlm)
    again = run(tmp_path, vlm, batch_size=2, reference="fastv")
    assert len(lines_of(tmp_path)) == 42
    compared = again.table.dropna(subset="p_vs_reference")
    assert set(compared["method"]) == {"random", "divprune"}
    assert set(pd.read_csv(tmp_path / "results.csv").dropna(subset="p_vs_reference")["method"]) == {
        "random",
        "divprune",
    }


def test_folders_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot write the run folder"):
        run(tmp_path / "file" / "run")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "samples-0.jsonl").write_text("{}\n")
    with pytest.raises(RunFolderError, match="samples without a run.json"):
        run(foreign)
    (foreign / "run.json").write_text("[1, 2")
    with pytest.raises(RunFolderError, match="run.json cannot be read"):
        run(foreign)
    (foreign / "run.json").write_text('{"identity": {"model": {}, "options": {}}}')
    with pytest.raises(RunFolderError, match="run.json lacks configurations, dataset: restore it"):
        run(foreign)
    with pytest.raises(RunFolderError, match="is no run folder"):
        Results.load(tmp_path)
    with pytest.raises(RunFolderError, match="is a file, no run folder"):
        Results.load(tmp_path / "file")
    mine = tmp_path / "mine" / "results.csv"
    mine.parent.mkdir()
    mine.write_text("of somebody else")
    with pytest.raises(RunFolderError, match="holds a results.csv that is of no run"):
        run(mine.parent)
    left = [path.name for path in mine.parent.iterdir() if not path.name.endswith(".lock")]
    assert left == ["results.csv"] and mine.read_text() == "of somebody else"


def test_one_command_at_a_time_works_in_a_folder(vlm, tmp_path):
    # an evaluation holds such a seat from its first look at the folder to its table
    with seat(tmp_path, "another", "0"), pytest.raises(RunFolderError, match="another command is at work in"):
        run(tmp_path, vlm)
    assert not (tmp_path / "run.json").exists()


def test_a_folder_that_was_moved_during_the_run_is_no_empty_result(vlm, tmp_path, monkeypatch):
    whole, count = JsonLines.append, iter(range(100))

    def moved(self, record):
        if next(count) == 3:
            (tmp_path / "run").rename(tmp_path / "elsewhere")
        whole(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "append", moved)
        with pytest.raises(RunFolderError, match="was moved or removed .* put it back"):
            run(tmp_path / "run", vlm, methods="random", keep=0.5)
    assert not (tmp_path / "run" / "results.csv").exists()
    (tmp_path / "elsewhere").rename(tmp_path / "run")
    same(run(tmp_path / "run", vlm, methods="random", keep=0.5).samples,
         run(vlm=vlm, methods="random", keep=0.5).samples)  # fmt: skip
    assert len(lines_of(tmp_path / "run")) == 6


def test_run_json_says_how_to_repeat(vlm, tmp_path):
    profile = toy.profile()
    methods = ["none", D2Pruner(pivots_suppress=True, profile=profile)]
    run(tmp_path, vlm, methods=methods, keep=0.5)
    record = json.loads((tmp_path / "run.json").read_text())
    none, pruned = record["identity"]["configurations"]
    assert none["method"] == "none" and pruned["options"]["pivots_suppress"] is True
    assert record["identity"]["dataset"] == {"name": "toy", "split": "test", "hash": Toy().hash, "n": 6}
    assert record["environment"]["transformers"] and record["settings"]["batch_size"] == 4
    copy = load_profile(tmp_path / record["profiles"][profile.hash]["file"])
    assert copy.hash == profile.hash
    same(run(tmp_path / "again", vlm, methods=["none", D2Pruner(pivots_suppress=True, profile=copy)], keep=0.5).samples,
         run(tmp_path, vlm, methods=methods, keep=0.5).samples)  # fmt: skip


# ------------------------------------------------------------------------------------------------------ processes
@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    tiny.vlm("internvl").model.save_pretrained(folder)
    tiny.vlm("internvl").processor.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_processes_give_the_same_results_and_their_warnings_are_the_callers(saved, tmp_path, capfd):
    model, methods = load(saved, device="cpu"), (*toy.METHODS, toy.Doubtful())
    with pytest.warns(FutureWarning, match="the rule is in doubt"):
        spread = run(tmp_path, model, methods=methods, processes=2)
    assert "in doubt" not in capfd.readouterr().err  # no worker writes to the terminal by itself
    assert len(list(tmp_path.glob("samples-*"))) == 2
    assert spread.complete
    with pytest.warns(FutureWarning, match="the rule is in doubt"):
        same(spread.samples, run(vlm=model, methods=methods).samples)
    again = run(tmp_path, model, methods=methods)  # one process continues what two did
    assert again.complete and len(lines_of(tmp_path)) == 54


def test_models_that_other_processes_cannot_load():
    with pytest.raises(InputError, match="other processes cannot load .* use one process, or save the model"):
        run(processes=2)
