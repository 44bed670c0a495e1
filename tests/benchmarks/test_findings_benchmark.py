"""Boxes and questions under pruning: the same images, gaps that are planted, parts of an image, the steps."""

import doctest
import json
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import biaslab as bl
from benchmarks import (
    fair,
    findings,
    findings_claims,
    findings_fit,
    findings_methods,
    findings_rows,
    gallery_pool,
    paired,
)
from benchmarks.findings_methods import (
    DEPTHS,
    FLOOR,
    AsManyAsThumbnail,
    AsManyAsTiles,
    OnlyThumbnail,
    OnlyTiles,
    at_depths,
    chosen_pairs,
    taken_apart,
)
from benchmarks.findings_rows import TwoTasks
from benchmarks.gallery_pool import TASKS, tasks
from biaslab.core.layout import TokenLayout
from biaslab.errors import BiaslabError, InputError
from biaslab.pruning import TokenContext

FEW = {"divprune": "0", "fastv": "2", "lookahead": "0", "d2pruner": "2", "d2pruner:alpha=1": "2"}


def lines(ids, hit):
    return pd.DataFrame({"hit": hit, "iou": 0.5, "error": None, "target_auroc": 0.6}, index=ids)


def planted(words, n=300):
    """Hits of 300 images with one sample of each task: "all" keeps both, "names" loses half of the boxes.

    "guess" is blind: no box, and the half of the questions that one visual token gets right as well.
    """
    rng, ids = np.random.default_rng(0), [str(i) for i in range(n)]
    full = {task: (rng.random(n) < 0.9).astype(float) for task in TASKS}
    half, coin = (rng.random(n) < 0.5).astype(float), (rng.random(n) < 0.5).astype(float)
    made = {task: {word: lines(ids, full[task]) for word in ["none", *words]} for task in TASKS}
    made["boxes"]["names"] = lines(ids, full["boxes"] * half)
    for word in ("guess", FLOOR):
        made["boxes"][word], made["questions"][word] = lines(ids, np.zeros(n)), lines(ids, full["questions"] * coin)
    sample = type("Sample", (), {})
    data = {task: [] for task in TASKS}
    for task in TASKS:
        for i in ids:
            one = sample()
            one.image_id = i
            data[task].append(one)
    return made, data


def interval(cell):
    return [float(x) for x in cell.replace("[", "").replace("]", "").replace(",", "").split()]


@pytest.mark.slow
def test_a_gap_is_found_where_one_is_planted():
    made, data = planted(["names", "all", "guess"])
    kept = pd.DataFrame({"method": ["names", "divprune", "guess"], "place": "0", "cost": "c"})
    kept = kept.assign(**dict.fromkeys(TASKS, pd.Series(["names", "all", "guess"])))
    rows = {row["method"]: row for row in findings_rows.gap_rows(kept, TwoTasks.from_lines(made, data))}
    value, low, high = interval(rows["names"]["gap"])
    assert 40 < low < 50 < high + 5 and low < value < high
    assert [rows[m]["significant"] for m in ("names", "divprune", "guess")] == ["yes", "no", "no"]
    assert rows["divprune"]["gap"].startswith("+0.0")
    # sight lost alike: half of the questions are still right, and none of it was seen
    assert interval(rows["guess"]["gap"])[1] > 40 and interval(rows["guess"]["seen_gap"]) == [0, 0, 0]
    assert interval(rows["guess"]["seen_questions"]) == [0, 0, 0] == interval(rows["guess"]["boxes"])
    assert rows["names"]["p_boxes"] < 0.01 < rows["names"]["p_questions"] and "p_boxes" not in rows["divprune"]


def test_questions_may_have_another_word_than_boxes():
    words = ["d2pruner@0.2@1", "d2pruner:alpha=1@0.2@1", "divprune@0.3@0"]
    kept = pd.DataFrame({"cost": "c", "method": ["d2pruner", "d2pruner:alpha=1", "divprune"], "word": words})
    own = findings_rows.with_own_words(kept.assign(place=["1", "2", "0"]))
    assert own["boxes"].tolist()[:3] == words == own["questions"].tolist()[:3]
    last = own.iloc[-1]
    assert (last["boxes"], last["questions"], last["place"]) == (words[0], words[1], "1, 2")


