"""Runs grow by methods, keep ratios, layers and samples, and parts of a run merge; what conflicts is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
import toy_grounding as toy
from commands import run as command
from toy_grounding import Toy, run, same

import biaslab as bl
from biaslab._util.files import locked
from biaslab.errors import InputError, RunFolderError
from biaslab.evaluation import merging
from biaslab.evaluation.results import Results
from biaslab.pruning import FastV, Relative

pytestmark = pytest.mark.slow


@pytest.fixture
def vlm(monkeypatch):
    """The tiny InternVL with answers that can be right or wrong."""
    model = tiny.vlm("internvl")
    monkeypatch.setattr(model.family, "parse_box", toy.hashed_box)
    return model


def lines(folder):
    return [json.loads(line) for path in sorted(folder.glob("samples-*")) for line in path.read_text().splitlines()]


def in_order(samples):
    return samples.sort_values(["index", "key"]).reset_index(drop=True)


@pytest.mark.parametrize(
    ("first", "then", "new"),
    [
        (
            {"methods": ["none", "random"], "keep": 0.5},
            {"methods": ["none", "random", "fastv"], "keep": [0.5, 0.2]},
            18,
        ),
        ({"methods": ["none", "random"], "keep": 0.5}, {"methods": ["fastv"], "keep": 0.5}, 6),
        ({"methods": "random", "keep": 0.5}, {"methods": "random", "keep": 0.5, "layer": [1, 2]}, 6),
        ({"methods": "random", "keep": 0.5, "n": 2}, {"methods": "random", "keep": 0.5}, 4),
        ({"methods": "random", "keep": 0.5, "dataset": Toy(4)}, {"methods": "random", "keep": 0.5}, 2),
        ({"methods": "random", "keep": 0.5}, {"methods": "random", "keep": 0.5, "dataset": Toy(4)}, 0),
        ({"methods": "random", "keep": 0.5}, {"methods": "random", "keep": 0.5, "n": 3}, 0),
    ],
)
def test_only_what_is_missing_is_computed(vlm, tmp_path, first, then, new):
    run(tmp_path / "run", vlm, **first)
    before = lines(tmp_path / "run")
    grown = run(tmp_path / "run", vlm, **then)
    after = lines(tmp_path / "run")
    assert after[: len(before)] == before and len(after) == len(before) + new
    assert grown.complete and not grown.lacking and len(grown.samples) == len(after)
    at_once = run(
        vlm=vlm, methods=list(dict.fromkeys([*_list(first["methods"]), *_list(then["methods"])])),
        keep=then["keep"], layer=then.get("layer", 2),
    )  # fmt: skip
    same(in_order(grown.samples), in_order(at_once.samples))
    commands = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run(tmp_path / "run", vlm, **then).complete
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == commands  # a finished run is a no-op


def test_a_command_that_only_fills_gaps_is_noted_once(vlm, tmp_path):
    def call(n, *methods, batch_size=4):
        asked = {"options": {"n": n, "methods": ",".join(methods), "batch_size": batch_size}}
        run(tmp_path, vlm, methods=list(methods), keep=0.5, n=n, batch_size=batch_size, command=asked)
        return [known["options"]["n"] for known in json.loads((tmp_path / "run.json").read_text())["commands"]]

    call(2, "none", "random")
    assert call(4, "none") == [2, 4]
    assert call(4, "none", "random") == [2, 4, 4], "random of the last two samples, which no command asked for before"
    assert call(4, "none", "random", batch_size=1) == [2, 4, 4] and len(lines(tmp_path)) == 8
    assert call(2, "random") == [2, 4, 4], "nothing to do"


def _list(methods):
    return [methods] if isinstance(methods, str) else methods


def test_a_run_that_lacks_something_says_so(vlm, tmp_path, caplog):
    run(tmp_path, vlm, methods=["none", "random"], keep=0.5, n=2)
    grown = run(tmp_path, vlm, methods=["fastv"], keep=0.5)
    assert not grown.complete and "lacks 8 of its 18 sample runs" in caplog.text
    summary = grown.summary()
    assert set(summary["n"]) == {2}  # compared on what all have answered
    assert grown.reference == "random" and summary["p_vs_reference"].notna().sum() == 1  # random is in the run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "options.seed: 0 there, 1 here"),
        ({"positions": "renumber"}, "options.positions"),
        ({"dataset": Toy(6, ()), "max_new_tokens": 9}, "options.max_new_tokens: 8 there, 9 here"),
    ],
)
def test_what_conflicts_is_refused(vlm, tmp_path, change, message):
    run(tmp_path, vlm, methods="random", keep=0.5, n=1)
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(RunFolderError, match=message):
        run(tmp_path, vlm, **({"methods": ["random", "fastv"], "keep": 0.5} | change))
    assert (tmp_path / "run.json").read_bytes() == before and len(lines(tmp_path)) == 1


def test_other_data_of_the_same_name_are_refused(vlm, tmp_path):
    run(tmp_path, vlm, methods="random", keep=0.5, dataset=Toy(4))
    other = Toy(6)
    object.__setattr__(other.samples[1], "expression", "something else")
    with pytest.raises(RunFolderError, match="dataset.hash"):
        run(tmp_path, vlm, methods="random", keep=0.5, dataset=other)
    fewer = Toy(2)
    fewer.samples.reverse()
    with pytest.raises(RunFolderError, match="dataset.hash"):
        run(tmp_path, vlm, methods="random", keep=0.5, dataset=fewer)


def test_another_profile_of_a_method_is_refused(vlm, tmp_path):
    profile = toy.profile()
    other = type(profile)()._restore(
        profile.arrays_, profile.layouts_, profile.counts_, {**profile.provenance_, "prompt": "another"}
    )
    run(tmp_path, vlm, methods=[Relative(profile=profile)], keep=0.5, n=1)
    with pytest.raises(RunFolderError, match="profile of relative"):
        run(tmp_path, vlm, methods=[Relative(profile=other)], keep=[0.5, 0.2], n=1)
    assert run(tmp_path, vlm, methods=["random", FastV(queries="text")], keep=0.5, n=1).complete


def test_an_earlier_versions_run_can_grow(grounder, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(Path(__file__).parents[1] / "earlier_files" / "run-defaults", folder)
    scenes = bl.load_dataset("scenes", split="test", n=4)
    grown = bl.evaluate(grounder, scenes, methods=["none", "random"], keep=0.2, layer=4, out=folder, progress=False)
    assert len(grown.samples) == 9 + 2 and grown.run["n_samples"] == 4 and grown.lacking
    assert grown.run["identity"]["options"]["max_new_tokens"] == 48


# -------------------------------------------------------------------------------------------------------- merging
def test_parts_of_a_run_merge_into_the_whole(vlm, tmp_path):
    profile = toy.profile()
    methods = ["none", "random", Relative(profile=profile)]
    whole = run(vlm=vlm, methods=methods, keep=0.5)
    run(tmp_path / "a", vlm, methods=methods[:2], keep=0.5)
    run(tmp_path / "b", vlm, methods=methods[1:], keep=0.5, n=4)
    run(tmp_path / "c", vlm, methods=methods[2:], keep=0.5)
    merged = bl.merge_runs([tmp_path / name for name in "abc"], tmp_path / "all")
    assert merged.complete and (tmp_path / "all" / "results.csv").exists()
    same(in_order(merged.samples), in_order(whole.samples))
    assert merged.run["merged"] == [str(tmp_path / name) for name in "abc"]
    copy = tmp_path / "all" / next(iter(merged.run["profiles"].values()))["file"]
    assert bl.load_profile(copy).hash == profile.hash
    again = run(tmp_path / "all", vlm, methods=methods, keep=0.5)  # it goes on like any other
    assert len(lines(tmp_path / "all")) == len(again.samples) == 18


def test_a_verdict_wins_over_an_error(vlm, tmp_path):
    run(tmp_path / "a", vlm, methods="random", keep=0.5, dataset=Toy(missing=(1,)))
    run(tmp_path / "b", vlm, methods="random", keep=0.5, dataset=Toy(missing=(2,)))
    assert bl.merge_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "c").samples["error"].isna().all()


def test_a_merge_leaves_what_another_one_writes(vlm, tmp_path, monkeypatch):
    for name in ("none", "random"):
        run(tmp_path / name, vlm, methods=name, keep=0.5)
    parts, out = [tmp_path / "none", tmp_path / "random"], tmp_path / "all"
    out.mkdir()
    with locked(out / "run.json"), pytest.raises(RunFolderError, match="another process is writing .*run.json"):
        bl.merge_runs(parts, out)
    united = merging.united

    def meanwhile(*records):
        (out / "samples-0.jsonl").write_text("{}")  # of another merge, between the first look and the lock
        return united(*records)

    monkeypatch.setattr(merging, "united", meanwhile)
    with pytest.raises(RunFolderError, match="holds a run already"):
        bl.merge_runs(parts, out)
    assert (out / "samples-0.jsonl").read_text() == "{}"


def test_conflicts_are_not_merged(vlm, tmp_path):
    for name, options in (("a", {}), ("b", {"seed": 1}), ("c", {"dataset": Toy(4)}), ("d", {"methods": "divprune"})):
        run(tmp_path / name, vlm, **({"methods": "random", "keep": 0.5} | options))
    with pytest.raises(RunFolderError, match="options.seed: 0 there, 1 here"):
        bl.merge_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert bl.merge_runs([tmp_path / "c", tmp_path / "a"], tmp_path / "larger").run["n_samples"] == 6
    log = tmp_path / "c" / "samples-0.jsonl"
    log.write_text(log.read_text().replace('"hit": false', '"hit": true'))
    with pytest.raises(RunFolderError, match="answer . of their common sample runs differently, the first s"):
        bl.merge_runs([tmp_path / "a", tmp_path / "c"], tmp_path / "out")
    log.write_text("")  # nothing in common that could show that the data are the same
    with pytest.raises(RunFolderError, match="dataset.hash"):
        bl.merge_runs([tmp_path / "a", tmp_path / "c"], tmp_path / "out")
    with pytest.raises(RunFolderError, match="holds a run already"):
        bl.merge_runs([tmp_path / "a", tmp_path / "d"], tmp_path / "b")
    with pytest.raises(InputError, match="two run folders or more"):
        bl.merge_runs(tmp_path / "a", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------- command line
def test_config_repeats_all_commands_of_a_run(capsys, tmp_path):
    first = ["evaluate", "--n", 2, "--methods", "none,random", "--keep", 0.5, "--layer", 4, "--out", tmp_path / "a"]
    assert command(capsys, *first)[0] == 0
    assert command(capsys, *first[:3], "--methods", "uniform", "--keep", 0.2, "--out", tmp_path / "a")[0] == 0
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert [c["line"].split(" --out")[0] for c in record["commands"]] == [
        "biaslab evaluate --n 2 --methods none,random --keep 0.5 --layer 4",
        "biaslab evaluate --n 2 --methods uniform --keep 0.2",
    ]
    status, _, err = command(capsys, "evaluate", "--config", tmp_path / "a" / "run.json", "--out", tmp_path / "b")
    assert status == 0, err
    a, b = Results.load(tmp_path / "a"), Results.load(tmp_path / "b")
    same(a.samples, b.samples)
    assert b.complete and len(b.samples) == 6
    status, _, err = command(capsys, "evaluate", "--config", tmp_path / "a", "--n", 1, "--out", tmp_path / "c")
    assert status == 0 and Results.load(tmp_path / "c").run["n_samples"] == 1, err  # the command line has precedence
    status, out, err = command(capsys, "merge", tmp_path / "a", tmp_path / "c", "--out", tmp_path / "all")
    assert status == 0 and "uniform" in out, err
    record["commands"][0]["options"]["colour"] = "red"
    for text in (json.dumps(record), "[]", "null", '{"commands": [5]}', ""):
        (tmp_path / "odd.json").write_text(text)
        status, _, err = command(capsys, "evaluate", "--config", tmp_path / "odd.json", "--out", tmp_path / "d")
        assert status == 2 and len(err.splitlines()) == 1 and ("run.json" in err or "colour" in err), err
        assert not (tmp_path / "d").exists()
    status, _, err = command(capsys, "evaluate", "--config", tmp_path, "--out", tmp_path / "d")
    assert status == 2 and "--config" in err and len(err.strip().splitlines()) == 1
