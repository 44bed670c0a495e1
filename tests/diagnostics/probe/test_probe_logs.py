"""Processes share a probe without waiting for each other; what is measured is what one process measures."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

from biaslab._util.jsonl import JsonLines
from biaslab._util.launch import Launch
from biaslab.diagnostics.probe import design_for, measure
from biaslab.diagnostics.probe.logs import ProbeLog
from biaslab.diagnostics.probe.measuring import measure_share
from biaslab.errors import InputError, RunFolderError
from biaslab.workflows.probe import probe

SETTINGS = {"layers": [1, 2], "batch_size": 3, "progress": False}  # of 18 images: six batches
pytestmark = pytest.mark.filterwarnings("ignore:.*different objects")


@pytest.fixture(scope="module")
def vlm():
    return tiny.vlm("internvl")


@pytest.fixture(scope="module")
def design(vlm):
    return design_for(vlm, size=(112, 112), grid=(3, 3), pairs=2, scale=(0.8, 1.2))


@pytest.fixture(scope="module")
def whole(vlm, design, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "probe"
    return measure(vlm, design, out=folder, **SETTINGS), (folder / "stimuli.jsonl").read_bytes()


def rank(index, world):
    return Launch(rank=index, world_size=world, local_rank=index, local_world_size=world, id="test")


def interrupted_after(monkeypatch, lines):
    append, written = JsonLines.append, []

    def counted(self, record):
        if len(written) == lines:
            raise KeyboardInterrupt
        written.append(record["id"])
        append(self, record)

    monkeypatch.setattr(JsonLines, "append", counted)


def same(folder, result, whole):
    assert (folder / "stimuli.jsonl").read_bytes() == whole[1]
    assert [path.name for path in folder.glob("stimuli*")] == ["stimuli.jsonl"]
    np.testing.assert_array_equal(result.log, whole[0].log)


def test_the_last_of_three_has_what_one_process_measures(vlm, design, tmp_path, whole, caplog):
    folder = tmp_path / "probe"
    for index in (2, 0):
        assert measure_share(vlm, design, rank(index, 3), out=folder, **SETTINGS) is None
    assert "12 of 18 images of all ranks are in, the one that ends last finishes the work" in caplog.messages[-1]
    same(folder, measure_share(vlm, design, rank(1, 3), out=folder, **SETTINGS), whole)
    again = [measure_share(vlm, design, rank(index, 3), out=folder, **SETTINGS) for index in range(3)]
    assert [result is not None for result in again] == [True, False, False]  # nothing to do: the first one speaks
    same(folder, measure(vlm, design, out=folder, **SETTINGS), whole)


def test_any_number_of_processes_goes_on_with_what_others_left(vlm, design, tmp_path, whole, monkeypatch):
    folder = tmp_path / "probe"
    for launch, lines in ((Launch(), 1), (rank(2, 3), 4), (rank(1, 3), 2), (Launch(), 1), (rank(1, 2), 1)):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupted_after(patch, lines)
            measure_share(vlm, design, launch, out=folder, **SETTINGS)
    results = [measure_share(vlm, design, rank(index, 2), out=folder, **SETTINGS) for index in range(2)]
    assert results[0] is None
    same(folder, results[1], whole)


def test_two_that_end_at_the_same_time_do_not_leave_it_to_each_other(vlm, design, tmp_path, whole, monkeypatch):
    """One looks whether all are in, and before it has looked to the end the other one ends."""
    folder, lines, other = tmp_path / "probe", ProbeLog._lines, []

    def slow(self):
        found = lines(self)
        if not other:
            other.append("at work")
            other.append(measure_share(vlm, design, rank(1, 2), out=folder, **SETTINGS))
        return found

    monkeypatch.setattr(ProbeLog, "_lines", slow)
    assert measure_share(vlm, design, rank(0, 2), out=folder, **SETTINGS) is None
    same(folder, other[1], whole)


def test_two_commands_do_not_share_a_folder_and_other_settings_are_refused(vlm, design, tmp_path, monkeypatch):
    folder, append, refused = tmp_path / "probe", JsonLines.append, []

    def at_work(self, record):
        append(self, record)
        if not refused:
            refused.append(1)
            for launch in (rank(0, 2), rank(1, 3), Launch()):
                with pytest.raises(RunFolderError, match="another command is at work in"):
                    measure_share(vlm, design, launch, out=folder, **SETTINGS)
            assert measure_share(vlm, design, rank(1, 2), out=folder, **SETTINGS) is None  # of the same command

    monkeypatch.setattr(JsonLines, "append", at_work)
    assert measure_share(vlm, design, rank(0, 2), out=folder, **SETTINGS) is not None and refused
    monkeypatch.undo()
    other = tmp_path / "other"
    measure_share(vlm, design, rank(0, 2), out=other, **SETTINGS)
    for launch in (rank(1, 2), Launch()):
        with pytest.raises(RunFolderError, match="holds a probe with another layers"):
            measure_share(vlm, design, launch, out=other, **(SETTINGS | {"layers": [1]}))
    with pytest.raises(InputError, match="rank 0 of 2 meets the others in a folder: pass out"):
        measure_share(vlm, design, rank(0, 2), **SETTINGS)


def test_only_who_finishes_writes_tables_and_figures(vlm, design, tmp_path):
    reports = [probe(vlm, design, out=tmp_path / "p", launch=rank(index, 2), **SETTINGS) for index in (0, 1)]
    assert reports[0].result is None and not reports[0].files
    assert reports[1].result is not None and all(path.exists() for path in reports[1].files)