@pytest.mark.slow
def test_depths_tell_what_debiasing_is_worth():
    names = [word for m in ("fastv", "relative", "divprune") for word in at_depths(m).values()]
    made, data = planted(names)
    lost = at_depths("fastv")[2]
    made["boxes"][lost] = lines(made["boxes"][lost].index, made["boxes"]["names"]["hit"])
    rows = findings_rows.depth_rows(TwoTasks.from_lines(made, data), {k - 1: k / 10 for k in DEPTHS})
    assert [(row["k"], round(row["explained"], 2)) for row in rows] == [(k, k / 10) for k in DEPTHS]
    assert {row["k"] for row in rows if row["p_boxes"] < 0.05} == {2} and rows[0]["auroc"] == "60.0 [60.0, 60.0]"
    assert all(row["p_questions"] == 1 for row in rows)


def test_places_and_borders_of_targets():
    data = {task: list(own) for task, own in tasks("validation", range(40)).items()}
    made = {t: {w: lines([s.id for s in own], 1.0) for w in ("none", "divprune")} for t, own in data.items()}
    left = [float(s.box.x0 + s.box.x1 < s.width * 2 / 3) for s in data["boxes"]]
    made["boxes"]["divprune"] = lines([s.id for s in data["boxes"]], left)  # finds what is on the left
    both = TwoTasks.from_lines(made, data)
    kept = pd.DataFrame({"method": ["divprune"], "word": ["divprune"]})
    first, row = findings_rows.place_rows(kept, both, data["boxes"])
    found = {key.split(" (")[0]: value for key, value in row.items()}
    assert found["left"].startswith("100.0") and found["right"].startswith("0.0")
    assert 0 < interval(found["top"])[0] < 100
    counts = {key.split(" (")[0]: int(key.split("n = ")[1][:-1]) for key in first if "n = " in key}
    assert sum(counts[third] for third in ("left", "centre", "right")) == len(data["boxes"])
    borders = findings_rows.border_rows(kept, both, data["boxes"])
    assert borders[0]["what"] == "none (accuracy), all" and borders[0]["gap"].startswith("+0.0")


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


def test_as_many_tokens_at_random_as_a_part_has():
    layout = TokenLayout.tiled(1, 2, (2, 2), size=(128, 64), family="internvl", thumbnail=True)
    for method, n in ((AsManyAsTiles(keep=1.0), 8), (AsManyAsThumbnail(keep=1.0), 4)):
        kept = [method.select(TokenContext(layout, budget=12, seed=seed)).indices.tolist() for seed in range(20)]
        assert {len(tokens) for tokens in kept} == {n} and len({tuple(tokens) for tokens in kept}) > 5


@pytest.mark.parametrize("module", [findings_claims, findings_fit, gallery_pool, paired])
def test_examples_run(module):
    assert doctest.testmod(module).failed == 0


def test_orders_agree_where_the_methods_do():
    rng, images = np.random.default_rng(1), np.repeat(np.arange(200), 2)
    made = {f"m{k}": (rng.random(400) < 0.3 + 0.06 * k).astype(float) for k in range(8)}
    turned = {name: 1 - values for name, values in made.items()}
    pairs, share, low, high, reversed_ = findings_claims.order_agreement(made, images, made, images)
    assert 5 < pairs < 28 and (share, reversed_) == (1, 0) and 0.9 < low <= high == 1
    assert findings_claims.order_agreement(made, images, turned, images) == (pairs, 0, 0, 1 - low, pairs)
    same = dict.fromkeys(made, made["m0"])
    assert findings_claims.order_agreement(same, images, made, images)[0] == 0


