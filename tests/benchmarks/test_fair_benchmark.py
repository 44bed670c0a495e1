"""The fair table: costs that are equal, places that are published, choices made on validation and read on test."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmarks import fair, fair_report
from benchmarks.fair_methods import ABLATIONS, METHODS, Ablation
from benchmarks.scene_pool import expressions
from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.matching import PromptSizes
from biaslab.pruning import METHODS as KNOWN
from biaslab.pruning import Schedule, parse, parse_schedule
from biaslab.pruning.schedule import own_schedule

FEW = {"divprune": "0", "d2pruner:debias=none": "2", "vscan": "own", "pyramiddrop": "own", "fastv": "2"}
THREE = ("divprune", "d2pruner:debias=none", "vscan")


def test_every_method_of_the_house_is_in_the_table():
    assert {parse(word).name for word in METHODS} == set(KNOWN)
    for word, published in METHODS.items():
        own = parse(word).own_stages(32) is not None
        assert (published == "own") == (own and published is not None), word


@pytest.mark.usefixtures("few_methods")
def test_candidates_cost_the_same_and_none_is_left_out(grounder):
    data = expressions("validation", 0, 3, 1)
    found = fair.candidates(grounder, data, [])
    sizes = PromptSizes(grounder, data.samples)
    for cost, keep, layer in (("mean share 15.6%", 0.156, 0), ("FLOPs of 20% before K = 2", 0.2, 2)):
        of_schedule = sizes.cost_of_schedule("flops" if "FLOPs" in cost else "mean-share")
        aim = of_schedule(parse_schedule(f"random@{keep}@{layer}"))
        own = [one for one in found if one.cost == cost]
        costs = [of_schedule(Schedule(config.stages)) for one in own for config in configurations(one.word, 1.0, None)]
        assert costs == pytest.approx([aim] * len(costs), rel=0.02)
        places = {(one.method, one.place) for one in own}
        if layer == 0:  # two layers of all tokens are dearer than that
            assert places == {
                ("divprune", "0"), ("divprune", "1"), ("d2pruner:debias=none", "1"), ("fastv", "1"), ("vscan", "0"),
                ("vscan", "1"), ("vscan", "own"), ("pyramiddrop", "0"), ("pyramiddrop", "1"),
            }  # fmt: skip
        else:
            assert {("fastv", "3"), ("divprune", "3"), ("pyramiddrop", "own")} <= places and (
                "fastv",
                "0",
            ) not in places


@pytest.fixture
def few_methods(monkeypatch):
    monkeypatch.setattr(fair, "METHODS", FEW)
    monkeypatch.setattr(fair, "COMBINED", {})


def test_every_ablation_changes_one_thing_at_one_cost():
    own = {
        name: own_schedule(parse(name).with_keep(keep), 10)
        for name, keep in (("stagewise", 0.1), ("stagewise:at=1", 0.2))
    }
    keeps = {0: 0.28, 1: 0.2, 2: 0.1}
    for one in ABLATIONS:
        shares = {name: _mean_share(parse_schedule(word)) for name, word in one.words(keeps, own).items()}
        if "10 % kept" in one.name:  # which says so
            assert len({round(share, 3) for share in shares.values()}) == 6
        else:
            assert shares == {name: pytest.approx(0.28, abs=1e-3) for name in shares}


def _mean_share(schedule, n_layers=10):
    ends = [*(stage.layer for stage in schedule), n_layers]
    left = [1.0, *(stage.keep for stage in schedule)]
    return sum(share * (end - start) for share, start, end in zip(left, [0, *ends], ends, strict=False)) / n_layers


def test_differences_are_paired_and_to_the_best_places():
    images = np.array([f"p{i // 2}" for i in range(8)])
    said = {
        "none": "11111111",
        "d@0": "11110000",
        "d@1": "11000000",
        "2@1": "10100000",
        "f@1": "11111100",
        "f@2": "1" * 8,
    }
    hits = {
        word: pd.DataFrame({"hit": [float(x) for x in hit], "iou": 0.0, "error": [None] * 7 + ["no"]})
        for word, hit in said.items()
    }
    kept = pd.DataFrame(
        [
            ("c", "divprune", "0", "d@0", True, True), ("c", "divprune", "1", "d@1", False, False),
            ("c", "d2pruner", "1", "2@1", True, True), ("c", "fastv", "1", "f@1", True, False),
            ("c", "fastv", "2", "f@2", False, True),
        ],
        columns=["cost", "method", "place", "word", "best", "published"],
    )  # fmt: skip
    table = fair_report.compared(kept, hits, images).set_index("method")
    row = table.loc["fastv"]
    assert row["accuracy"].value == 0.75 and row["kept"].value == 0.75 and row["published"] == [("2", 1.0)]
    assert row["minus_divprune"].value == 0.25 and row["minus_d2pruner"].value == 0.5 and row["errors"] == 1
    assert np.isnan(table.loc["divprune", "p_divprune"]) and table.loc["d2pruner", "minus_divprune"].value == -0.25
    assert 0 < table.loc["fastv", "p_d2pruner"] <= table.loc["fastv", "p_divprune"] <= 1
    lines = fair_report.ablation_rows({"a": hits["d@0"], "b": hits["f@1"]}, hits["none"]["hit"].to_numpy(), images)
    assert "p" not in lines[0] and lines[1]["minus_first"].startswith("+25.0")


@pytest.mark.long
@pytest.mark.usefixtures("few_methods")
def test_what_is_chosen_on_validation_is_measured_on_test(grounder, tmp_path, monkeypatch):
    monkeypatch.setattr(fair.bl, "load", lambda *_, **__: grounder)
    for name, value in (("BEFORE_2", (0.1,)), ("SHARES", ()), ("METHODS", {name: FEW[name] for name in THREE})):
        monkeypatch.setattr(fair, name, value)
    words = {"one": "divprune@0.3@0", "other": "uniform@0.3@0", "the one again": "divprune:rounding=down@0.3@0"}
    made = (("a thing", "original"), ("it renumbered", "renumber"))
    ablations = [Ablation(name, lambda keeps, own: words, positions) for name, positions in made]
    monkeypatch.setattr(fair, "ABLATIONS", ablations)
    monkeypatch.setattr(fair, "_schedules", lambda *_: {})  # they need a profile
    folders = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path)]
    shared = ["--processes", "1", "--batch-size", "4", "--repeats", "1", *folders]
    fair.main(["choose", "--n", "2", *shared])
    choice = json.loads((tmp_path / "runs" / "choice.json").read_text())
    best = [one for one in choice["candidates"] if one["best"]]
    assert choice["settings"]["split"] == "validation" and choice["settings"]["n"] == 2
    assert len(best) == len({(one["cost"], one["method"]) for one in best}) == 3
    for one in best:
        rivals = [x for x in choice["candidates"] if (x["cost"], x["method"]) == (one["cost"], one["method"])]
        assert (one["accuracy"], one["iou"]) == max((x["accuracy"], x["iou"]) for x in rivals)
    fair.main(["time", "--n", "2", *shared])
    times = json.loads((tmp_path / "runs" / "times.json").read_text())
    assert set(times["methods"]) == set(THREE) and times["settings"]["unpruned_ms"] > 0
    fair.main(["test", "--n", "2", "--first", "10", *shared])
    found = json.loads((tmp_path / "fair.json").read_text())
    names = [table["caption"] for table in found["tables"]]
    assert names == ["FLOPs of 10% before K = 2", "a thing", "it renumbered"]
    assert {row["method"] for row in found["tables"][0]["rows"]} == set(THREE)
    assert found["settings"]["split"] == "test" and found["settings"]["first"] == 11
    assert all(row["errors"] == 0 for row in found["tables"][0]["rows"])
