"""Profiles asked both ways and as the task asks: each task meets its own, and differences have the right sign."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from benchmarks import findings_asked
from benchmarks.gallery_pool import TASKS
from biaslab.pruning import Relative

pytestmark = pytest.mark.slow


@pytest.fixture
def run(monkeypatch, grounder, tmp_path):
    """The report, on hits that are made up: a profile of its own helps boxes before layer 2, and nothing else."""
    met = []

    def measured(vlm, data, words, options, folder):
        ((task, samples),) = data.items()
        met.append((task, folder, [profile.name for profile in options.loaded]))
        rng = np.random.default_rng(0)
        draw = rng.random(len(samples))
        ids = [sample.id for sample in samples]
        better = {word: folder == "asked-own" and task == "boxes" and word.endswith("@2") for word in words}
        share = {"none": 1.0} | {word: 0.9 if better[word] else 0.4 for word in words}
        hits = {word: (draw < part).astype(float) for word, part in share.items()}
        return {
            task: {w: pd.DataFrame({"hit": h, "iou": 0.5, "target_auroc": 0.5}, index=ids) for w, h in hits.items()}
        }

    named = {task: SimpleNamespace(name=task) for task in TASKS}
    for name, value in {
        "measured": measured, "loaded": lambda *_: [SimpleNamespace(name="both")], "own_profiles": lambda *_: named,
        "explained": lambda profiles: pd.Series(
            {"both": 0.1, "boxes": 0.2, "questions": 0.3}[profiles[0].name], index=range(12)
        ),
        "chosen": lambda *_: (None, {0: 0.3, 1: 0.2, 2: 0.1}), "stamp_of": lambda *_: {"weights": "w"},
    }.items():  # fmt: skip
        monkeypatch.setattr(findings_asked, name, value)
    monkeypatch.setattr(findings_asked.bl, "load", lambda *_, **__: grounder)
    findings_asked.main(["--images", "20", "--runs", str(tmp_path), "--out", str(tmp_path)])
    return json.loads((tmp_path / "findings-asked.json").read_text()), met


def test_each_task_meets_its_own_profile(run):
    found, met = run
    assert met == [
        (task, folder, [task if folder == "asked-own" else "both"])
        for folder in ("test", "asked-own")
        for task in TASKS
    ]
    gains, depths, shares = (table["rows"] for table in found["tables"])
    assert [row["what"] for row in gains] == [f"`{m}`, K = {k}" for m in findings_asked.METHODS for k in (1, 2)]
    for row in gains:
        helped = row["what"].endswith("2")
        assert (row["p_boxes"] < 0.01) == helped and row["p_questions"] == 1
        assert row["boxes"].startswith("+0.0") != helped and not row["boxes"].startswith("-")
        assert row["questions_own"] == row["questions_both"]
    assert [row["k"] for row in depths] == list(findings_asked.DEPTHS)
    assert [(row["explained_both"], row["boxes_explained"]) for row in depths] == [(0.1, 0.2)] * len(depths)
    assert [row["k"] for row in depths if row["p_boxes"] < 0.01 and row["boxes"].startswith("+")] == [2]
    assert all(row["boxes_both"] == row["boxes_fastv"] and row["p_questions"] == 1 for row in depths)
    assert shares[0] == {"layer": 0, "both": 0.1, "boxes": 0.2, "questions": 0.3}


def test_profiles_are_fitted_once(grounder, tmp_path):
    first = findings_asked.own_profiles(grounder, tmp_path, 3)
    assert list(first) == list(TASKS) and first["boxes"].hash != first["questions"].hash
    assert Relative(profile=first["boxes"], keep=0.1).profile.provenance_["n"] == 3
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    findings_asked.own_profiles(grounder, tmp_path, 3)
    assert times == {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