def test_claims_of_two_models_stand_side_by_side():
    rng, images = np.random.default_rng(0), np.arange(300)
    good, bad = (rng.random(300) < 0.9).astype(float), (rng.random(300) < 0.3).astype(float)
    first = {
        "rows": findings_claims.paired_rows({"a": (good, bad), "b": (good, good)}, images), "images": images,
        "hits": {"x": good, "y": bad},
    }  # fmt: skip
    row = {f"{name}_{task}": value for task in TASKS for name, value in (("p", 0.001),)}
    row |= {"boxes_value": 0.3, "questions_value": -0.3}
    second = {
        "rows": {"a": row, "b": row | {"p_boxes": 0.5, "p_questions": 0.5}}, "images": dict.fromkeys(TASKS, images),
        "hits": {"boxes": {"x": good, "y": bad}, "questions": {"x": bad, "y": good}},
    }  # fmt: skip
    rows, orders = findings_claims.claims(first, second)
    assert [row["survives_boxes"] for row in rows] == ["yes", "not significant on either"]
    assert [row["survives_questions"] for row in rows] == ["no: reversed", "not significant on either"]
    assert [(order["pairs"], order["reversed"]) for order in orders] == [(1, 0), (1, 1)]


def test_what_is_taken_apart_costs_the_same():
    keeps = {0: 0.28, 1: 0.21, 2: 0.1}
    for with_, without in taken_apart(keeps).values():
        ways = {tuple(map(float, word.rsplit("@", 2)[1:])) for word in (with_, without)}
        assert all(keeps[layer] == keep for keep, layer in ways)
    assert list(chosen_pairs({"stagewise": "s", "divprune": "d"}).values()) == [("s", "d")]


def test_profiles_know_both_tasks_and_their_tilings(grounder, tmp_path):
    with pytest.raises(InputError, match="run the step fit first"):
        findings_fit.loaded(grounder, tmp_path)
    data = tasks("validation", range(20))
    kinds = type("Layout", (), {"tiles": (1, 1)})
    profile = type("Profile", (), {"name": "mean", "layouts_": {"a": kinds()}})
    with pytest.raises(InputError, match="the mean profile holds no image of 1 x 2, "):
        findings_fit.check_tilings(data, [profile()])


def test_the_committed_profiles_are_of_the_embedded_observer():
    folder = Path(__file__).parents[2] / "data" / "observer"
    profiles = findings_fit.loaded(bl.load("observer"), folder)
    findings_fit.check_tilings(tasks("test", range(200, 240)), profiles)
    assert [profile.provenance_["n"] >= 1200 for profile in profiles] == [True] * 4
    assert 0.02 < findings_fit.explained(profiles).min() < findings_fit.explained(profiles).max() < 0.5


def test_what_position_explains_is_that_of_the_positional_profile():
    table = pd.DataFrame({"layer": [0, 1], "r2": [0.1, 0.2]})
    made = [("mean", "mean", pd.DataFrame()), ("mean", 4, table * 2), ("lookahead", "mean", table * 3)]
    of = {"name": 0, "provenance_": 1, "variance_": 2}
    profiles = [
        type("Profile", (), {key: {"heads": one[k]} if key == "provenance_" else one[k] for key, k in of.items()})()
        for one in [*made, ("mean", "mean", table)]
    ]
    assert findings_fit.explained(profiles).to_dict() == {0: 0.1, 1: 0.2}
    with pytest.raises(InputError, match="fit it again"):
        findings_fit.explained(profiles[:3])


def test_a_failed_sample_is_told_not_counted(monkeypatch, tmp_path):
    broken = lines(["a", "b"], 0.0).assign(error=["out of memory", None])
    monkeypatch.setattr(findings, "hits", lambda *_, **__: {"divprune@0.1@0": broken})
    options = type("Options", (), {"runs": tmp_path})
    with pytest.raises(BiaslabError, match="1 samples failed under divprune@0.1@0, the first: out of memory"):
        findings.measured(None, dict.fromkeys(TASKS, []), [], options, "test")


