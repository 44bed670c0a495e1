"""Ranks share a run folder without waiting for each other; any number of them goes on with what others left."""

from __future__ import annotations

from itertools import count

import pandas as pd
import pytest
import tiny
import toy_grounding as toy
from toy_grounding import Toy, run, same

from biaslab._util.jsonl import JsonLines, read_lines
from biaslab._util.launch import Launch
from biaslab.errors import InputError, RunFolderError
from biaslab.evaluation.results import Results
from biaslab.evaluation.sample_log import sample_lines
from biaslab.evaluation.schema import record_key

pytestmark = pytest.mark.slow

DATA = Toy(12)
PLAN = {"methods": ("none", "random"), "keep": 0.5, "dataset": DATA}  # 12 samples of 6 images, 24 lines


@pytest.fixture
def vlm(monkeypatch):
    model = tiny.vlm("internvl")
    monkeypatch.setattr(model.family, "parse_box", toy.hashed_box)
    return model


@pytest.fixture(scope="module")
def whole():
    """The same evaluation by one process that nobody disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        model = tiny.vlm("internvl")
        patch.setattr(model.family, "parse_box", toy.hashed_box)
        return run(vlm=model, **PLAN)


def rank(index, world):
    return Launch(rank=index, world_size=world, local_rank=index, local_world_size=world, id="test")


def names(folder):
    return [(line["id"], record_key(line)) for line in sample_lines(folder)]


def interrupted_after(monkeypatch, lines):
    """Interrupt at the next line after so many."""
    whole, written = JsonLines.append, count()

    def append(self, record):
        if next(written) == lines:
            raise KeyboardInterrupt
        whole(self, record)

    monkeypatch.setattr(JsonLines, "append", append)


def test_the_last_rank_speaks_for_all_and_its_results_are_those_of_one_process(vlm, tmp_path, whole, caplog):
    for index in (1, 0):
        results = run(tmp_path, vlm, launch=rank(index, 3), **PLAN)
        assert not results.is_main and not results.complete and not (tmp_path / "results.csv").exists()
        assert f"own share done: {len(results.samples)} of 24 sample runs of all ranks are in" in caplog.messages[-1]
    last = run(tmp_path, vlm, launch=rank(2, 3), **PLAN)
    assert last.is_main and last.complete and (tmp_path / "results.csv").is_file()
    same(last.samples, whole.samples)
    assert len(names(tmp_path)) == len(set(names(tmp_path))) == 24
    logs = [{line["image_id"] for line in read_lines(path)} for path in tmp_path.glob("samples-*.jsonl")]
    assert len(logs) == 3 and sum(map(len, logs)) == 6  # all expressions of an image are of one rank
    written = (tmp_path / "results.csv").stat().st_mtime_ns
    again = [run(tmp_path, vlm, launch=rank(index, 3), **PLAN) for index in range(3)]
    assert [results.is_main for results in again] == [True, False, False]  # nothing to do: the first one speaks
    assert (tmp_path / "results.csv").stat().st_mtime_ns == written


def test_any_number_of_processes_goes_on_with_what_others_left(vlm, tmp_path, whole, monkeypatch):
    left = []
    for index, world, lines in ((2, 3, 3), (0, 3, 2), (0, 1, 6), (1, 2, 1)):
        with monkeypatch.context() as patch:
            interrupted_after(patch, lines)
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path, vlm, launch=rank(index, world), **PLAN)
        left.append(len(names(tmp_path)))
    assert left == [3, 5, 11, 12]
    for index in range(2):
        results = run(tmp_path, vlm, launch=rank(index, 2), **PLAN)
    assert results.is_main and results.complete
    assert len(names(tmp_path)) == len(set(names(tmp_path))) == 24  # nothing lost, nothing twice
    same(results.samples, whole.samples)
    drop = ["prefill_ms", "decode_ms"]
    pd.testing.assert_frame_equal(
        Results.load(tmp_path, n_resamples=200).table.drop(columns=drop), whole.table.drop(columns=drop)
    )


def test_ranks_work_at_the_same_time_and_another_command_does_not(vlm, tmp_path, monkeypatch):
    whole, refused = JsonLines.append, []

    def append(self, record):
        whole(self, record)
        if not refused:  # rank 0 is at work
            monkeypatch.setattr(JsonLines, "append", whole)
            refused.append(run(tmp_path, vlm, launch=rank(1, 2), **PLAN))
            for other in (
                {"launch": rank(0, 2)},
                {"launch": rank(0, 3)},
                {"launch": None},
                {"launch": rank(1, 2), "methods": "fastv"},
            ):
                with pytest.raises(RunFolderError, match="another command is at work in"):
                    run(tmp_path, vlm, **(PLAN | other))

    monkeypatch.setattr(JsonLines, "append", append)
    first = run(tmp_path, vlm, launch=rank(0, 2), **PLAN)
    assert first.is_main and not refused[0].is_main
    assert len(names(tmp_path)) == len(set(names(tmp_path))) == 24


def test_a_launch_by_the_environment(vlm, tmp_path, monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    share = run(tmp_path, vlm, **PLAN)
    assert 0 < len(share.samples) < 24 and set(share.samples["image_id"]) == {
        sample.image_id for sample in DATA if rank(1, 2).takes(sample.image_id)
    }
    assert run(vlm=vlm, launch=Launch(), **PLAN).complete  # asked for: all of it here
    with pytest.raises(InputError, match="rank 1 of 2 meets the others in a run folder: pass out"):
        run(vlm=vlm, **PLAN)
    with pytest.raises(InputError, match="processes > 1 .* and this is rank 1 of 2 already"):
        run(tmp_path, vlm, processes=2, **PLAN)


def test_a_failing_sample_is_an_error_of_its_rank_alone(vlm, tmp_path):
    data = Toy(12, missing=(3, 4))
    for index in range(2):
        results = run(tmp_path, vlm, launch=rank(index, 2), **(PLAN | {"dataset": data}))
    assert results.complete and results.samples["error"].notna().sum() == 4
    assert "4 of 24 sample runs failed and have no verdict" in results.failures
