"""Boxes and questions under pruning: the same images, gaps that are planted, parts of an image, the steps."""

import doctest
import json
import zlib

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import fair, findings, findings_claims, findings_report, gallery_pool
from benchmarks.findings_methods import OnlyThumbnail, OnlyTiles, taken_apart
from benchmarks.findings_report import TwoTasks
from benchmarks.gallery_pool import TASKS, tasks
from biaslab.core.layout import TokenLayout
from biaslab.pruning import TokenContext

FEW = {"divprune": "0", "fastv": "2", "lookahead": "0", "d2pruner": "2"}


def lines(ids, hit):
    return pd.DataFrame({"hit": hit, "iou": 0.5, "error": None}, index=ids)


def planted(words, n=300):
    """Hits of 300 images with one sample of each task: "all" keeps both, "names" loses half of the boxes."""
    rng, ids = np.random.default_rng(0), [str(i) for i in range(n)]
    full = {task: (rng.random(n) < 0.9).astype(float) for task in TASKS}
    half = (rng.random(n) < 0.5).astype(float)
    made = {task: {word: lines(ids, full[task]) for word in words} for task in TASKS}
    made["boxes"]["names"] = lines(ids, full["boxes"] * half)
    sample = type("Sample", (), {})
    data = {task: [] for task in TASKS}
    for task in TASKS:
        for i in ids:
            one = sample()
            one.image_id = i
            data[task].append(one)
    return made, data


def test_a_gap_is_found_where_one_is_planted():
    made, data = planted(["none", "names", "all"])
    kept = pd.DataFrame(
        {"method": ["names", "divprune"], "place": "0", "word": ["names", "all"], "failed": 0, "cost": "c"}
    )
    rows = {row["method"]: row for row in findings_report.gap_rows(kept, TwoTasks.from_lines(made, data), lines=2)}
    value, low, high = (
        float(x) for x in rows["names"]["gap"].replace("[", "").replace("]", "").replace(",", "").split()
    )
    assert 40 < low < 50 < high + 5 and low < value < high
    assert (rows["names"]["beyond"], rows["divprune"]["beyond"]) == ("yes", "no")
    assert rows["divprune"]["gap"].startswith("+0.0")


def test_the_tasks_are_asked_on_the_same_images():
    data = tasks("validation", range(12))
    images = {task: {sample.image_id for sample in own} for task, own in data.items()}
    assert images["questions"] == {f"validation-familiar-{i:06d}" for i in range(12)} >= images["boxes"]
    counts = pd.Series([sample.expression_type for sample in data["questions"]]).value_counts()
    assert len(counts) >= 7 and counts.max() <= 7  # the rarest kinds first


@pytest.mark.parametrize(("method", "kept"), [(OnlyTiles(keep=1.0), range(8)), (OnlyThumbnail(keep=1.0), range(8, 12))])
def test_parts_of_an_image(method, kept):
    layout = TokenLayout.tiled(1, 2, (2, 2), size=(128, 64), family="internvl", thumbnail=True)
    assert method.select(TokenContext(layout, budget=12)).indices.tolist() == list(kept)
    whole = TokenLayout.raster(2, 2, size=(64, 64), family="internvl")
    assert torch.equal(method.select(TokenContext(whole, budget=4)).indices, torch.arange(4))


@pytest.mark.parametrize("module", [findings_claims, gallery_pool])
def test_examples_run(module):
    assert doctest.testmod(module).failed == 0


def test_orders_agree_where_the_methods_do():
    rng, images = np.random.default_rng(1), np.repeat(np.arange(200), 2)
    made = {f"m{k}": (rng.random(400) < 0.3 + 0.06 * k).astype(float) for k in range(8)}
    turned = {name: 1 - values for name, values in made.items()}
    value, low, high = findings_claims.order_agreement(made, images, made, images)
    assert value == 1 and 0.6 < low <= high <= 1
    assert findings_claims.order_agreement(made, images, turned, images)[0] == -1


def test_what_is_taken_apart_costs_the_same():
    keeps = {0: 0.28, 1: 0.21, 2: 0.1}
    for with_, without in taken_apart(keeps).values():
        ways = {tuple(map(float, word.rsplit("@", 2)[1:])) for word in (with_, without)}
        assert len(ways) == 1 and all(keeps[layer] == keep for keep, layer in ways)


@pytest.fixture
def steps(monkeypatch, grounder, tmp_path):
    """The steps, on hits that are made up from words: the grounder has never seen such images."""
    monkeypatch.setattr(fair, "COMBINED", {})
    monkeypatch.setattr(fair, "_runs", lambda *_: True)
    for module in (findings, fair):
        monkeypatch.setattr(module, "METHODS", FEW)
    monkeypatch.setattr(findings.bl, "load", lambda *_, **__: grounder)

    def made(vlm, data, words, options, folder, **more):
        words = list(dict.fromkeys(["none", *words]))
        return {
            task: {w: lines([s.id for s in own], [float(w == "none" or chance(w, s.id)) for s in own]) for w in words}
            for task, own in data.items()
        }

    def chance(word, sample):
        return zlib.crc32(f"{word}{sample}".encode()) % 10 < 7

    monkeypatch.setattr(findings, "measured", made)
    monkeypatch.setattr(
        findings, "parts", lambda vlm, data, options: made(vlm, data, ["only-tiles@0", "only-thumbnail@4"], options, "")
    )

    def run(step, n):
        findings.main([step, "--images", str(n), "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
        return tmp_path

    return run


def test_what_is_chosen_on_validation_is_read_on_test(steps):
    folder = steps("choose", 6)
    choice = json.loads((folder / "runs" / "choice.json").read_text())
    table = pd.DataFrame(choice["candidates"])
    assert choice["settings"]["images"] == 6 and set(table["method"]) == set(FEW)
    assert (table[table["best"]].groupby(["cost", "method"]).size() == 1).all()
    for _, own in table.groupby(["cost", "method"]):
        assert own.loc[own["best"], "kept"].item() == own["kept"].max()
    steps("test", 12)
    found = json.loads((folder / "out" / "findings.json").read_text())
    best = table[table["best"]]
    rows = [row for part in found["tables"] if part["caption"] in set(table["cost"]) for row in part["rows"]]
    assert {(row["method"], row["place"]) for row in rows} == set(zip(best["method"], best["place"], strict=True))
    text = (folder / "out" / "findings.md").read_text()
    assert "nan" not in text.replace("[nan, nan]", "") and "only-tiles, questions" in text
    steps("unfamiliar", 4)
    again = json.loads((folder / "out" / "findings-unfamiliar.json").read_text())
    assert {"boxes, both", "questions, style"} <= set(again["tables"][0]["rows"][0])
