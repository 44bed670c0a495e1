"""The benchmarks that run on the grounder, at toy size: they measure what they say and choose on validation only."""

import json
from itertools import groupby

import numpy as np
import pandas as pd
import pytest

import biaslab as bl
from benchmarks import asked, estimators, fitting, lookahead
from benchmarks.scene_pool import expressions
from biaslab.core.images import load_image
from biaslab.datasets.asked import GENERIC
from biaslab.datasets.prompts import expression_in


@pytest.mark.long
@pytest.mark.usefixtures("grounder_at_hand")
def test_fitting_reports_throughput_and_memory_side_by_side(tmp_path, monkeypatch, capsys):
    asked = []

    def fresh(module, *options, threads, environment):
        asked.append((options[1], int(options[3])))
        return {"resident": 90.0, "held": 10.0 + int(options[3]) / 16}  # MiB: grows by a sixteenth per image

    monkeypatch.setattr(fitting, "in_fresh_process", fresh)
    fitting.main(["--n", "8", "--batch-size", "4", "--repeats", "1", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "fitting.json").read_text())
    rows = {row["mode"]: row for row in found["tables"][0]["rows"]}
    assert list(rows) == ["plain", "streamed", "stored"] and rows["plain"]["throughput"] == 1
    assert asked == [(mode, n) for mode in rows for n in (4, 8)]
    # the maps of 4 images would take 10 layers x 4 heads x 256 tokens x 4 bytes x 4
    growth = [t["value"] for t in found["targets"] if "growth" in t["what"]]
    assert growth == pytest.approx([0.25 / (40 * 256 * 4 * 4 / 2**20)] * 2)


@pytest.mark.slow
def test_peak_of_a_pass_is_measured():
    found = fitting.peak("streamed", 4, 2)
    maps = 2 * 4 * 5 * 40 * 256 * 8 / 2**20  # two of the four moments of five folds, at the least
    assert found["held"] > maps / 2 and (found["resident"] is None or found["resident"] >= 0)


def test_the_same_scenes_are_asked_less_and_less(grounder, tmp_path):
    made = asked.sets(grounder, tmp_path, 6)
    true = made[asked.TRUE].prompts
    assert made["the same, through a file"].prompts == true and len(made["3 expressions each"].prompts) > len(true) == 6
    said = {name: [expression_in(prompt) for prompt in found.prompts] for name, found in made.items()}
    for expression, phrase, noun in zip(
        said[asked.TRUE], said["noun phrase of the target"], said["noun of the target"], strict=True
    ):
        assert phrase in expression and phrase.endswith(noun)
    assert said["noun phrase of the target"] != said["noun of the target"]
    assert set(said["generic"]) <= set(GENERIC) and len(said["3 generic each"]) == 18
    assert {
        expression.split(" at ")[0].split(" on ")[0] for expression in said["noun of an object, half with a place"]
    } == {*said["noun of an object"]}
    assert set(said["noun of an object"]) <= set(said["nouns of 3 objects"])
    for name, found in made.items():
        shown = [image for image, _ in groupby(found.images)]
        assert len(shown) == (found.asked["pictures"] if found.asked else 6)
        for image, scene in zip(shown, made[asked.TRUE].images, strict=False):
            np.testing.assert_array_equal(load_image(image), load_image(scene), err_msg=name)


def table(values, **columns):
    return pd.DataFrame([{"layer": 3, "estimator": name, "value": v, "lo": v - 1, "hi": v + 1, **columns}
                         for name, v in values.items()])  # fmt: skip


def test_rankings_choose_on_validation_and_rank_on_test():
    attention = {
        "validation": table({"a": 0.3, "b": 0.2, "c": 0.3 + 1e-7}), "test": table({"a": 0.1, "b": 0.5, "c": 0.1}),
    }  # fmt: skip
    accuracy = {
        split: pd.concat([table(v, method=m).assign(layer=4) for m, v in per_method.items()])
        for split, per_method in {
            "validation": {"relative": {"a": 0.1, "b": 0.9, "c": 0.2}, "d2pruner": {"a": 0.9, "b": 0.1, "c": 0.2}},
            "test": {"relative": {"a": 0.3, "b": 0.2, "c": 0.1}, "d2pruner": {"a": 0.2, "b": 0.2, "c": 0.3}},
        }.items()
    }
    found = {"attention": attention, "probe": attention, **dict.fromkeys(estimators.METHODS, accuracy)}
    rows = {row["estimator"]: row for row in estimators.ranking(found, 4)}
    assert [rows[n]["attention_chosen"] for n in "abc"] == ["*", "", "*"]  # equal up to rounding: both
    assert [rows[n]["attention_rank"] for n in "abc"] == [2, 1, 2]
    assert [rows[n]["relative"] for n in "abc"] == ["1 (0.300)", "2* (0.200)", "3 (0.100)"]
    assert [rows[n]["d2pruner"] for n in "abc"] == ["2* (0.200)", "2 (0.200)", "1 (0.300)"]
    assert [rows[n]["relative_test"] for n in "abc"] == [0.3, 0.2, 0.1]