@pytest.fixture
def steps(monkeypatch, grounder, tmp_path):
    """The steps, on hits that are made up from words: the grounder has never seen such images."""
    monkeypatch.setattr(fair, "COMBINED", {})
    monkeypatch.setattr(fair, "_why_not", lambda *_: None)
    monkeypatch.setattr(findings, "ALL_METHODS", FEW)
    monkeypatch.setattr(findings.bl, "load", lambda *_, **__: grounder)
    monkeypatch.setattr(findings, "check_tilings", lambda *_: None)
    made_of = {"hash": "one"}
    profile = type("Profile", (), {"hash": property(lambda _: made_of["hash"])})
    monkeypatch.setattr(findings, "loaded", lambda *_: [profile() for _ in findings_fit.PROFILES])
    monkeypatch.setattr(findings, "explained", lambda *_: dict.fromkeys(range(12), 0.5))

    def made(vlm, data, words, options, folder, **more):
        words = list(dict.fromkeys(["none", *words]))
        return {
            task: {w: lines([s.id for s in own], [float(w == "none" or chance(w, s.id)) for s in own]) for w in words}
            for task, own in data.items()
        }

    def chance(word, sample):
        return zlib.crc32(f"{word}{sample}".encode()) % 10 < (7 if word != FLOOR else 2)

    monkeypatch.setattr(findings, "measured", made)
    labels = [f"{method.name}@{layer}" for method in findings_methods.KEPT_PARTS for layer in (0, 4)]
    monkeypatch.setattr(findings, "parts", lambda vlm, data, options: made(vlm, data, labels, options, ""))

    def run(step, n):
        findings.main([step, "--images", str(n), "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
        return tmp_path

    run.made_of = made_of
    return run


@pytest.mark.slow
def test_what_is_chosen_on_validation_is_read_on_test(steps):
    folder = steps("choose", 6)
    choice = json.loads((folder / "runs" / "choice.json").read_text())
    table = pd.DataFrame(choice["candidates"])
    assert choice["settings"]["images"] == 6 and set(table["method"]) == set(FEW)
    for best, by in (("best", "kept"), ("best_boxes", "boxes"), ("best_questions", "questions")):
        assert (table[table[best]].groupby(["cost", "method"]).size() == 1).all()
        for _, own in table.groupby(["cost", "method"]):
            assert own.loc[own[best], by].item() == own[by].max()
    steps("test", 12)
    found = json.loads((folder / "out" / "findings.json").read_text())
    mild = table["cost"] == findings.MILD
    assert "d2pruner:alpha=1" in set(table.loc[mild, "method"])
    best = table[table["best"] & (~mild | table["method"].isin(findings_methods.SHOWN))]
    captions = [part["caption"] for part in found["tables"]]
    assert captions[: best["cost"].nunique()] == list(dict.fromkeys(best["cost"]))  # from the lowest cost up
    rows = [row for part in found["tables"] if part["caption"] in set(table["cost"]) for row in part["rows"]]
    alone = {(row["method"], row["place"]) for row in rows if "," not in row["method"]}
    assert alone == set(zip(best["method"], best["place"], strict=True))
    assert sum(row["method"] == "d2pruner, alpha = 1 for questions" for row in rows) == table["cost"].nunique() - 1
    text = (folder / "out" / "findings.md").read_text()
    assert "as-many-as-tiles, questions" in text and "one token (accuracy)" in text
    assert found["settings"]["weights"] == choice["settings"]["weights"]
    steps("unfamiliar", 4)
    again = json.loads((folder / "out" / "findings-unfamiliar.json").read_text())
    assert {"boxes, all", "boxes, both", "questions, style"} <= set(again["tables"][0]["rows"][0])
    assert "boxes minus DivPrune" in again["tables"][0]["rows"][2]
    steps.made_of["hash"] = "another"
    with pytest.raises(InputError, match="chosen for other profiles"):
        steps("test", 12)


def test_a_method_that_can_stand_nowhere_is_told(monkeypatch, grounder):
    data = tasks("validation", range(2))["boxes"]
    with pytest.raises(InputError, match=r"relative can stand nowhere: .*profile"):
        fair.candidates(grounder, data, [], methods=["divprune", "relative"], shares=(), before=(0.2,))
