"""COCO json: what pycocotools computes from it is the accuracy; values for trackers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny
import toy_grounding as toy

from biaslab.core.boxes import Box
from biaslab.errors import InputError
from biaslab.evaluation.results import Results


@pytest.fixture
def results(monkeypatch, tmp_path):
    model = tiny.vlm("internvl")
    monkeypatch.setattr(model.family, "parse_box", toy.hashed_box)
    return toy.run(tmp_path / "run", model, toy.Toy(6, missing=(2, 3)), ["none", "random", "fastv"], [0.5, 0.2])


def test_predictions_hit_where_the_lines_do(results, tmp_path):
    coco = results.to_coco(tmp_path / "coco", dataset=toy.Toy())
    truth, boxes = (
        coco["ground_truth"],
        {part["image_id"]: part["bbox"] for part in coco["ground_truth"]["annotations"]},
    )
    images = {part["id"]: part for part in truth["images"]}
    assert list(images) == [1, 2, 3, 4, 5, 6] == [part["id"] for part in truth["annotations"]]
    assert images[1]["caption"] == toy.Toy().samples[0].expression and images[1]["file_name"] == "image0"
    assert {"id", "file_name", "width", "height"} <= set(images[1])
    assert len(coco["predictions"]) == 5
    checked = 0
    for config in results.run["identity"]["configurations"]:
        found = {part["image_id"]: part for part in coco["predictions"][results.name_of(config)]}
        lines = results.samples[
            (results.samples["method"] == config["method"]) & (results.samples["keep"] == config["keep"])
        ]
        for line in lines.to_dict("records"):
            part = found.get(line["index"] + 1)
            assert (part is None) == (line["box"] is None)
            if part is not None:
                checked += 1
                assert (part["category_id"], part["score"]) == (1, 1.0)
                a, b = (Box(x, y, x + w, y + h) for x, y, w, h in (part["bbox"], boxes[part["image_id"]]))
                assert (a.iou(b) >= 0.5) == line["hit"]
    assert checked > 5
    assert json.loads((tmp_path / "coco" / "ground-truth.json").read_text()) == truth
    written = json.loads((tmp_path / "coco" / "predictions-random-keep-0.5-layer-2.json").read_text())
    assert written == coco["predictions"]["random keep 0.5 layer 2"]


def test_configurations_are_chosen_and_memory_gives_the_same(results):
    one = results.to_coco(method="fastv", keep=0.2)
    assert list(one["predictions"]) == ["fastv keep 0.2 layer 2"] and "caption" not in one["ground_truth"]["images"][0]
    assert Results(results.samples, results.run).to_coco(method="fastv", keep=0.2) == one
    with pytest.raises(InputError, match="no configuration of method divprune: choose among none keep 1; random"):
        results.to_coco(method="divprune")


def test_pycocotools_reads_it(results, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    results.to_coco(tmp_path, method="none")
    truth = coco.COCO(str(tmp_path / "ground-truth.json"))
    run = evaluation.COCOeval(truth, truth.loadRes(str(tmp_path / "predictions-none-keep-1.json")), "bbox")
    run.params.iouThrs, run.params.maxDets = np.array([0.5]), [1]
    run.evaluate()
    run.accumulate()
    hits = results.samples[results.samples["method"] == "none"]["hit"].fillna(False)
    assert run.eval["recall"][0, 0, 0, 0] == pytest.approx(hits.mean())


def test_values_for_a_tracker(results):
    class Run:
        def log(self, values):
            self.values = values

    run = Run()
    assert results.log_to(run) is run.values
    row = results.table.set_index(["expression_type", "method", "keep"]).loc[("all", "fastv", 0.2)]
    assert run.values["acc50/fastv keep 0.2 layer 2"] == row["acc50"] and run.values["n/none keep 1"] == row["n"]
    assert all(isinstance(value, float) and value == value for value in run.values.values())
    with pytest.raises(InputError, match="a run with a method log"):
        results.log_to("run")