@pytest.mark.long
@pytest.mark.usefixtures("grounder_at_hand")
def test_the_study_runs_and_resumes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(estimators, "ESTIMATORS", ("factorised", "mean", "rope"))  # each costs 4 rounds of answers
    small = ["--calibration", "8", "--maps", "4", "--pairs", "2", "--grid", "3", "--n", "1", "--processes", "1",
             "--layers", "2", "--work", str(tmp_path / "work"), "--out", str(tmp_path)]  # fmt: skip
    estimators.main(small)
    first = json.loads((tmp_path / "estimators.json").read_text())
    names = {row["estimator"] for row in first["tables"][0]["rows"]}
    assert names == {"mean", "factorised", "rope"}
    side = first["tables"][0]["rows"][0]
    assert np.isfinite([side["attention_test"], side["probe_test"], side["relative_test"]]).all()
    estimators.main(small)
    assert json.loads((tmp_path / "estimators.json").read_text())["tables"] == first["tables"]


def test_look_ahead_is_compared_at_equal_cost_with_the_best_layer_of_each():
    found = {"a cost": {0: 0.3, 1: 0.2, 2: 0.1}, "a lower one": {0: 0.1}}
    # hits of 8 expressions on 4 images
    hits = {
        ("none", 0, 1.0): "11111111", ("lookahead", 0, 0.3): "11111110", ("lookahead", 0, 0.1): "11111100",
        ("divprune", 0, 0.3): "11110000", ("divprune", 1, 0.2): "11111000", ("divprune", 2, 0.1): "10000000",
        ("oracle", 0, 0.3): "11111111",
        ("divprune", 0, 0.1): "11000000", ("fastv", 1, 0.2): "10000000", ("fastv", 2, 0.1): "00000000",
    }  # fmt: skip
    lines = pd.DataFrame({key: [float(hit) for hit in said] for key, said in hits.items()})
    lines.insert(0, "image_id", [f"p{i // 2}" for i in range(8)])
    table = lookahead.compared(lines, found).set_index(["cost", "method"])
    assert list(table.index) == [
        ("a cost", "lookahead"), ("a cost", "oracle"), ("a cost", "divprune"), ("a cost", "fastv"),
        ("a lower one", "lookahead"), ("a lower one", "divprune"),
    ]  # fmt: skip
    rival = table.loc["a cost", "divprune"]
    assert (rival["layer"], rival["keep"], rival["at_other_layers"]) == (1, 0.2, {0: 50.0, 2: 12.5})
    assert rival["accuracy"].value == 5 / 8 and rival["ours_minus_it"].value == 2 / 8
    assert table.loc["a lower one", "lookahead"]["kept"].value == 6 / 8
    assert table.loc["a cost", "lookahead"]["ours_minus_it"] is None and 0 < rival["p"] <= 1


def test_costs_are_the_same_at_every_layer_that_can_have_them(grounder):
    data = expressions("test", 2, 3, 1)
    named = list(bl.load_dataset("scenes", split="test", n=5))[2:]
    assert [s.id for s in data] == [s.id for s in named]
    assert [s.image().tobytes() for s in data] == [s.image().tobytes() for s in named]
    found = lookahead.costs(grounder, data)
    sizes = lookahead.PromptSizes(grounder, data.samples)
    for name, keeps in found.items():
        cost = sizes.cost("mean-share" if name.startswith("mean") else "flops")
        assert [cost(keep, layer) for layer, keep in keeps.items()] == pytest.approx(
            [cost(keeps[0], 0)] * len(keeps), rel=0.02
        )
    assert set(found["mean share 10.0%"]) == {0} and set(found["FLOPs of 20% before K = 2"]) == {0, 1, 2, 3}
